"""FreeControl (Mo et al., CVPR 2024, arXiv 2312.07536): the structure of a picture for any prompt, without training.

What a class looks like is read from pictures that the base makes of it: the principal components of one decoder
block's self-attention keys, step by step. In these the sample is led to the structure of the inverted picture, and to
the appearance of the same sample without control.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.attention import AttentionMaps, attention_program, token_grid
from pcs_ext.image.attention_edits import Capture, progress_at
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.layout import energy_paths
from pcs_ext.image.edits.one_by_one import visited
from pcs_ext.image.inversion import invert
from pcs_ext.image.masks import on_range
from pcs_ext.image.phrases import phrase_positions
from pcs_ext.image.recipes import Preset
from pcs_ext.image.sample import Predict, SampleConfig, SampleHooks, sample
from pcs_ext.image.types import Conditioning
from pcs_ext.reporter import Reporter


@config
class FreeControlConfig:
    """How a structure is followed. The numbers of `sd` are the released code's unless said."""

    id: str
    """Key in `EDITS`."""
    sampling: SampleConfig
    """Scheduler ddim; the same steps serve the class pictures, the inversion and the result."""
    class_images: int = 20
    """Pictures of the class from which its components are read."""
    components: int = 64
    """Principal components kept."""
    last: float = 0.4
    """Share of the steps that are controlled (80 of 200)."""
    warm_up: float = 0.05
    """Share over which control grows from 0 (10 of 200 steps)."""
    structure_scale: float = 800.0
    """Times the gradient of the structure's energy; a step moves the latents by sqrt((1 - abar_next) (1 - abar)) of
    it."""
    background: float = 10.0
    """Weight of components that rise above the picture's background outside of its subject."""
    appearance_scale: float = 40.0
    """Times the gradient of the appearance's energy (0.05 x 800)."""
    appearance_components: int = 2
    """Leading components by which appearance is averaged."""
    mask_threshold: float = 0.3
    """Cells of the subject: above this share of the range of its word's map."""

    def __post_init__(self) -> None:
        if self.sampling.scheduler != "ddim":
            raise ConfigError(f"expected scheduler 'ddim', which can be inverted; got {self.sampling.scheduler!r}.")
        if self.class_images < 2 or self.components < 1 or not 0 < self.mask_threshold < 1:
            raise ConfigError(
                f"class_images {self.class_images}, components {self.components} or mask_threshold "
                f"{self.mask_threshold} is out of range; expected at least 2, at least 1, and a share in (0, 1)."
            )
        if not (0 <= self.last <= 1 and 0 <= self.warm_up <= 1):
            raise ConfigError(f"last {self.last} or warm_up {self.warm_up} is out of range; expected shares in [0, 1].")


