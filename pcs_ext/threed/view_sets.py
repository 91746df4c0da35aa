"""Pictures of one thing from several sides, sampled together."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.sample import SampleConfig, SampleHooks, sample
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import seed_for
from pcs_ext.threed.cameras import Cameras
from pcs_ext.threed.multiview import MultiViewAdapter

_SETS = 4
"""Sampled at once."""


@torch.no_grad()
def sample_sets(
    backbone: AbstractUnetBackbone,
    adapter: MultiViewAdapter,
    prompts: Sequence[str],
    cameras: Cameras,
    *,
    seeds: Sequence[int],
    config: SampleConfig,
    reporter: Reporter | None = None,
) -> Tensor:
    """A set of views for every prompt, `n v 3 h w` in [-1, 1], on the CPU.

    Args:
        backbone: what the adapter was trained on, a subject in it or not.
        adapter: makes it view-joint.
        prompts: `n` texts; they need not name the view.
        cameras: `v`, the same for every set.
        seeds: `n`; every view has noise of its own.
        config: how.
        reporter: hears the progress.

    Raises:
        UsageError: unequal counts, or an adapter of another UNet.
        ModelError: an adapter of another base.
    """
    if len(prompts) != len(seeds):
        raise UsageError(f"expected a seed for every prompt, got {len(seeds)} for {len(prompts)}.")
    adapter.check_base(backbone)
    views = len(cameras)
    images = sample(
        backbone,
        [prompt for prompt in prompts for _ in range(views)],
        seeds=[seed_for(seed, "view", view) for seed in seeds for view in range(views)],
        config=config,
        batch_size=_SETS * views,
        hooks=SampleHooks(attention=lambda: adapter.joined(backbone, cameras, views)),
        reporter=reporter,
    )
    return images.unflatten(0, (-1, views))
