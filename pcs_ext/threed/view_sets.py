"""Pictures of one thing from several sides, sampled together."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.config_io import atomic_write_bytes
from pcs_ext.errors import UsageError
from pcs_ext.image.adapters.layers import merged
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.sample import SampleConfig, SampleHooks, sample
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import seed_for
from pcs_ext.threed.cameras import Cameras, ring
from pcs_ext.threed.multiview import MultiViewAdapter, find_adapter
from pcs_ext.threed.outputs import check_free
from pcs_ext.threed.turntable import sheet

_SETS = 4
"""Sampled at once."""
_LOOKS = 4
"""Views of a set: the front, both sides and the back."""


@torch.no_grad()
def sample_sets(
    backbone: AbstractUnetBackbone,
    adapter: MultiViewAdapter,
    prompts: Sequence[str],
    cameras: Cameras,
    *,
    seeds: Sequence[int],
    config: SampleConfig,
    negative_prompt: str = "",
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
        negative_prompt: what to stay away from.
        reporter: hears the progress.

    Raises:
        UsageError: unequal counts, or an adapter of another UNet.
        ModelError: an adapter of another base.
    """
    if len(prompts) != len(seeds):
        raise UsageError(f"expected a seed for every prompt, got {len(seeds)} for {len(prompts)}.")
    adapter.check_base(backbone)
    views = len(cameras)
    with merged(backbone.denoiser):
        images = sample(
            backbone,
            [prompt for prompt in prompts for _ in range(views)],
            seeds=[seed_for(seed, "view", view) for seed in seeds for view in range(views)],
            config=config,
            negative_prompts=[negative_prompt] * (len(prompts) * views),
            batch_size=_SETS * views,
            hooks=SampleHooks(attention=lambda: adapter.joined(backbone, cameras, views)),
            reporter=reporter,
        )
    return images.unflatten(0, (-1, views))


def draw_views(
    subject: Path,
    prompt: str,
    output: Path,
    *,
    seeds: Sequence[int] = (0,),
    elevation: float = 15.0,
    multiview: Path | None = None,
    base: str = "",
    steps: int | None = None,
    overwrite: bool = False,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> None:
    """Draw a learned subject from four sides, a set per seed, as a PNG: what `mvdream` will be taught by.

    Args:
        subject: folder written by `learn`.
        prompt: text with `{subject}`; the cameras say the view.
        output: ends in .png.
        seeds: a row of four views each, from the front on.
        elevation: degrees above the horizon.
        multiview: folder of a multi-view adapter; None: the base's own.
        base: another base of the same family.
        steps: of sampling; None takes the subject's.
        overwrite: replace what is there.
        device, precision: where and how the base runs.
        reporter: hears the progress.

    Raises:
        UsageError, ArtifactError, ModelError: with what to do.
    """
    check_free(output, ("png",), overwrite)
    if not seeds or not 0 <= elevation <= 60:
        raise UsageError(f"expected one or more seeds and an elevation in [0, 60], got {list(seeds)} and {elevation}.")
    artifact = Artifact.load(subject)
    text, name = artifact.concept.prompt(prompt), base or artifact.data.base_name
    adapter = MultiViewAdapter.load(find_adapter(name, multiview))
    backbone = artifact.backbone(name, device=device, precision=precision)
    if not isinstance(backbone, AbstractUnetBackbone):
        raise UsageError(f"views are drawn together by a UNet, which {name} has not; take another --base.")
    sampling = artifact.sampling
    config = sampling if steps is None else dataclasses.replace(sampling, num_inference_steps=steps)
    with artifact.applied(backbone):
        cameras = ring(_LOOKS, elevation=elevation)
        adapter.to(backbone.device)
        images = sample_sets(
            backbone, adapter, [text] * len(seeds), cameras, seeds=seeds, config=config,
            negative_prompt=artifact.concept.negative_prompt(), reporter=reporter or SilentReporter(),
        )  # fmt: skip
    atomic_write_bytes(output, sheet(images.flatten(0, 1) / 2 + 0.5, columns=_LOOKS))
