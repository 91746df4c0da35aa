"""What adapters with new words have in common: the words enter tokenizers and token tables and leave them again."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.layers import check_name, check_state, original, to_storage
from pcs_ext.image.adapters.vocabulary import Rows, extend_encoder, restore_encoder, with_group, without_group
from pcs_ext.image.backbone import AbstractBackbone


class TokenAdapter(AbstractAdapter, abc.ABC):
    """New words in every text encoder of the backbone. Prompts without them are encoded exactly as before.

    Args:
        name: of the adapter.
        tokens: all tokens of the placeholder; the first is what prompts write.
    """

    def __init__(self, name: str, tokens: tuple[str, ...]) -> None:
        self.name = check_name(name)
        self.tokens = tokens
        self._rows: list[Rows] = []
        self._backbone: AbstractBackbone | None = None
        self._pending: dict[str, Tensor] | None = None
        self._scale = 1.0

    @abc.abstractmethod
    def _build(self, backbone: AbstractBackbone, initial: Sequence[Tensor]) -> list[Rows]:
        """The rows of each text encoder, starting at `initial`, `n d` each."""

    @abc.abstractmethod
    def _initial(self, encoder: nn.Module, tokenizer: Any) -> Tensor:
        """Starting rows `n d`, float32, of one text encoder."""

    def inject(self, backbone: AbstractBackbone) -> None:
        """Extend tokenizers and token tables.

        Raises:
            UsageError: the placeholder is a word of the model, or of another adapter.
            ConfigError: the initializer is not text the model can read.
            ArtifactError: loaded tensors do not fit this backbone.
        """
        assert self._backbone is None, f"adapter {self.name!r} is injected already"
        tokenizers = tuple(with_group(tokenizer, self.name, self.tokens) for tokenizer in backbone.tokenizers)
        if not self._rows:
            pairs = zip(backbone.text_encoders, tokenizers, strict=True)
            rows = self._build(backbone, [self._initial(encoder, tokenizer.base) for encoder, tokenizer in pairs])
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
        return {"embedding": tuple(parameter for rows in self._rows for parameter in rows.parameters())}

    def rows(self) -> tuple[Rows, ...]:
        """Of each text encoder, in the backbone's order; none before the first injection."""
        return tuple(self._rows)

    def state_dict(self) -> dict[str, Tensor]:
        """`text_encoder.<tensor>`, likewise `text_encoder_2`."""
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


def check_placeholder(placeholder: str, num_vectors: int) -> None:
    """What configurations of new words check.

    Raises:
        ConfigError: the placeholder has blanks, or there are too many vectors.
    """
    if not placeholder or any(char.isspace() for char in placeholder):
        raise ConfigError(f"placeholder {placeholder!r} must be one word without blanks, like <my-dog>.")
    if not 1 <= num_vectors <= 64:
        raise ConfigError(f"num_vectors must be 1 to 64, got {num_vectors}.")


def initial_rows(
    encoder: nn.Module, tokenizer: Any, initializer: str, *, count: int, noise: float, seed: int
) -> Tensor:
    """Starting rows `count d`, float32, on the CPU.

    Args:
        encoder, tokenizer: of the base.
        initializer: text whose token rows are averaged, or "random" for zeros.
        count: how many.
        noise: standard deviation of the normal numbers added.
        seed: of those.

    Raises:
        ConfigError: the initializer holds no word.
    """
    table = original(encoder.get_input_embeddings()).weight  # type: ignore[operator]
    assert isinstance(table, Tensor)
    drawn = torch.randn(count, table.shape[1], generator=torch.Generator().manual_seed(seed))
    if initializer == "random":
        return noise * drawn
    ids = tokenizer(initializer, add_special_tokens=False).input_ids
    if not ids:
        raise ConfigError(f"initializer {initializer!r} holds no word; give the class noun or 'random'.")
    return table.detach()[ids].float().cpu().mean(dim=0) + noise * drawn


def _tensors(rows: Sequence[Rows]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": tensor
        for name, group in zip(_encoders(rows), rows, strict=True)
        for key, tensor in group.tensors().items()
    }


def _encoders(rows: Sequence[Rows]) -> list[str]:
    return ["text_encoder"] + [f"text_encoder_{index}" for index in range(2, len(rows) + 1)]


def _load(name: str, rows: Sequence[Rows], state: Mapping[str, Tensor]) -> None:
    check_state(name, _tensors(rows), state)
    for encoder, group in zip(_encoders(rows), rows, strict=True):
        group.load({key: state[f"{encoder}.{key}"] for key in group.tensors()})
