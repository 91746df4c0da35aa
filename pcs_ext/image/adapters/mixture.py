"""Words that are mixtures of known words (CusConcept, Xu et al. 2024, arXiv 2410.00398)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.layers import original
from pcs_ext.image.adapters.tokens import TokenAdapter, check_placeholder, initial_rows
from pcs_ext.image.adapters.vocabulary import Rows
from pcs_ext.image.backbone import AbstractBackbone


@config
class MixtureConfig:
    """A learned word: the weighted sum of a vocabulary's rows, of the length that rows have, plus half an offset."""

    kind: Literal["mixture"] = "mixture"
    """Tag of this adapter in JSON."""
    placeholder: str
    """What prompts write."""
    words: tuple[str, ...]
    """The vocabulary; words of several tokens count as their mean."""
    take: int = 10
    """Words with the largest weights that count; the released code's for attributes, 50 for objects."""
    width: int = 512
    """Hidden units of the network that gives a word's weight; the released code's."""
    init_seed: int = 0
    """Seed of the network."""

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder, 1)
        if len(set(self.words)) < 2 or min(self.take, self.width) < 1:
            raise ConfigError(
                f"a mixture needs two or more different words, take and width of 1 or more; got "
                f"{len(set(self.words))} words, {self.take} and {self.width}."
            )


class MixtureRows(Rows):
    """norm * unit(sum of the `take` largest weights w_i times e_i) + offset / 2, with w_i = sigmoid(network(e_i)).

    Args:
        initial: the row at scale 0, `1 d`.
        vocabulary: e, `v d`.
        norm: the mean length of the table's rows.
        config: sizes.
    """

    def __init__(self, initial: Tensor, vocabulary: Tensor, norm: float, config: MixtureConfig) -> None:
        super().__init__(initial)
        self.take, self.norm = min(config.take, len(vocabulary)), norm
        self.register_buffer("vocabulary", vocabulary.clone())
        self.vocabulary: Tensor
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.init_seed)
            self.network = nn.Sequential(
                nn.Linear(vocabulary.shape[1], config.width), nn.ReLU(), nn.Linear(config.width, 1, bias=False)
            )
        self.offset = nn.Parameter(torch.zeros_like(initial))

    def weights(self) -> Tensor:
        """Of the words, `v` in (0, 1)."""
        return torch.sigmoid(self.network(self.vocabulary)[:, 0])

    def forward(self) -> Tensor:
        """Row `1 d`, float32."""
        largest = self.weights().topk(self.take)
        mixed = largest.values @ self.vocabulary[largest.indices]
        row = self.norm * nn.functional.normalize(mixed, dim=-1) + self.offset / 2
        return row if self.scale == 1 else torch.lerp(self.initial, row, self.scale)


class MixtureAdapter(TokenAdapter):
    """Groups: `embedding`, the network, and `offset`; state: those, the vocabulary's rows and the starting row.

    Differs from the paper: its second stage averages the mixture and a free row that begins there and is held to it;
    here their difference is learned, which is the same average and the same hold.
    """

    def __init__(self, name: str, config: MixtureConfig) -> None:
        super().__init__(name, (config.placeholder,))
        self.config = config

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        """By group."""
        assert self._rows, f"adapter {self.name!r} has no parameters before it is injected"
        rows = [rows for rows in self._rows if isinstance(rows, MixtureRows)]
        return {
            "embedding": tuple(parameter for own in rows for parameter in own.network.parameters()),
            "offset": tuple(own.offset for own in rows),
        }

    def offsets(self) -> Tensor:
        """Of all text encoders, side by side, `d`."""
        return torch.cat([rows.offset[0] for rows in self._rows if isinstance(rows, MixtureRows)])

    def explained(self) -> list[tuple[str, float]]:
        """The words that count in the first text encoder and their weights, the largest first."""
        rows = self._rows[0]
        assert isinstance(rows, MixtureRows)
        largest = rows.weights().detach().topk(rows.take)
        words = [self.config.words[index] for index in largest.indices.tolist()]
        return list(zip(words, largest.values.tolist(), strict=True))

    def _build(self, backbone: AbstractBackbone, initial: Sequence[Tensor]) -> list[Rows]:
        built: list[Rows] = []
        for encoder, tokenizer, start in zip(backbone.text_encoders, backbone.tokenizers, initial, strict=True):
            table = original(encoder.get_input_embeddings()).weight.detach().float()  # type: ignore[union-attr, operator]
            rows = [initial_rows(encoder, tokenizer, word, count=1, noise=0, seed=0) for word in self.config.words]
            built.append(MixtureRows(start, torch.cat(rows), float(table.norm(dim=-1).mean()), self.config))
        return built

    def _initial(self, encoder: nn.Module, tokenizer: Any) -> Tensor:
        rows = [initial_rows(encoder, tokenizer, word, count=1, noise=0, seed=0) for word in self.config.words]
        return torch.cat(rows).mean(0, keepdim=True)
