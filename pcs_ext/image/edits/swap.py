"""Swapping the subject of a picture: two branches side by side, the picture's own and the subject's."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.attention import path_grid, self_attention_paths
from pcs_ext.image.attention_edits import (
    AttentionEdit,
    Blend,
    branch_rows,
    edited,
    on_cells,
    progress_at,
    with_rows,
)
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.region import check_sides
from pcs_ext.image.inversion import invert
from pcs_ext.image.locate import LocateConfig
from pcs_ext.image.masks import cells_of, grown, inside_only
from pcs_ext.image.phrases import Alignment, align
from pcs_ext.image.sample import SampleConfig, SampleHooks, sample
from pcs_ext.reporter import Reporter


@config
class SwapConfig:
    """How a subject takes another one's place. Durations are shares of the steps, from pure noise on, in [0, 1]."""

    id: str
    """Key in `EDITS`."""
    sampling: SampleConfig
    """Of both branches; scheduler ddim, which can be run backwards."""
    inversion_iterations: int = 1
    """Predictions per step of inversion (see `invert`)."""
    cross_maps: float
    """How long the subject's branch takes over the picture's cross-attention maps."""
    self_maps: float
    """How long it takes over its self-attention maps."""
    self_outputs: float
    """How long it takes over the outputs of its self-attentions."""
    map_cells: int = 1024
    """Self-attention maps of layers with more cells than this are left alone (they would not fit into memory)."""
    attention_outside: bool = False
    """Take attention over outside of the mask only: inside, the subject's branch is free (SwapAnything)."""
    style: float = 0.0
    """How far the latents inside the mask take the mean and spread of the picture's there, in [0, 1]."""
    style_last: float = 0.3
    """How long."""
    ramp: float = 0.0
    """Time over which the subject's branch gains the inside of the mask, from 0 to all of it; 0 has it at once."""
    crop: bool = False
    """Edit the mask's surroundings at full size, then put them back; otherwise the picture as a whole."""
    margin: float = 0.2
    """Surroundings of the mask in the crop, as a share of its size."""
    growth: int = 0
    """Latent cells by which the mask is grown, for subjects larger than what they replace."""
    feather: float = 0.02
    """Width of the soft edge where the edit is put back, inside a mask that was found, as a share of the region's
    shorter side. A mask that was given often ends where the old subject does: a soft edge would leave its outline."""
    locate: LocateConfig = dataclasses.field(default_factory=LocateConfig)
    """How a mask is found when none is given."""

    def __post_init__(self) -> None:
        check_sides(self.sampling)
        shares = ("cross_maps", "self_maps", "self_outputs", "style", "style_last", "ramp")
        wrong = {name: getattr(self, name) for name in shares if not 0 <= getattr(self, name) <= 1}
        if wrong:
            raise ConfigError(f"{wrong} is out of range; expected shares in [0, 1].")
        if self.sampling.scheduler != "ddim":
            raise ConfigError(
                f"a swap inverts the picture with DDIM; expected scheduler 'ddim', got {self.sampling.scheduler!r}."
            )
        if not (self.margin >= 0 and self.growth >= 0 and 0 <= self.feather <= 0.5 and self.map_cells >= 0):
            raise ConfigError(
                f"margin {self.margin}, growth {self.growth}, feather {self.feather} or map_cells {self.map_cells} is "
                "out of range; expected 0 or more, and feather at most 0.5."
            )


def swap(
    backbone: AbstractBackbone,
    picture: Tensor,
    mask: Tensor,
    *,
    source_prompt: str,
    target_prompt: str,
    config: SwapConfig,
    negative_prompt: str = "",
    reporter: Reporter | None = None,
) -> Tensor:
    """The picture with what `target_prompt` says inside the mask, `1 3 h w` in [-1, 1], float32 on the CPU.

    Args:
        backbone: with the subject's adapters in it.
        picture: `1 3 h w` in [-1, 1], sides as `edit_size` gives them.
        mask: `1 1 h w`, above 0.5 where the subject may change the picture.
        source_prompt: describes the picture.
        target_prompt: describes what it shall show.
        config: how.
        negative_prompt: what the subject's branch stays away from.
        reporter: hears the progress.
    """
    with torch.no_grad():
        latents = backbone.encode_images(picture.to(backbone.device, backbone.dtype)).float()
        inside = grown(cells_of(mask, backbone.vae_factor), config.growth).to(backbone.device)
        swapped = swap_latents(
            backbone, latents, inside, source_prompt=source_prompt, target_prompt=target_prompt, config=config,
            negative_prompt=negative_prompt, reporter=reporter,
        )  # fmt: skip
        return backbone.decode_latents(swapped.to(backbone.dtype)).float().cpu().clamp(-1, 1)


