"""StyleAligned: pictures of one batch take their style from the first, because they attend to it.

Hertz et al. 2023, arXiv 2312.02133; the numbers are the released code's.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.attention import AttentionProgram, attention_program, self_attention_paths
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.inversion import invert
from pcs_ext.image.recipes import Preset
from pcs_ext.image.sample import SampleConfig, SampleHooks, initial_noise, sample
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import seed_for

_EPS = 1e-5


@config
class StyleAlignedConfig:
    """How far the first picture of a batch is shared with the others."""

    id: str
    """Key in `EDITS`."""
    sampling: SampleConfig
    """Scheduler ddim, which can be run backwards from a reference picture."""
    attend: bool = True
    """Queries, in self-attention, also see the first picture's keys and values."""
    normalise: bool = True
    """Queries and keys take the first picture's mean and spread per channel (AdaIN)."""
    group_norm: bool = True
    """Group normalisation counts the first picture's features in."""
    reference_shift: float = 0.6931471805599453
    """Added to the scores of the first picture's keys where it is a given picture: log 2 doubles its share. 0 for
    pictures that the base knows by heart."""
    reference_scale: float = 1.0
    """Times the first picture's keys as others see them, where it is a given picture."""
    inversion_guidance: float = 2.0
    """Guidance of the given picture's inversion."""
    lead: int = 5
    """Steps by which the given picture is ahead at the beginning: it starts that much less noisy."""

    def __post_init__(self) -> None:
        if self.sampling.scheduler != "ddim":
            raise ConfigError(
                f"StyleAligned inverts references with DDIM; expected scheduler 'ddim', got "
                f"{self.sampling.scheduler!r}."
            )
        if not (self.lead >= 0 and self.inversion_guidance >= 1 and self.reference_scale >= 0):
            raise ConfigError(
                f"lead {self.lead}, inversion_guidance {self.inversion_guidance} or reference_scale "
                f"{self.reference_scale} is out of range; expected 0 or more, 1 or more, and 0 or more."
            )


def style_aligned(preset: Preset) -> StyleAlignedConfig:
    """Everything shared; 50 steps, guidance 10 (the released code's for given pictures)."""
    small = preset == "toybox"
    sampling = SampleConfig(
        scheduler="ddim", num_inference_steps=25 if small else 50, guidance_scale=5.0 if small else 10.0
    )
    return StyleAlignedConfig(id="style-aligned", sampling=sampling, lead=2 if small else 5)


@dataclasses.dataclass(frozen=True)
class Reference:
    """A given picture whose style is taken."""

    picture: Tensor
    """`1 3 h w` in [-1, 1], of the size of what is sampled."""
    prompt: str
    """Describes it, its style too."""


@torch.no_grad()
def sample_aligned(
    backbone: AbstractBackbone,
    prompts: Sequence[str],
    *,
    seed: int,
    config: StyleAlignedConfig,
    reference: Reference | None = None,
    negative_prompt: str = "",
    reporter: Reporter | None = None,
) -> Tensor:
    """One picture per prompt in one style, `n 3 h w` in [-1, 1], float32 on the CPU.

    Without a reference the first prompt's picture gives the style, and is what plain sampling makes of it, up to
    rounding. All are sampled in one batch.

    Args:
        backbone: with adapters already injected.
        prompts: `n` texts; the style is best named in all of them.
        seed: of all the noise.
        config: how.
        reference: a picture to take the style from; it is not among the results.
        negative_prompt: what to stay away from.
        reporter: hears the progress.

    Raises:
        UsageError: no prompt, or one alone and no reference; a lead as long as the sampling.
    """
    if not prompts or (len(prompts) < 2 and reference is None):
        raise UsageError(f"a shared style needs two prompts or more, or one and a reference; got {len(prompts)}.")
    if reference is not None and config.lead >= config.sampling.num_inference_steps:
        raise UsageError(f"lead {config.lead} must be less than the {config.sampling.num_inference_steps} steps.")
    texts = list(prompts) if reference is None else [reference.prompt, *prompts]
    seeds = [seed] + [seed_for(seed, "style", index) for index in range(1, len(texts))]
    count, guided = len(texts), config.sampling.guidance_scale != 1.0
    hooks = SampleHooks(attention=lambda: shared(backbone, config, count, guided=guided, given=reference is not None))
    if reference is not None:
        latents = backbone.encode_images(reference.picture.to(backbone.device, backbone.dtype)).float()
        inverting = dataclasses.replace(config.sampling, guidance_scale=config.inversion_guidance)
        states = invert(backbone, latents, [reference.prompt], config=inverting, reporter=reporter)[::-1]
        noise = initial_noise(backbone, seeds, config.sampling).to(latents)
        hooks = dataclasses.replace(
            hooks,
            initial_latents=torch.cat([states[config.lead], noise[1:]]),
            on_step=_OnCourse(states, config.lead),
        )
    images = sample(
        backbone, texts, seeds=seeds, config=config.sampling, negative_prompts=[negative_prompt] * count,
        batch_size=count, hooks=hooks, reporter=reporter,
    )  # fmt: skip
    return images if reference is None else images[1:]