def freecontrol(preset: Preset) -> FreeControlConfig:
    """200 steps, 20 class pictures; `toybox`: 50 steps, 8 class pictures, a quarter of both scales (at all of them one
    picture in seven was saturated).

    Differs from FreeControl: the picture is inverted over the same steps as are sampled, not over 999; keys are those
    of the last self-attention of the decoder block alone, where the released code averages the energies of all of the
    block's; the penalty is a mean over the cells outside, there over all of them; the mask is of one step's
    cross-attentions in all blocks, there of the steps so far in one block.
    """
    small = preset == "toybox"
    sampling = SampleConfig(
        scheduler="ddim", num_inference_steps=50 if small else 200, guidance_scale=5.0 if small else 7.5
    )
    return FreeControlConfig(
        id="freecontrol", sampling=sampling, class_images=8 if small else 20, components=32 if small else 64,
        structure_scale=200.0 if small else 800.0, appearance_scale=10.0 if small else 40.0,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Basis:
    """Principal components of keys at one step."""

    mean: Tensor
    """`d`."""
    directions: Tensor
    """`d k`."""

    def scores(self, keys: Tensor) -> Tensor:
        """Keys `b n d` as scores `b n k`, each component brought to [0, 1] over the cells. Differentiable."""
        raw = (keys.float() - self.mean) @ self.directions
        low, high = raw.amin(1, keepdim=True), raw.amax(1, keepdim=True)
        return (raw - low) / (high - low).clamp_min(1e-6)


def principal(keys: Tensor, components: int) -> Basis:
    """The leading components of keys `b n d` of several pictures; fewer when there are not so many directions."""
    flat = keys.float().flatten(0, 1)
    mean = flat.mean(0)
    _, _, directions = torch.linalg.svd(flat - mean, full_matrices=False)
    return Basis(mean, directions[:components].T)


def structure_energy(scores: Tensor, wanted: Tensor, mask: Tensor, background: float) -> Tensor:
    """Distance to the wanted scores inside the mask, and what rises above their background outside of it, 0-d.

    Args:
        scores: of the sample, `b n k`.
        wanted: of the picture, `1 n k`.
        mask: where the picture's subject is, `n`, bool.
        background: weight of the second part.
    """
    inside, outside = mask.float()[None, :, None], (~mask).float()[None, :, None]
    near = ((scores - wanted).square() * inside).sum((1, 2)) / inside.sum().clamp_min(1) / scores.shape[-1]
    ceiling = wanted.masked_fill(mask[None, :, None], float("-inf")).amax(1, keepdim=True).clamp_min(0)
    above = (F.relu(scores - ceiling).square() * outside).sum((1, 2)) / outside.sum().clamp_min(1) / scores.shape[-1]
    return (near + background * above).sum()


def appearance_energy(keys: Tensor, scores: Tensor, other_keys: Tensor, other_scores: Tensor, leading: int) -> Tensor:
    """Distance of the mean keys under the leading components (their cells above 0.5) of two samples, 0-d."""

    def means(keys: Tensor, scores: Tensor) -> Tensor:
        weights = scores[..., :leading] * (scores[..., :leading] > 0.5)
        return weights.transpose(1, 2) @ keys.float() / weights.sum(1).clamp_min(1e-6)[..., None]

    return (means(keys, scores) - means(other_keys, other_scores)).square().mean((1, 2)).sum()


class _Keys:
    """A `SampleHooks.predict` that keeps the keys of the conditional rows at every controlled step."""

    def __init__(self, control: "_Control", rows: int) -> None:
        self.control, self.rows = control, rows
        self.at: dict[int, Tensor] = {}

    def __call__(self, predict: Predict) -> Predict:
        def watched(latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            if not self.control.is_active(timesteps):
                return predict(latents, timesteps, conditioning)
            seen = Capture()
            with attention_program(self.control.backbone, seen, [self.control.path], at="keys"):
                prediction = predict(latents, timesteps, conditioning)
            self.at[int(timesteps[0])] = seen.seen[self.control.path][-self.rows :]
            return prediction

        return watched


class _Control:
    """Where and when keys are looked at."""

    def __init__(self, backbone: AbstractBackbone, config: FreeControlConfig) -> None:
        self.backbone, self.config = backbone, config
        # The last self-attention of the coarsest decoder block that has any.
        self.path = energy_paths(backbone, 1)[-1].removesuffix("attn2") + "attn1"
        steps = visited(backbone, config.sampling)
        self._next = dict(itertools.pairwise(steps))

    def is_active(self, timesteps: Tensor) -> bool:
        return progress_at(self.backbone, timesteps.flatten()[0]) < self.config.last

    def growth(self, timesteps: Tensor) -> float:
        """Share of the full scale at this step."""
        if not self.config.warm_up:
            return 1.0
        return min(1.0, progress_at(self.backbone, timesteps.flatten()[0]) / self.config.warm_up)

    def reach(self, timestep: int) -> float:
        """What a shift of the predicted noise is multiplied by, so that a DDIM step moves the latents by
        sqrt((1 - abar_next) (1 - abar)) of it.

        As in the released code, which shifts the direction of the step alone: shifted in the clean estimate, too, both
        would nearly cancel, and the latents move 30 to 50 times less.
        """
        levels = self.backbone.schedule.alphas_cumprod
        now, after = float(levels[timestep]), float(levels[self._next.get(timestep, 0)])
        moved = (after * (1 - now) / now) ** 0.5 - (1 - after) ** 0.5
        return ((1 - after) * (1 - now)) ** 0.5 / moved


@torch.no_grad()
def follow_structure(
    backbone: AbstractBackbone,
    picture: Tensor,
    *,
    picture_prompt: str,
    phrase: str,
    class_prompt: str,
    prompt: str,
    seeds: Sequence[int],
    config: FreeControlConfig,
    negative_prompt: str = "",
    reporter: Reporter | None = None,
) -> Tensor:
    """Images of a prompt with the structure of a picture, `n 3 h w` in [-1, 1], float32 on the CPU; one per seed.

    Args:
        backbone: with adapters already injected.
        picture: `1 3 h w` in [-1, 1], of the size that is sampled.
        picture_prompt: describes the picture.
        phrase: words of `picture_prompt`: whose structure counts.
        class_prompt: of the pictures from which components are read, "a photo of a dog".
        prompt: of the result.
        seeds: of the noise.
        config: how; both scales 0 is plain sampling.
        negative_prompt: what the result stays away from.
        reporter: hears the progress.
    """
    control = _Control(backbone, config)
    positions = phrase_positions(backbone, picture_prompt, phrase)
    bases = _bases(control, class_prompt, reporter)
    wanted = _structure(control, picture, picture_prompt, positions, bases, reporter)
    plain = _Keys(control, len(seeds))
    asked = {
        "seeds": list(seeds), "config": config.sampling, "batch_size": len(seeds),
        "negative_prompts": [negative_prompt] * len(seeds),
    }  # fmt: skip
    sample(backbone, [prompt] * len(seeds), **asked, hooks=SampleHooks(predict=plain), reporter=reporter)
    guide = _Guide(control, bases, wanted, plain.at, len(seeds))
    return sample(backbone, [prompt] * len(seeds), **asked, hooks=SampleHooks(predict=guide), reporter=reporter)


def _bases(control: _Control, prompt: str, reporter: Reporter | None) -> dict[int, Basis]:
    """By timestep, from pictures of seeds of their own."""
    count = control.config.class_images
    keys = _Keys(control, count)
    sample(
        control.backbone, [prompt] * count, seeds=[1_000_003 + index for index in range(count)],
        config=control.config.sampling, batch_size=count, hooks=SampleHooks(predict=keys), reporter=reporter,
    )  # fmt: skip
    return {timestep: principal(seen, control.config.components) for timestep, seen in keys.at.items()}


def _structure(
    control: _Control,
    picture: Tensor,
    prompt: str,
    positions: Sequence[int],
    bases: dict[int, Basis],
    reporter: Reporter | None,
) -> dict[int, tuple[Tensor, Tensor]]:
    """By timestep: scores of the inverted picture `1 n k`, and the cells of its subject, `n` bool."""
    backbone, plain = control.backbone, dataclasses.replace(control.config.sampling, guidance_scale=1.0)
    latents = backbone.encode_images(picture.to(backbone.device, backbone.dtype)).float()
    states = invert(backbone, latents, [prompt], config=plain, reporter=reporter)
    conditioning = backbone.encode_prompt([prompt], size=(picture.shape[-2], picture.shape[-1]))
    wanted, controlled = {}, sorted(bases, reverse=True)
    # Inverted from the picture on; the sampling's first, noisiest steps are the ones that are controlled.
    for state, timestep in zip(states[::-1][: len(controlled)], controlled, strict=True):
        keys, size = Capture(), (latents.shape[-2], latents.shape[-1])
        maps = AttentionMaps(side=min(size), size=size)
        with attention_program(backbone, maps), attention_program(backbone, keys, [control.path], at="keys"):
            backbone.predict(state, torch.tensor([timestep], device=backbone.device), conditioning)
        seen = keys.seen[control.path]
        grid = F.adaptive_avg_pool2d(maps.maps()[:, list(positions)].mean(1, keepdim=True), _grid(seen, size))
        wanted[timestep] = bases[timestep].scores(seen), (on_range(grid) > control.config.mask_threshold).flatten()
    return wanted


def _grid(keys: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    return token_grid(keys.shape[1], size)


class _Guide:
    """A `SampleHooks.predict` that adds the energies' gradients to the predicted noise."""

    def __init__(
        self,
        control: _Control,
        bases: dict[int, Basis],
        wanted: dict[int, tuple[Tensor, Tensor]],
        siblings: dict[int, Tensor],
        rows: int,
    ) -> None:
        self.control, self.bases, self.wanted, self.siblings, self.rows = control, bases, wanted, siblings, rows

    def __call__(self, predict: Predict) -> Predict:
        def guided(latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            if not self.control.is_active(timesteps):
                return predict(latents, timesteps, conditioning)
            seen = Capture(detach=False)
            with torch.enable_grad(), attention_program(self.control.backbone, seen, [self.control.path], at="keys"):
                moving = latents.detach().requires_grad_(True)
                prediction = predict(moving, timesteps, conditioning)
                energy = self._energy(seen.seen[self.control.path][-self.rows :], int(timesteps[0]))
                (gradient,) = torch.autograd.grad(energy, moving)
            return self._shifted(prediction.detach().float(), latents, timesteps, gradient[-self.rows :])

        return guided

    def _energy(self, keys: Tensor, timestep: int) -> Tensor:
        config, basis = self.control.config, self.bases[timestep]
        scores, (wanted, mask), sibling = basis.scores(keys), self.wanted[timestep], self.siblings[timestep]
        structure = structure_energy(scores, wanted, mask, config.background)
        appearance = appearance_energy(keys, scores, sibling, basis.scores(sibling), config.appearance_components)
        return config.structure_scale * structure + config.appearance_scale * appearance

    def _shifted(self, prediction: Tensor, latents: Tensor, timesteps: Tensor, gradient: Tensor) -> Tensor:
        """All rows alike, so that guidance passes the shift on as it is."""
        schedule = self.control.backbone.schedule
        scale = self.control.growth(timesteps) * self.control.reach(int(timesteps[0]))
        shift = scale * gradient.repeat(len(latents) // self.rows, 1, 1, 1)
        epsilon = schedule.to_epsilon(prediction, latents, timesteps) + shift
        return schedule.from_epsilon(epsilon, latents, timesteps)
