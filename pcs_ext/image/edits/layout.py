"""Layout guidance: words are drawn in their boxes because attention is led there.

Training-free layout control with cross-attention guidance (Chen et al., WACV 2024, arXiv 2304.03373): backward, the
latents follow the gradient of where words look; forward, attention itself is moved into the boxes.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.attention import attention_program, token_grid
from pcs_ext.image.attention_edits import AttentionEdit, Capture, branch_rows, edited, progress_at, with_rows
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.boxes import Box
from pcs_ext.image.edits.one_by_one import HooksOf, placed
from pcs_ext.image.recipes import Preset
from pcs_ext.image.sample import SampleConfig, SampleHooks
from pcs_ext.image.types import Conditioning


@config
class LayoutConfig:
    """How boxes are kept. The numbers of `layout-control` are the released code's."""

    id: str
    """Key in `EDITS`."""
    sampling: SampleConfig
    """A scheduler whose latents keep their variance: ddim or dpmsolver++."""
    scale: float = 30.0
    """Step size on the energy; the latents move by scale (1 - abar_t) times its gradient, which is sigma_t^2 in the
    units of the paper's scheduler."""
    threshold: float = 0.2
    """Energies below this are left alone, in [0, 1)."""
    iterations: int = 5
    """At most so many moves before a step."""
    last: float = 0.2
    """Share of the sampling for which the latents are moved (10 of 51 steps)."""
    up_blocks: int = 1
    """Decoder blocks with cross-attention, coarsest first, that are looked at beside the middle one."""
    forward: float = 0.0
    """How much of a phrase's attention is moved into its box (the paper's lambda of forward guidance), in [0, 1]."""
    forward_last: float = 1.0
    """Share of the sampling for which it is moved."""

    def __post_init__(self) -> None:
        if not (self.scale >= 0 and 0 <= self.threshold < 1 and self.iterations >= 0 and 0 <= self.last <= 1):
            raise ConfigError(
                f"scale {self.scale}, threshold {self.threshold}, iterations {self.iterations} or last {self.last} is "
                "out of range; expected 0 or more, a share in [0, 1), 0 or more, and a share in [0, 1]."
            )
        if not (0 <= self.forward <= 1 and 0 <= self.forward_last <= 1):
            raise ConfigError(
                f"forward {self.forward} or forward_last {self.forward_last} is out of range; expected shares in "
                "[0, 1]."
            )
        if self.up_blocks < 0:
            raise ConfigError(f"up_blocks is {self.up_blocks}; expected 0 or more.")
        if self.sampling.scheduler == "euler":
            raise ConfigError("layout guidance moves latents that keep their variance; expected ddim or dpmsolver++.")


def layout_control(preset: Preset) -> LayoutConfig:
    """Backward: 30, 0.2, 5 moves, the first fifth of the steps.

    `toybox`: forward alone, all of it in all steps. Its attention goes by where a word stands in the prompt and hardly
    by the latents, so that no gradient moves it (docs/LOG.md).
    """
    small = preset == "toybox"
    return LayoutConfig(
        id="layout-control",
        iterations=0 if small else 5,
        forward=1.0 if small else 0.0,
        sampling=SampleConfig(
            scheduler="ddim", num_inference_steps=25 if small else 50, guidance_scale=5.0 if small else 7.5
        ),
    )


def layout_hooks(backbone: AbstractBackbone, prompt: str, boxes: Sequence[Box], config: LayoutConfig) -> HooksOf:
    """Of pictures of a prompt with its words in their boxes, for `one_by_one`: guidance keeps the activations of one.

    Args:
        backbone: with adapters already injected.
        prompt: the text.
        boxes: of phrases of it.
        config: how; `iterations` 0 and `forward` 0 are plain sampling, bit for bit.

    Raises:
        UsageError: a phrase does not stand in the prompt, none or one twice is given, or wrong sizes.
    """
    positions, size = placed(backbone, prompt, boxes, config.sampling)
    hooks = SampleHooks()
    if config.iterations:
        with torch.no_grad():
            pixels = size[0] * backbone.vae_factor, size[1] * backbone.vae_factor
            conditioning = backbone.encode_prompt([prompt], size=pixels)
        hooks = SampleHooks(before_step=LayoutGuide(backbone, conditioning, boxes, positions, config))
    if config.forward:
        guided = config.sampling.guidance_scale != 1.0
        program = WindowedMaps(boxes, positions, size, config.forward, row=branch_rows(0, 1, guided=guided)[-1])
        paths = backbone.cross_attention_paths()
        edit = AttentionEdit(program=program, paths=paths, last=config.forward_last)
        hooks = dataclasses.replace(hooks, predict=edited(backbone, [edit]))
    return lambda seed: hooks