class _OnCourse:
    """After every step the first row is on the given picture's inverted course, `lead` steps ahead at first."""

    def __init__(self, states: Sequence[Tensor], lead: int) -> None:
        self.states, self.lead = states, lead

    def __call__(self, step: int, timestep: Tensor, latents: Tensor) -> Tensor:
        return torch.cat([self.states[max(self.lead, step) + 1], latents[1:]])


@contextlib.contextmanager
def shared(
    backbone: AbstractBackbone, config: StyleAlignedConfig, count: int, *, guided: bool, given: bool
) -> Iterator[None]:
    """Inside, `count` pictures that are denoised together share the first one's features.

    Args:
        backbone: whose self-attentions and group norms are meant.
        config: what is shared.
        count: pictures of a batch; under guidance the batch is twice as long.
        guided: whether it is.
        given: the first one is a given picture: its scores are shifted and scaled.
    """
    paths = self_attention_paths(backbone)
    scale, shift = (config.reference_scale, config.reference_shift) if given else (1.0, 0.0)
    share = Share(count, guided=guided)
    programs: list[tuple[Any, AttentionProgram]] = []
    if config.normalise:
        programs += [("queries", lambda path, x: share.normalised(x)), ("keys", lambda path, x: share.normalised(x))]
    if config.attend:
        programs += [("keys", lambda path, x: share.joined(x, scale)), ("values", lambda path, x: share.joined(x))]
        if shift:
            programs.append(("scores", lambda path, x: shifted(x, shift)))
    with contextlib.ExitStack() as stack:
        for place, program in programs:
            stack.enter_context(attention_program(backbone, program, paths, at=place))
        if config.group_norm:
            stack.enter_context(_shared_norms(backbone.denoiser, share))
        yield


class Share:
    """Features of a batch's first picture for all its pictures, in both halves of a guided batch.

    Args:
        count: pictures.
        guided: the batch is `[negative, positive]`, `count` rows each.
    """

    def __init__(self, count: int, *, guided: bool) -> None:
        self.count, self.guided = count, guided

    def first(self, features: Tensor) -> Tensor:
        """Like `features`, `b ...`, each row the first of its half."""
        halves = features.unflatten(0, (2 if self.guided else 1, self.count))
        return halves[:, :1].expand_as(halves).flatten(0, 1)

    def normalised(self, features: Tensor) -> Tensor:
        """AdaIN: features `b tokens d` with the first row's mean and spread over tokens, per channel."""
        mean, spread = _statistics(features)
        return (features - mean) / spread * self.first(spread) + self.first(mean)

    def joined(self, features: Tensor, scale: float = 1.0) -> Tensor:
        """`b tokens d` with the first row's tokens behind them, `b 2*tokens d`; for other rows times `scale`."""
        behind = self.first(features)
        if scale != 1.0:
            own = torch.arange(len(features), device=features.device) % self.count == 0
            behind = torch.where(own[:, None, None], behind, scale * behind)
        return torch.cat([features, behind], dim=1)


def shifted(scores: Tensor, shift: float) -> Tensor:
    """Scores `b heads queries keys` with `shift` added to the keys behind the picture's own."""
    own = scores.shape[-2]
    return torch.cat([scores[..., :own], scores[..., own:] + shift], dim=-1)


def _statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    return features.mean(1, keepdim=True), (features.var(1, keepdim=True) + _EPS).sqrt()


@contextlib.contextmanager
def _shared_norms(denoiser: nn.Module, share: Share) -> Iterator[None]:
    """Inside, group norms take their statistics over a picture and the first one together."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        own = inputs[0]
        rows = own.shape[-2]
        return module.forward(torch.cat([own, share.first(own)], dim=-2))[..., :rows, :]

    norms = [module for module in denoiser.modules() if isinstance(module, nn.GroupNorm)]
    handles = [module.register_forward_hook(hook) for module in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
