"""DreamDistribution (Zhao et al. 2023, arXiv 2312.14216): a word that stands for a distribution of prompts.

The word has several meanings, each a few learned rows. A prompt with it is encoded once per meaning. Mean and standard
deviation of what the encoder gives, number by number, are the distribution that the denoiser's prompts are drawn from.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.tokens import TokenAdapter, check_placeholder
from pcs_ext.image.adapters.vocabulary import Rows, vector_tokens
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.prompt_programs import Encode, add_program, remove_program
from pcs_ext.image.types import Conditioning


@config
class DistributionConfig:
    """The word's meanings; the defaults are the released code's."""

    kind: Literal["distribution"] = "distribution"
    """Tag of this adapter in JSON."""
    placeholder: str = "<subject>"
    """What prompts write."""
    meanings: int = 32
    """Prompts that the distribution is fitted to."""
    num_vectors: int = 4
    """Tokens the placeholder stands for."""
    spread: float = 1.0
    """Times the standard deviation: what is drawn is more or less diverse."""
    init_std: float = 0.02
    """Standard deviation of the starting rows."""
    init_seed: int = 0
    """Seed of those."""

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder, self.num_vectors)
        if self.meanings < 2 or self.spread < 0 or self.init_std <= 0:
            raise ConfigError(
                "a distribution needs at least 2 meanings, a spread of 0 or more and a positive init_std; got "
                f"{self.meanings}, {self.spread} and {self.init_std}."
            )


class DistributionRows(Rows):
    """Rows of each meaning, `meanings n d`; at scale 0 all are the mean of those they started from."""

    def __init__(self, start: Tensor) -> None:
        super().__init__(start.mean(0))
        self.weight = nn.Parameter(start.clone())
        self._now: Tensor | None = None

    def each(self) -> Tensor:
        """`meanings n d` at the present scale."""
        if self.scale == 1:
            return self.weight
        return torch.lerp(self.initial.expand_as(self.weight), self.weight, self.scale)

    def forward(self) -> Tensor:
        """`m n d` inside `reading`, else the mean over meanings."""
        return self.each().mean(0) if self._now is None else self._now

    @contextlib.contextmanager
    def reading(self, prompts: int) -> Iterator[None]:
        """Inside, `prompts` sequences of the first meaning are encoded, then as many of the second, and so on."""
        self._now = self.each().repeat_interleave(prompts, 0)
        try:
            yield
        finally:
            self._now = None


class DistributionAdapter(TokenAdapter):
    """State: `text_encoder.weight` (`meanings n d`) and `text_encoder.initial` (`n d`).

    Prompts with the word become conditioning with a deviation; who does not draw from it uses the mean.
    """

    recent: tuple[str, Tensor] | None = None
    """A prompt with the word that was encoded last, and its states in each meaning, `meanings tokens d`."""

    def __init__(self, name: str, config: DistributionConfig) -> None:
        super().__init__(name, vector_tokens(config.placeholder, config.num_vectors))
        self.config = config

    def inject(self, backbone: AbstractBackbone) -> None:
        super().inject(backbone)
        add_program(backbone, self._key, self._program)

    def eject(self) -> None:
        assert self._backbone is not None, f"adapter {self.name!r} is not injected"
        remove_program(self._backbone, self._key)
        self.recent = None
        super().eject()

    @property
    def _key(self) -> str:
        return f"distribution {self.name}"

    def _program(self, encode: Encode, prompts: Sequence[str], size: tuple[int, int] | None) -> Conditioning:
        plain = encode(prompts, size=size)
        rows = [index for index, prompt in enumerate(prompts) if self.tokens[0] in prompt]
        if not rows:
            return plain
        if plain.per_layer is not None:
            raise ConfigError(
                f"{self.tokens[0]} stands for a distribution of prompts, another word of the same prompts depends on "
                "layer or timestep; expected one of them. Write them in different prompts."
            )
        different = list(dict.fromkeys(prompts[row] for row in rows))
        each = self._encoded(encode, different, size)
        self.recent = different[-1], self._over_meanings(each.states)[:, -1]
        of_row = torch.tensor([different.index(prompts[row]) for row in rows], device=plain.states.device)
        at = (torch.tensor(rows, device=plain.states.device),)
        states = self._over_meanings(each.states)
        zeros = torch.zeros_like(plain.states)
        deviation = zeros.index_put(at, self.config.spread * states.std(0)[of_row])
        pooled = plain.pooled
        if pooled is not None and each.pooled is not None:
            pooled = pooled.index_put(at, self._over_meanings(each.pooled).mean(0)[of_row])
        if plain.deviation is not None:  # of another word's distribution: independent draws
            deviation = (deviation.square() + plain.deviation.square()).sqrt()
        return Conditioning(
            states=plain.states.index_put(at, states.mean(0)[of_row]),
            pooled=pooled,
            time_ids=plain.time_ids,
            deviation=deviation,
        )

    def _encoded(self, encode: Encode, prompts: list[str], size: tuple[int, int] | None) -> Conditioning:
        """All prompts in the first meaning, then in the second, and so on."""
        with contextlib.ExitStack() as stack:
            for rows in self.rows():
                assert isinstance(rows, DistributionRows)
                stack.enter_context(rows.reading(len(prompts)))
            return encode(prompts * self.config.meanings, size=size)

    def _over_meanings(self, values: Tensor) -> Tensor:
        return values.unflatten(0, (self.config.meanings, -1))

    def _build(self, backbone: AbstractBackbone, initial: Sequence[Tensor]) -> list[Rows]:
        generator = torch.Generator().manual_seed(self.config.init_seed)
        shape = self.config.meanings, self.config.num_vectors
        draws = [torch.randn(*shape, rows.shape[-1], generator=generator) for rows in initial]
        return [DistributionRows(self.config.init_std * draw) for draw in draws]

    def _initial(self, encoder: nn.Module, tokenizer: Any) -> Tensor:
        # `_build` asks for the width alone: each meaning has a start of its own.
        return torch.zeros(self.config.num_vectors, int(encoder.config.hidden_size))  # type: ignore[union-attr]
