"""Test-time training (CustomTTT, Bi et al. 2024, arXiv 2412.15646): a subject and a motion are tuned to each other."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import AbstractAdapter
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.flow import FlowSchedule
from pcs_ext.image.types import Conditioning, LossTerms, ParameterGroup
from pcs_ext.reporter import Reporter
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.objectives import residuals


@config
class AlignmentConfig:
    """How long and how hard; all values are ours, the paper's were not found."""

    steps: int = 30
    """Optimiser steps before each clip; 0 leaves both as they are."""
    learning_rate: float = 1e-4
    """Of the layers of both."""
    appearance: float = 1.0
    """Weight of the subject as a teacher."""
    motion: float = 1.0
    """Weight of the motion as a teacher."""

    def __post_init__(self) -> None:
        if self.steps < 0 or self.learning_rate <= 0:
            raise ConfigError(
                f"steps must be 0 or more and learning_rate positive, got {self.steps} and {self.learning_rate}."
            )


def alignment_losses(both: Tensor, subject: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """What the combined model owes its two teachers: `(appearance, motion)`, 0-d each.

    A clip is its mean over frames and the differences of neighbouring frames. The subject alone teaches the mean, the
    motion alone the differences; they never contradict: `motion - mean(motion) + mean(subject)` costs nothing. That
    single-concept models are the teachers is the paper's; the losses are ours.

    Args:
        both, subject, motion: predictions on the same noisy latents, `b c f h w`; the teachers get no gradient.
    """
    ours, looks, moves = both.float(), subject.detach().float(), motion.detach().float()
    appearance = (ours.mean(2) - looks.mean(2)).square().mean()
    return appearance, (residuals(ours) - residuals(moves)).square().mean()


@dataclasses.dataclass(frozen=True)
class Pair:
    """A subject and a motion in one backbone."""

    backbone: AbstractVideoBackbone
    subject: Sequence[AbstractAdapter]
    motion: Sequence[AbstractAdapter]
    scales: tuple[float, float] = (1.0, 1.0)
    """Strengths of subject and motion."""

    def set(self, *, subject: bool, motion: bool) -> None:
        """Which of them are there."""
        for adapters, scale, there in ((self.subject, self.scales[0], subject), (self.motion, self.scales[1], motion)):
            for adapter in adapters:
                adapter.set_scale(scale if there else 0.0)

    def layers(self) -> list[nn.Parameter]:
        """What is tuned: weights of layers, no words."""
        return [
            parameter
            for adapter in (*self.subject, *self.motion)
            for group, parameters in adapter.parameters().items()
            for parameter in parameters
            if group in ("denoiser", "motion")
        ]


@contextlib.contextmanager
@torch.no_grad()
def _holding(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the parameters have other values."""
    own = [parameter.detach().clone() for parameter in parameters]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, own, strict=True):
                parameter.copy_(value)


class AlignmentLoss:
    """The loss of one step on a noised clip, as `fit` wants it.

    The teachers are subject and motion as they are when the loss is built, whatever is tuned afterwards.

    Args:
        pair: in its backbone.
        config: weights.
        latents: a clip of the two together, `1 c f h w`.
        text: what it shows, with the subject's words.
        plain: the same with the subject's noun, for the motion alone.
    """

    def __init__(self, pair: Pair, config: AlignmentConfig, latents: Tensor, text: str, plain: str) -> None:
        self.pair, self.config, self.latents = pair, config, latents
        self.learned = [parameter.detach().clone() for parameter in pair.layers()]
        with torch.no_grad():
            self.text: Conditioning = pair.backbone.encode_prompt([text])
            pair.set(subject=False, motion=True)
            self.plain: Conditioning = pair.backbone.encode_prompt([plain])
            pair.set(subject=True, motion=True)

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Terms `appearance` and `motion`; everything random comes from `generator`."""
        backbone, schedule = self.pair.backbone, self.pair.backbone.schedule
        noise = torch.randn(self.latents.shape, generator=generator).to(self.latents)
        timesteps = schedule.draw_timesteps(1, generator).to(self.latents.device)
        noisy = schedule.add_noise(self.latents, noise, timesteps)
        with _holding(self.pair.layers(), self.learned), torch.no_grad():
            self.pair.set(subject=True, motion=False)
            looks = backbone.predict(noisy, timesteps, self.text)
            self.pair.set(subject=False, motion=True)
            moves = backbone.predict(noisy, timesteps, self.plain)
        self.pair.set(subject=True, motion=True)
        appearance, motion = alignment_losses(backbone.predict(noisy, timesteps, self.text), looks, moves)
        return LossTerms({"appearance": self.config.appearance * appearance, "motion": self.config.motion * motion})


@contextlib.contextmanager
def aligned(
    pair: Pair,
    config: AlignmentConfig,
    latents: Tensor,
    *,
    text: str,
    plain: str,
    seed: int,
    reporter: Reporter,
) -> Iterator[list[float]]:
    """Inside, subject and motion are tuned to each other for one prompt; afterwards they are as they were, bit for bit.

    Args:
        pair: in its backbone.
        config: how long.
        latents: clean latents of a clip of the two together, `1 c f h w`.
        text: the prompt with the subject's words.
        plain: the prompt with the subject's noun.
        seed: of noises and timesteps.
        reporter: hears the progress.

    Yields:
        The loss of every step.
    """
    parameters = pair.layers()
    if config.steps == 0 or not parameters:
        yield []
        return
    loss = AlignmentLoss(pair, config, latents.detach(), text, plain)
    losses: list[float] = []
    try:
        with torch.enable_grad(), _training(parameters):
            group = ParameterGroup(name="layers", parameters=tuple(parameters), learning_rate=config.learning_rate)
            for state in fit(loss, [group], FitConfig(steps=config.steps, seed=seed)):
                losses.append(state.losses["total"])
                reporter.progress("align", state.step, state.total_steps, loss=losses[-1])
        yield losses
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, loss.learned, strict=True):
                parameter.copy_(value)
        pair.set(subject=True, motion=True)


@contextlib.contextmanager
def _training(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Inside, the parameters get gradients."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None


def can_align(backbone: AbstractVideoBackbone) -> bool:
    """Whether the backbone tells appearance from motion in its predictions: not where time is inside the latents."""
    return backbone.time_factor == 1 and not isinstance(backbone.schedule, FlowSchedule)
