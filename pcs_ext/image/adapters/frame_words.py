"""A learned token that means something else in every frame of a clip: textual inversion inflated along time."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.adapters.spectrum import SpectralRows
from pcs_ext.image.adapters.tokens import TokenAdapter, check_placeholder, initial_rows
from pcs_ext.image.adapters.vocabulary import Rows, vector_tokens
from pcs_ext.image.backbone import AbstractBackbone


@config
class FrameWordConfig:
    """Learned tokens for one placeholder, with rows of their own for every frame."""

    kind: Literal["frame_words"] = "frame_words"
    """Tag of this adapter in JSON."""
    placeholder: str = "<motion>"
    """What prompts write."""
    frames: int = 16
    """Of a clip."""
    num_vectors: int = 1
    """Tokens the placeholder stands for."""
    initializer: str = "random"
    """Text whose token rows are averaged to start from, or "random": the same in all frames."""
    init_std: float = 0.015
    """Standard deviation of the rows when random."""
    init_seed: int = 0
    """Seed of those."""

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder, self.num_vectors)
        if self.frames < 1 or self.init_std <= 0:
            raise ConfigError(
                f"frames must be at least 1 and init_std positive, got {self.frames} and {self.init_std}."
            )


class FrameRows(SpectralRows):
    """Rows by frame: `weight` is `frames n d`."""

    def __init__(self, initial: Tensor, frames: int) -> None:
        super().__init__(initial)
        self.weight = nn.Parameter(initial.detach().clone().expand(frames, -1, -1).clone())

    def by_frame(self) -> Tensor:
        """`frames n d` at the present scale."""
        return (
            self.weight if self.scale == 1 else torch.lerp(self.initial.expand_as(self.weight), self.weight, self.scale)
        )

    def typical(self) -> Tensor:
        return self.by_frame().mean(0)


class FrameWordAdapter(TokenAdapter):
    """Rows of the token table by frame; state: `text_encoder.weight` (`frames n d`) and `text_encoder.initial`.

    Outside `reading_frames` prompts read the mean over frames.
    """

    def __init__(self, name: str, config: FrameWordConfig) -> None:
        super().__init__(name, vector_tokens(config.placeholder, config.num_vectors))
        self.config = config

    @contextlib.contextmanager
    def reading_frames(self, frames: int) -> Iterator[None]:
        """Inside, exactly `frames` prompts are encoded at once, and prompt i reads the rows of frame i.

        Raises:
            UsageError: more frames than there are rows for.
        """
        if frames > self.config.frames:
            raise UsageError(
                f"{self.config.placeholder} was learned for {self.config.frames} frames, got a clip of {frames}; take "
                f"--frames {self.config.frames} or fewer."
            )
        with contextlib.ExitStack() as stack:
            for rows in self.rows():
                assert isinstance(rows, FrameRows)
                stack.enter_context(rows.reading(rows.by_frame()[:frames]))
            yield

    def _build(self, backbone: AbstractBackbone, initial: Sequence[Tensor]) -> list[Rows]:
        return [FrameRows(rows, self.config.frames) for rows in initial]

    def _initial(self, encoder: nn.Module, tokenizer: Any) -> Tensor:
        config = self.config
        noise = config.init_std if config.initializer == "random" else 0.0
        return initial_rows(
            encoder, tokenizer, config.initializer, count=config.num_vectors, noise=noise, seed=config.init_seed
        )