class WindowedMaps:
    """A program that moves what a phrase's tokens get of one row's cross-attention into their box.

    The attention A_u of cell u to a token becomes (1 - lambda) A_u + lambda g_u sum_v A_v, with a window g that sums to
    1 (forward guidance of the paper). Rows no longer sum to 1, as there.

    The window is a normal density about the box's middle whose two standard deviations reach the box's sides; that
    width is ours.

    Args:
        boxes: as `positions`.
        positions: tokens of the boxes' phrases.
        size: rows and columns of the latents.
        share: lambda, in [0, 1].
        row: of the batch.
    """

    def __init__(
        self, boxes: Sequence[Box], positions: Sequence[Sequence[int]], size: tuple[int, int], share: float, *, row: int
    ) -> None:
        self.boxes, self.positions, self.size, self.share, self.row = boxes, positions, size, share, row

    def __call__(self, path: str, probabilities: Tensor) -> Tensor:
        maps = probabilities[[self.row]].clone()
        grid = token_grid(maps.shape[-2], self.size)
        for box, tokens in zip(self.boxes, self.positions, strict=True):
            looks = maps[..., list(tokens)]
            window = window_of(box, *grid).flatten().to(maps)[:, None]
            maps[..., list(tokens)] = torch.lerp(looks, window * looks.sum(-2, keepdim=True), self.share)
        return with_rows(probabilities, [self.row], maps)


def window_of(box: Box, rows: int, columns: int) -> Tensor:
    """`rows columns`, summing to 1: densest in the middle of a box, two standard deviations to its sides."""
    down = _bell(rows, box.top, box.bottom)
    across = _bell(columns, box.left, box.right)
    return down[:, None] * across


def _bell(count: int, low: float, high: float) -> Tensor:
    """A normal density at the middles of `count` cells, summing to 1; never narrower than half a cell."""
    middles = (torch.arange(count, dtype=torch.float32) + 0.5) / count
    deviation = max((high - low) / 4, 0.5 / count)
    return torch.softmax(-((middles - (low + high) / 2) / deviation).square() / 2, dim=0)


class LayoutGuide:
    """`SampleHooks.before_step`: moves the latents until words look into their boxes.

    Args:
        backbone: with adapters injected.
        conditioning: of the one prompt.
        boxes: as `positions`.
        positions: of their phrases among the prompt's tokens.
        config: how.
    """

    def __init__(
        self,
        backbone: AbstractBackbone,
        conditioning: Conditioning,
        boxes: Sequence[Box],
        positions: Sequence[Sequence[int]],
        config: LayoutConfig,
    ) -> None:
        self.backbone, self.conditioning, self.config = backbone, conditioning, config
        self.boxes, self.positions = boxes, positions
        self.paths = energy_paths(backbone, config.up_blocks)
        self.energies: list[float] = []
        """Of every look, the latest last."""

    def __call__(self, step: int, timestep: Tensor, latents: Tensor) -> Tensor:
        if progress_at(self.backbone, timestep) >= self.config.last:
            return latents
        for _ in range(self.config.iterations):
            with torch.enable_grad():
                moving = latents.detach().requires_grad_(True)
                energy = self.energy(moving, timestep)
                self.energies.append(float(energy.detach()))
                if self.energies[-1] <= self.config.threshold:
                    break
                (gradient,) = torch.autograd.grad(energy, moving)
            latents = latents - self.config.scale * self._variance(timestep) * gradient
        return latents

    def energy(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """How far the words look past their boxes at one timestep, 0-d in [0, 1]. Differentiable."""
        seen = Capture(detach=False)
        with attention_program(self.backbone, seen, self.paths):
            self.backbone.predict(latents, timestep.expand(len(latents)), self.conditioning)
        size = (latents.shape[-2], latents.shape[-1])
        return torch.stack(
            [layout_energy(maps, self.boxes, self.positions, size) for maps in seen.seen.values()]
        ).mean()

    def _variance(self, timestep: Tensor) -> float:
        return 1 - float(self.backbone.schedule.alphas_cumprod[round(float(timestep))])


def layout_energy(
    probabilities: Tensor, boxes: Sequence[Box], positions: Sequence[Sequence[int]], size: tuple[int, int]
) -> Tensor:
    """Mean over phrases, their tokens and heads of (1 - attention inside / attention in all)^2 (eq. 3), 0-d.

    Each head by itself, as in the released code: one that looks ten times as much counts no more than others.

    Differs from the paper: cells that lie partly in a box count in part.

    Args:
        probabilities: of one cross-attention, `b heads queries keys`.
        boxes: one per phrase.
        positions: tokens of the phrases.
        size: rows and columns of the latents.
    """
    maps = probabilities.float().flatten(0, 1)
    grid = token_grid(maps.shape[1], size)
    terms = []
    for box, tokens in zip(boxes, positions, strict=True):
        inside = box.coverage(*grid).flatten().to(maps)[:, None]
        looks = maps[..., list(tokens)]
        share = (looks * inside).sum(1) / looks.sum(1).clamp_min(1e-8)
        terms.append((1 - share).square().mean())
    return torch.stack(terms).mean()


def energy_paths(backbone: AbstractBackbone, up_blocks: int) -> tuple[str, ...]:
    """Cross-attentions of the middle block and of the coarsest decoder blocks that have any."""
    paths = backbone.cross_attention_paths()
    decoder = list(dict.fromkeys(path.split(".")[1] for path in paths if path.startswith("up_blocks.")))[:up_blocks]
    return tuple(
        path
        for path in paths
        if path.startswith("mid_block.") or (path.startswith("up_blocks.") and path.split(".")[1] in decoder)
    )
