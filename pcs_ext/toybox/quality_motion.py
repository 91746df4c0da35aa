"""How well clips move, measured on clips that no training run has seen."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.image.evaluate.encoders import load_image_encoder
from pcs_ext.image.sample import SampleConfig
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import seed_for
from pcs_ext.toybox.motion_reader import NONE, MotionReader
from pcs_ext.toybox.oracle import Oracle
from pcs_ext.toybox.quality_measures import Measured, figure
from pcs_ext.toybox.train.clips import FRAMES, clips_of
from pcs_ext.toybox.world.captions import caption
from pcs_ext.toybox.world.render import render_rgb
from pcs_ext.toybox.world.scene import Scene
from pcs_ext.video.backbones.load import load_video_backbone
from pcs_ext.video.evaluate import temporal_consistency
from pcs_ext.video.sample import ClipConfig, sample_clips


def held_out_clips(count: int, resolution: int, *, seed: int = 1) -> tuple[list[list[Scene]], Tensor]:
    """The first held-out clips, always the same ones: their scenes and `n f 3 h w` in [-1, 1]."""
    clips = clips_of("held-out clips", 0, count, seed=seed)
    images = render_rgb([frame for clip in clips for frame in clip], resolution=resolution)
    return clips, images.unflatten(0, (count, FRAMES))


def measure_motion_reader(folder: Path, clips: Sequence[Sequence[Scene]], images: Tensor) -> list[Measured]:
    """Share of true clips whose motion is read right, and of stopped ones of which it says that nothing moves.

    Raises:
        ModelError: no reader in the folder.
    """
    start, reader = time.perf_counter(), MotionReader.load(folder)
    moving = [float(read == clip[0].motion) for read, clip in zip(reader.read(images), clips, strict=True)]
    still = [float(read == NONE) for read in reader.read(images[:, :1].expand_as(images))]
    return [figure("reader/motion", moving, start), figure("reader/still", still, start)]


def measure_clips(
    weights: Path, clips: Sequence[Sequence[Scene]], images: Tensor, reporter: Reporter
) -> tuple[list[Measured], Tensor]:
    """What clips generated from the captions of true clips show, and the clips, `n f 3 h w`.

    `clips/motion`: motion read as asked. `clips/class`: class read as asked off the middle frame. `clips/consistency`:
    mean cosine of neighbouring frames by the image encoder, divided by that of the true clips.

    Args:
        weights: folder of `base`, `motion`, `motion_reader`, `oracle` and `dino`.
        clips: scenes.
        images: their pictures, `n f 3 h w`.
        reporter: hears the progress.
    """
    start = time.perf_counter()
    backbone = load_video_backbone(weights / "base", weights / "motion", device="cpu", precision="fp32")
    config = SampleConfig(scheduler="ddim", num_inference_steps=30, guidance_scale=5.0)
    with torch.inference_mode():
        made = sample_clips(
            backbone,
            [caption(clip[0]) for clip in clips],
            seeds=[seed_for("toybox", "clips", index) for index in range(len(clips))],
            config=config,
            clip=ClipConfig(frames=FRAMES),
            batch_size=4,
            reporter=reporter,
        ).transpose(1, 2)
    motions = MotionReader.load(weights / "motion_reader").read(made)
    classes = Oracle.load(weights / "oracle").read(made[:, FRAMES // 2])
    truth = [clip[0] for clip in clips]
    encoder = load_image_encoder(weights / "dino")
    steady, true = (_neighbours(encoder, shown) for shown in (made, images))
    ratio = sum(true) / len(true)
    return [
        figure("clips/motion", [float(a == b.motion) for a, b in zip(motions, truth, strict=True)], start),
        figure(
            "clips/class",
            [float(a["class"] == b.objects[0].class_name) for a, b in zip(classes, truth, strict=True)],
            start,
        ),
        figure("clips/consistency", [value / ratio for value in steady], start),
    ], made


def _neighbours(encoder, clips: Tensor) -> list[float]:
    """Mean cosine of neighbouring frames, per clip `f 3 h w`."""
    features = torch.cat([encoder.encode_images(part) for part in clips.flatten(0, 1).split(64)])
    features = features.unflatten(0, clips.shape[:2])
    return temporal_consistency(features).tolist()
