"""Learned tokens (Textual Inversion, Gal et al. 2022, arXiv 2208.01618): new rows of the token table, nothing else."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.layers import original
from pcs_ext.image.adapters.tokens import TokenAdapter, check_placeholder, initial_rows
from pcs_ext.image.adapters.vocabulary import Rows, SubspaceRows, TokenRows, vector_tokens
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
    through_encoder: bool = False
    """Start at the text encoder's states of the initializer's words, averaged, instead of at their rows: learned rows
    look more like its output than like its input (Cross Initialization, Pang et al. 2023, arXiv 2312.15905)."""
    subspace: int = 0
    """Train so many coordinates instead of whole rows: along the first principal directions of the token table, each as
    long as the table's standard deviation there, so that unit normal coordinates draw rows like the table's (Gradient-
    free Textual Inversion, Fei et al. 2023, arXiv 2304.05818). At most the rows' width counts; 0: whole rows."""

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder, self.num_vectors)
        if self.through_encoder and self.initializer == "random":
            raise ConfigError("through_encoder starts at words; give an initializer other than 'random'.")
        if self.init_std <= 0 or self.init_noise < 0:
            raise ConfigError(
                f"init_std must be positive and init_noise not negative, got {self.init_std} and {self.init_noise}."
            )
        if self.subspace < 0:
            raise ConfigError(f"subspace must be a number of directions, or 0 for whole rows, got {self.subspace}.")


class EmbeddingAdapter(TokenAdapter):
    """New rows in the token table of each text encoder; state: `text_encoder.weight` and `text_encoder.initial`."""

    def __init__(self, name: str, config: EmbeddingConfig) -> None:
        super().__init__(name, vector_tokens(config.placeholder, config.num_vectors))
        self.config = config

    def _build(self, backbone: AbstractBackbone, initial: Sequence[Tensor]) -> list[Rows]:
        if self.config.subspace == 0:
            return [TokenRows(rows) for rows in initial]
        tables = [original(encoder.get_input_embeddings()).weight for encoder in backbone.text_encoders]
        return [
            SubspaceRows(rows, principal_directions(table, self.config.subspace))  # type: ignore[arg-type]
            for rows, table in zip(initial, tables, strict=True)
        ]

    def _initial(self, encoder: nn.Module, tokenizer: Any) -> Tensor:
        config = self.config
        noise = config.init_std if config.initializer == "random" else config.init_noise
        rows = initial_rows(
            encoder, tokenizer, config.initializer, count=config.num_vectors, noise=noise, seed=config.init_seed
        )
        return rows if not config.through_encoder else _encoded(encoder, tokenizer, config.initializer).expand_as(rows)


@torch.no_grad()
def principal_directions(table: Tensor, count: int) -> Tensor:
    """The first principal directions of a table's rows `m d`, each as long as the standard deviation along it.

    Returns:
        `min(count, d) d`, float32, on the CPU; the largest first.
    """
    rows = table.detach().cpu().double()
    centred = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / (len(rows) - 1))
    kept = values.argsort(descending=True)[:count]
    return (vectors[:, kept] * values[kept].clamp_min(0).sqrt()).T.float().contiguous()


@torch.no_grad()
def _encoded(encoder: nn.Module, tokenizer: Any, text: str) -> Tensor:
    """The mean of the encoder's last states at the words of a text, `1 d`, float32, on the CPU."""
    ids = tokenizer(text, return_tensors="pt").input_ids.to(next(encoder.parameters()).device)
    states = encoder(ids).last_hidden_state[0, 1:-1]
    return states.float().mean(0, keepdim=True).cpu()
