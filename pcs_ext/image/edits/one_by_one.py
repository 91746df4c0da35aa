"""Pictures of a prompt one at a time: where hooks belong to one picture, and none depends on its neighbours."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.boxes import Box, check_boxes
from pcs_ext.image.phrases import phrase_positions
from pcs_ext.image.sample import SampleConfig, SampleHooks, initial_noise, sample
from pcs_ext.reporter import Reporter

HooksOf = Callable[[int], SampleHooks]
"""`seed -> hooks` of one picture."""
Guide = Callable[[Sequence[tuple[int, ...]], tuple[int, int]], HooksOf]
"""`(tokens of every box's phrase, rows and columns of the latents) -> hooks of every picture`."""


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
        hooks: of each picture.
        seeds: of the noise.
        sampling: how.
        negative_prompt: what to stay away from.
        task: what the reporter calls it.
        reporter: hears the progress.

    Raises:
        UsageError: no seed, or wrong sizes.
    """
    images = []
    for index, seed in enumerate(seeds):
        images.append(
            sample(backbone, [prompt], seeds=[seed], config=sampling, negative_prompts=[negative_prompt],
                   hooks=hooks(seed))
        )  # fmt: skip
        if reporter is not None:
            reporter.progress(task, index + 1, len(seeds))
    return torch.cat(images)


@torch.no_grad()
def sample_boxed(
    backbone: AbstractBackbone,
    prompt: str,
    boxes: Sequence[Box],
    guide: Guide,
    *,
    seeds: Sequence[int],
    sampling: SampleConfig,
    negative_prompt: str = "",
    reporter: Reporter | None = None,
) -> Tensor:
    """Images of a prompt with its phrases in their boxes, as from `one_by_one`.

    Args:
        backbone: with adapters already injected.
        prompt: the text.
        boxes: of phrases of it.
        guide: how boxes are kept.
        seeds, sampling, negative_prompt, reporter: see `one_by_one`.

    Raises:
        UsageError: a phrase does not stand in the prompt, none or one twice is given, or wrong sizes.
    """
    check_boxes(boxes)
    positions = [phrase_positions(backbone, prompt, box.phrase) for box in boxes]
    shape = initial_noise(backbone, seeds[:1], sampling).shape
    hooks = guide(positions, (shape[-2], shape[-1]))
    return one_by_one(
        backbone, prompt, hooks, seeds=seeds, sampling=sampling, negative_prompt=negative_prompt, task="layout",
        reporter=reporter,
    )  # fmt: skip