@torch.no_grad()
def swap_latents(
    backbone: AbstractBackbone,
    latents: Tensor,
    inside: Tensor,
    *,
    source_prompt: str,
    target_prompt: str,
    config: SwapConfig,
    negative_prompt: str = "",
    reporter: Reporter | None = None,
) -> Tensor:
    """`swap` between autoencoder and autoencoder: latents `1 c h w` in and out, a mask of cells `1 1 h w`.

    Outside of the mask the result has the bits of `latents`.

    Differs from PhotoSwap and SwapAnything, which make DDIM inversion exact under guidance by null-text optimisation:
    here the picture's branch is set to the inverted states in every step (as in arXiv 2310.01506), which is exact
    without any optimisation.
    """
    plain = dataclasses.replace(config.sampling, guidance_scale=1.0)
    states = invert(
        backbone, latents, [source_prompt], config=plain, fixed_point_iterations=config.inversion_iterations,
        reporter=reporter,
    )  # fmt: skip
    found: list[Tensor] = []
    hooks = SampleHooks(
        predict=edited(backbone, swap_edits(backbone, config, inside, align(backbone, source_prompt, target_prompt))),
        on_step=_Branches(backbone, states, inside, config),
        initial_latents=torch.cat([states[-1], states[-1]]),
        decode=lambda both: found.append(both[1:]) or both,
    )
    sample(
        backbone, [source_prompt, target_prompt], seeds=[0, 0], config=config.sampling,
        negative_prompts=["", negative_prompt], hooks=hooks, reporter=reporter,
    )  # fmt: skip
    return found[0]


def swap_edits(
    backbone: AbstractBackbone, config: SwapConfig, inside: Tensor, alignment: Alignment
) -> list[AttentionEdit]:
    """What the subject's branch (second) takes over from the picture's (first).

    Args:
        inside: the mask in latent cells, `1 1 h w`.
        alignment: from the picture's prompt to the subject's.
    """
    guided = config.sampling.guidance_scale != 1.0
    sources, targets = branch_rows(0, 2, guided=guided), branch_rows(1, 2, guided=guided)
    weight = 1 - inside if config.attention_outside else torch.ones_like(inside)
    own = self_attention_paths(backbone)
    size = (inside.shape[-2], inside.shape[-1])
    coarse = tuple(path for path in own if _cells(path_grid(backbone, path, size)) <= config.map_cells)
    # Under guidance only the conditional half has words to align: of the other half the picture's prompt is empty.
    cross = MovedMaps(sources[-1], targets[-1], alignment, weight)
    return [
        AttentionEdit(program=cross, paths=backbone.cross_attention_paths(), last=config.cross_maps),
        AttentionEdit(program=RegionMaps(sources, targets, weight), paths=coarse, last=config.self_maps),
        AttentionEdit(program=Blend(sources, targets, weight=weight), paths=own, at="output", last=config.self_outputs),
    ]


class MovedMaps:
    """A program that gives one row the cross-attention of another one's prompt, word by word.

    Args:
        source, target: rows of the batch.
        alignment: of their prompts.
        weight: how far, by place: a picture `1 1 h w` in [0, 1] of latent size.
    """

    def __init__(self, source: int, target: int, alignment: Alignment, weight: Tensor) -> None:
        self.source, self.target, self.alignment, self.weight = source, target, alignment, weight

    def __call__(self, path: str, probabilities: Tensor) -> Tensor:
        source, target = probabilities[[self.source]], probabilities[[self.target]]
        moved = self.alignment.move(source.float(), target.float())
        weight = on_cells(self.weight, probabilities.shape[-2]).to(moved)
        return with_rows(probabilities, [self.target], torch.lerp(target.float(), moved, weight))


class RegionMaps:
    """A program that swaps self-attention maps outside of a region, rows and columns.

    What happens between two places outside comes from the source, what begins or ends inside stays the target's;
    SwapAnything is recalled to select both alike. Rows are then brought back to sum 1 (ours).

    Args:
        sources, targets: rows of the batch.
        weight: 1 outside and 0 inside, `1 1 h w` of latent size; all ones swaps whole maps.
    """

    def __init__(self, sources: Sequence[int], targets: Sequence[int], weight: Tensor) -> None:
        self.sources, self.targets, self.weight = list(sources), list(targets), weight

    def __call__(self, path: str, probabilities: Tensor) -> Tensor:
        outside = on_cells(self.weight, probabilities.shape[-2]).to(probabilities)
        source, target = probabilities[self.sources], probabilities[self.targets]
        mixed = torch.lerp(target, source, outside * outside.T)
        return with_rows(probabilities, self.targets, mixed / mixed.sum(-1, keepdim=True))


class _Branches:
    """After every step: the picture's branch on its inverted course, the subject's on it outside of the mask."""

    def __init__(self, backbone: AbstractBackbone, states: list[Tensor], inside: Tensor, config: SwapConfig) -> None:
        self.backbone, self.states, self.inside, self.config = backbone, states, inside, config

    def __call__(self, step: int, timestep: Tensor, latents: Tensor) -> Tensor:
        picture, subject = self.states[-2 - step], latents[1:]
        progress = progress_at(self.backbone, timestep)
        if self.config.style and progress < self.config.style_last:
            subject = torch.lerp(subject, with_statistics(subject, picture, self.inside), self.config.style)
        gained = min(1.0, (step + 1) / (len(self.states) - 1) / self.config.ramp) if self.config.ramp else 1.0
        return torch.cat([picture, inside_only(subject, picture, self.inside * gained)])


def with_statistics(latents: Tensor, like: Tensor, mask: Tensor) -> Tensor:
    """Latents `b c h w` with the mean and spread per channel that `like` has where the mask is 1 (AdaIN)."""
    mean, spread = _statistics(latents, mask)
    other_mean, other_spread = _statistics(like, mask)
    return (latents - mean) / spread.clamp_min(1e-6) * other_spread + other_mean


def _statistics(latents: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    area = mask.sum().clamp_min(1)
    mean = (latents * mask).sum((2, 3), keepdim=True) / area
    return mean, (((latents - mean).square() * mask).sum((2, 3), keepdim=True) / area).sqrt()


def _cells(grid: tuple[int, int]) -> int:
    return grid[0] * grid[1]
