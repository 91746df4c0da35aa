"""Learned tokens (Textual Inversion, Gal et al. 2022, arXiv 2208.01618): new rows of the token table, nothing else."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.layers import check_name, check_state, copy_into, original, to_storage
from pcs_ext.image.adapters.vocabulary import (
    TokenRows,
    extend_encoder,
    restore_encoder,
    vector_tokens,
    with_group,
    without_group,
)
from pcs_ext.image.backbone import AbstractBackbone


@config
class EmbeddingConfig:
    """Learned tokens for one placeholder, in every text encoder of the backbone."""

    kind: Literal["embedding"] = "embedding"
    """Tag of this adapter in JSON."""
    placeholder: str = "<subject>"
    """What prompts write; matched as typed. No blanks; the model must not know it as one word already."""
    num_vectors: int = 1
    """Tokens the placeholder stands for, 1 to 64. The prompt holds 75 in all."""
    initializer: str = "random"
    """Text whose token rows are averaged to start from (the class noun: "dog"), or "random"."""
    init_std: float = 0.015
    """Standard deviation of the rows when random; rows of CLIP's tables have 0.013 to 0.017."""
    init_noise: float = 0.0
    """Standard deviation added to rows that start from a word; with several vectors it makes them differ."""
    init_seed: int = 0
    """Seed of both."""

    def __post_init__(self) -> None:
        if not self.placeholder or any(char.isspace() for char in self.placeholder):
            raise ConfigError(f"placeholder {self.placeholder!r} must be one word without blanks, like <my-dog>.")
        if not 1 <= self.num_vectors <= 64:
            raise ConfigError(f"num_vectors must be 1 to 64, got {self.num_vectors}.")
        if self.init_std <= 0 or self.init_noise < 0:
            raise ConfigError(
                f"init_std must be positive and init_noise not negative, got {self.init_std} and {self.init_noise}."
            )


class EmbeddingAdapter(AbstractAdapter):
    """New rows in the token table of each text encoder."""

    def __init__(self, name: str, config: EmbeddingConfig) -> None:
        self.name = check_name(name)
        self.config = config
        self._rows: list[TokenRows] = []
        self._backbone: AbstractBackbone | None = None
        self._pending: dict[str, Tensor] | None = None
        self._scale = 1.0

    @property
    def tokens(self) -> tuple[str, ...]:
        """All tokens of the placeholder."""
        return vector_tokens(self.config.placeholder, self.config.num_vectors)

    def inject(self, backbone: AbstractBackbone) -> None:
        """Extend tokenizers and token tables. Prompts without the placeholder are encoded exactly as before.

        Raises:
            UsageError: the placeholder is a word of the model, or of another adapter.
            ConfigError: the initializer is not text the model can read.
            ArtifactError: loaded tensors do not fit this backbone.
        """
        assert self._backbone is None, f"adapter {self.name!r} is injected already"
        tokenizers = tuple(with_group(tokenizer, self.name, self.tokens) for tokenizer in backbone.tokenizers)
        if not self._rows:
            pairs = zip(backbone.text_encoders, tokenizers, strict=True)
            rows = [TokenRows(self._initial(encoder, tokenizer.base)) for encoder, tokenizer in pairs]
            if self._pending is not None:
                _load(self.name, rows, self._pending)
            self._rows, self._pending = rows, None
        for encoder, tokenizer, rows in zip(backbone.text_encoders, tokenizers, self._rows, strict=True):
            rows.scale = self._scale
            extend_encoder(encoder, tokenizer, self.name, rows)
        backbone.tokenizers = tokenizers
        self._backbone = backbone

    def eject(self) -> None:
        assert self._backbone is not None, f"adapter {self.name!r} is not injected"
        for encoder in self._backbone.text_encoders:
            restore_encoder(encoder, self.name)
        self._backbone.tokenizers = tuple(without_group(tok, self.name) for tok in self._backbone.tokenizers)
        self._backbone = None

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        assert self._rows, f"adapter {self.name!r} has no parameters before it is injected"
        return {"embedding": tuple(rows.weight for rows in self._rows)}

    def state_dict(self) -> dict[str, Tensor]:
        """`text_encoder.weight` and `text_encoder.initial`, `n d` each; likewise `text_encoder_2`."""
        if self._pending is not None:
            return dict(self._pending)
        return {key: to_storage(tensor) for key, tensor in _tensors(self._rows).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if self._rows:
            _load(self.name, self._rows, state)
        else:
            self._pending = {key: to_storage(tensor) for key, tensor in state.items()}

    def set_scale(self, scale: float) -> None:
        """1 as trained; 0 the rows the tokens started from (without the adapter the placeholder is no word at all)."""
        self._scale = scale
        for rows in self._rows:
            rows.scale = scale

    def _initial(self, encoder: nn.Module, tokenizer: Any) -> Tensor:
        """Starting rows `n d`, float32."""
        table = original(encoder.get_input_embeddings()).weight  # type: ignore[operator]
        assert isinstance(table, Tensor)
        generator = torch.Generator().manual_seed(self.config.init_seed)
        noise = torch.randn(self.config.num_vectors, table.shape[1], generator=generator)
        if self.config.initializer == "random":
            return self.config.init_std * noise
        ids = tokenizer(self.config.initializer, add_special_tokens=False).input_ids
        if not ids:
            raise ConfigError(
                f"initializer {self.config.initializer!r} holds no word; give the class noun or 'random'."
            )
        mean = table.detach()[ids].float().cpu().mean(dim=0)
        return mean + self.config.init_noise * noise


def _tensors(rows: list[TokenRows]) -> dict[str, Tensor]:
    names = ["text_encoder"] + [f"text_encoder_{index}" for index in range(2, len(rows) + 1)]
    return {
        f"{name}.{key}": tensor
        for name, group in zip(names, rows, strict=True)
        for key, tensor in (("weight", group.weight), ("initial", group.initial))
    }


def _load(name: str, rows: list[TokenRows], state: Mapping[str, Tensor]) -> None:
    tensors = _tensors(rows)
    check_state(name, tensors, state)
    copy_into(tensors, state)
