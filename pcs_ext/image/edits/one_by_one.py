"""Pictures of a prompt one at a time: where hooks belong to one picture, and none depends on its neighbours."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.boxes import Box, check_boxes
from pcs_ext.image.phrases import phrase_positions
from pcs_ext.image.sample import SampleConfig, SampleHooks, build_scheduler, initial_noise, sample
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import generator_for

HooksOf = Callable[[int], SampleHooks]
"""`seed -> hooks` of one picture."""


@torch.no_grad()
def one_by_one(
    backbone: AbstractBackbone,
    prompt: str,
    hooks: HooksOf,
    *,
    seeds: Sequence[int],
    sampling: SampleConfig,
    negative_prompt: str = "",
    task: str = "picture",
    reporter: Reporter | None = None,
) -> Tensor:
    """Images of a prompt, `n 3 h w` in [-1, 1], float32 on the CPU; one per seed.

    Args:
        backbone: with adapters already injected.
        prompt: the text.
        hooks: of each picture: `layout_hooks`, `cones_2_hooks` and `led_hooks` make some.
        seeds: of the noise.
        sampling: how.
        negative_prompt: what to stay away from.
        task: what the reporter calls it.
        reporter: hears the progress.

    Raises:
        UsageError: no seed, or wrong sizes.
    """
    if not seeds:
        raise UsageError("pictures need at least one seed, got none.")
    images = []
    for index, seed in enumerate(seeds):
        images.append(
            sample(backbone, [prompt], seeds=[seed], config=sampling, negative_prompts=[negative_prompt],
                   hooks=hooks(seed))
        )  # fmt: skip
        if reporter is not None:
            reporter.progress(task, index + 1, len(seeds))
    return torch.cat(images)


def placed(
    backbone: AbstractBackbone, prompt: str, boxes: Sequence[Box], sampling: SampleConfig
) -> tuple[list[tuple[int, ...]], tuple[int, int]]:
    """The tokens of every box's phrase, and the rows and columns of the latents.

    Raises:
        UsageError: a phrase does not stand in the prompt, none or one twice is given, or wrong sizes.
    """
    check_boxes(boxes)
    positions = [phrase_positions(backbone, prompt, box.phrase) for box in boxes]
    shape = initial_noise(backbone, [0], sampling).shape
    return positions, (shape[-2], shape[-1])


def noised_back(
    backbone: AbstractBackbone, latents: Tensor, *, reached: int, began: int, seed: int, step: int
) -> Tensor:
    """Latents after a step, noised up to where it began, to take it once more (self-recurrence, time travel).

    x_began = sqrt(r) x_reached + sqrt(1 - r) noise with r = abar_began / abar_reached: latents keep their variance.

    Args:
        backbone: whose schedule it is.
        latents: `b c h w`.
        reached, began: timesteps.
        seed: of the picture.
        step: of the sampling; every step has its own noise.
    """
    abar = backbone.schedule.alphas_cumprod
    ratio = float(abar[began] / abar[reached])
    noise = torch.randn(latents.shape, generator=generator_for(seed, "recurrence", step)).to(latents)
    return ratio**0.5 * latents + (1 - ratio) ** 0.5 * noise


def visited(backbone: AbstractBackbone, sampling: SampleConfig) -> list[int]:
    """The timesteps of a sampling, the noisiest first."""
    return [int(timestep) for timestep in build_scheduler(backbone, sampling).timesteps]
