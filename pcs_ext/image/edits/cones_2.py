"""Cones 2's layout guidance: attention to subjects is raised inside their boxes and shut off outside.

Liu et al. 2023, arXiv 2305.19327; the numbers are the released code's. The other half, a subject as a residual of its
noun, is the recipe `cones-2`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.attention import AttentionProgram, attention_program, token_grid
from pcs_ext.image.attention_edits import progress_at
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.boxes import Box, box_cells
from pcs_ext.image.edits.one_by_one import HooksOf, noised_back, placed, visited
from pcs_ext.image.recipes import Preset
from pcs_ext.image.sample import Predict, SampleConfig, SampleHooks
from pcs_ext.image.types import Conditioning

_LARGEST_SIGMA = 14.6
"""Where the paper's schedule begins; schedules that begin at purer noise would make the bias there without bound."""


@config
class Cones2Config:
    """How boxes are kept."""

    id: str
    """Key in `EDITS`."""
    sampling: SampleConfig
    """Scheduler ddim: steps are taken twice."""
    scale: float = 0.08
    """Strength of the bias (the paper's guidance weight; 0.05 to 0.10 are recommended)."""
    inside: float = 2.5
    """Weight of a phrase's own box."""
    outside: float = -1e8
    """Weight of all that lies outside of it; so low a number shuts attention off."""
    last: float = 1.0
    """Share of the sampling for which the layout is kept, in [0, 1]."""
    recurrence: bool = True
    """Take each guided step twice, with fresh noise in between (the paper's self-recurrence, for harmony)."""

    def __post_init__(self) -> None:
        if self.sampling.scheduler != "ddim":
            raise ConfigError(
                f"Cones 2 takes steps twice, which needs scheduler 'ddim'; got {self.sampling.scheduler!r}."
            )
        if not (self.scale >= 0 and self.inside >= 0 >= self.outside and 0 <= self.last <= 1):
            raise ConfigError(
                f"scale {self.scale}, inside {self.inside}, outside {self.outside} or last {self.last} is out of "
                "range; expected 0 or more, 0 or more, 0 or less, and a share in [0, 1]."
            )


def cones_2_layout(preset: Preset) -> Cones2Config:
    """0.08, +2.5 and -1e8, all 50 steps."""
    small = preset == "toybox"
    return Cones2Config(
        id="cones-2",
        sampling=SampleConfig(
            scheduler="ddim", num_inference_steps=25 if small else 50, guidance_scale=5.0 if small else 7.5
        ),
    )


def cones_2_hooks(backbone: AbstractBackbone, prompt: str, boxes: Sequence[Box], config: Cones2Config) -> HooksOf:
    """Of pictures of a prompt with its phrases in their boxes, for `one_by_one`; a negative prompt has no layout.

    Args:
        backbone: with adapters already injected.
        prompt: the text.
        boxes: of phrases of it.
        config: how; scale 0 without recurrence is plain sampling.

    Raises:
        UsageError: a phrase does not stand in the prompt, none or one twice is given, or wrong sizes.
    """
    positions, size = placed(backbone, prompt, boxes, config.sampling)
    row = 1 if config.sampling.guidance_scale != 1.0 else 0
    bias = LayoutBias(backbone, boxes, positions, size, config, rows=[row])
    return lambda seed: SampleHooks(
        predict=biased(backbone, bias), recur=Recurrence(backbone, seed, config) if config.recurrence else None
    )


def biased(backbone: AbstractBackbone, bias: "LayoutBias"):
    """A `SampleHooks.predict` under a layout bias, for its share of the steps; then the fused kernels are back."""
    paths = backbone.cross_attention_paths()

    def wrap(predict: Predict) -> Predict:
        def biased_predict(latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            timestep = float(timesteps.flatten()[0])
            if not bias.config.scale or progress_at(backbone, timestep) >= bias.config.last:
                return predict(latents, timesteps, conditioning)
            with attention_program(backbone, bias.at(timestep), paths, at="scores"):
                return predict(latents, timesteps, conditioning)

        return biased_predict

    return wrap


class LayoutBias:
    """Adds scale * w * log(1 + sigma^2) * std(scores) to cross-attention scores (eq. 8 of the paper, as released).

    w is `inside` for a phrase's tokens in its box, `outside` for them elsewhere, 0 for all other tokens. log(1 +
    sigma^2) is -log(abar_t). Differs from the released code, where a cell that touches the outside counts as outside:
    a cell belongs to a box when half of it does, and every box has one cell at least.

    Args:
        backbone: whose schedule has sigma.
        boxes: as `positions`.
        positions: tokens of the boxes' phrases.
        size: rows and columns of the latents.
        config: the numbers.
        rows: of the batch that get the bias.
    """

    def __init__(
        self,
        backbone: AbstractBackbone,
        boxes: Sequence[Box],
        positions: Sequence[Sequence[int]],
        size: tuple[int, int],
        config: Cones2Config,
        *,
        rows: Sequence[int],
    ) -> None:
        self.backbone, self.boxes, self.positions, self.size = backbone, boxes, positions, size
        self.config, self.rows = config, list(rows)
        self._weights: dict[tuple[int, int], Tensor] = {}

    def at(self, timestep: float) -> AttentionProgram:
        """The program for one timestep."""
        strength = self.config.scale * noise_level(self.backbone, timestep)

        def raised(path: str, scores: Tensor) -> Tensor:
            weights = self.weights(scores.shape[-2], scores.shape[-1]).to(scores)
            rows = scores[self.rows]
            moved = rows + strength * weights * rows.std()
            return scores.index_copy(0, torch.tensor(self.rows, device=scores.device), moved)

        return raised

    def weights(self, queries: int, keys: int) -> Tensor:
        """w, `queries keys`."""
        if (queries, keys) not in self._weights:
            made = torch.zeros(queries, keys)
            for box, tokens in zip(self.boxes, self.positions, strict=True):
                inside = box_cells(box, token_grid(queries, self.size)).flatten()
                made[:, list(tokens)] += torch.where(inside, self.config.inside, self.config.outside)[:, None]
            self._weights[queries, keys] = made
        return self._weights[queries, keys]


def noise_level(backbone: AbstractBackbone, timestep: float) -> float:
    """log(1 + sigma_t^2) with sigma_t = sqrt((1 - abar_t) / abar_t), as samplers in units of the clean picture have it.

    Sigma is held to what the paper's schedule begins at.
    """
    abar = torch.as_tensor(float(backbone.schedule.alphas_cumprod[round(timestep)]))
    return float(torch.log1p(torch.clamp((1 - abar) / abar, max=_LARGEST_SIGMA**2)))


class Recurrence:
    """`SampleHooks.recur`: latents after a guided step, noised up again to where it began.

    `noised_back` is the released code's addition of sqrt(sigma_t^2 - sigma_s^2) noise in latents that keep their
    variance.

    Args:
        backbone: whose schedule it is.
        seed: of the picture; every step has its own noise.
        config: for how long.
    """

    def __init__(self, backbone: AbstractBackbone, seed: int, config: Cones2Config) -> None:
        self.backbone, self.seed, self.config = backbone, seed, config
        self.timesteps = visited(backbone, config.sampling)

    def __call__(self, step: int, timestep: Tensor, latents: Tensor) -> Tensor | None:
        if progress_at(self.backbone, timestep) >= self.config.last:
            return None
        began, stride = int(timestep), self.backbone.schedule.num_train_timesteps // len(self.timesteps)
        return noised_back(
            self.backbone, latents, reached=max(began - stride, 0), began=began, seed=self.seed, step=step
        )
