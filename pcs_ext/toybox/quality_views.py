"""How well the multi-view adapter draws four sides of one toy, on captions that no training run has seen."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.evaluate.encoders import ImageEncoder, load_image_encoder
from pcs_ext.image.sample import SampleConfig, sample
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import seed_for
from pcs_ext.threed.multiview import MultiViewAdapter
from pcs_ext.threed.view_sets import sample_sets
from pcs_ext.toybox.oracle import Oracle
from pcs_ext.toybox.quality_measures import Measured, figure
from pcs_ext.toybox.train.views import VIEWS, cameras_of, sets_of
from pcs_ext.toybox.world.captions import caption, relative_view
from pcs_ext.toybox.world.render import render_rgb
from pcs_ext.toybox.world.scene import Scene

_CONFIG = SampleConfig(scheduler="ddim", num_inference_steps=30, guidance_scale=5.0)
_FRONT = (0.0, 90.0, 180.0, -90.0)
"""Azimuths of the views: none lies where one view word turns into the next."""


def measure_views(weights: Path, count: int, reporter: Reporter) -> tuple[list[Measured], Tensor]:
    """What sets of views drawn from held-out captions show, and the sets, `n 4 3 h w`.

    `views/view`: view read as the camera has it; `views/class`: class read as asked, off every view; `views/alike`:
    mean cosine of the views of a set by the image encoder, divided by that of true sets. `words/...`: the same of the
    base alone, which is told the view in words, from the same noise.

    Args:
        weights: folder of `base`, `multiview`, `oracle` and `dino`.
        count: captions.
        reporter: hears the progress.
    """
    start = time.perf_counter()
    backbone = load_backbone(weights / "base", device="cpu", precision="fp32")
    assert isinstance(backbone, AbstractUnetBackbone)
    adapter = MultiViewAdapter.load(weights / "multiview")
    scenes = [_turned(views[0]) for views in sets_of("held-out views", 0, count)]
    said = [caption(views[0], view=False) for views in scenes]
    seeds = [seed_for("toybox", "views", index) for index in range(count)]
    cameras = cameras_of([scene.camera for scene in scenes[0]])
    joint = sample_sets(backbone, adapter, said, cameras, seeds=seeds, config=_CONFIG, reporter=reporter)
    told = [f"{text}, {relative_view(scene)}" for text, views in zip(said, scenes, strict=True) for scene in views]
    alone = [seed_for(seed, "view", view) for seed in seeds for view in range(VIEWS)]
    with torch.no_grad():
        words = sample(backbone, told, seeds=alone, config=_CONFIG, reporter=reporter).unflatten(0, (-1, VIEWS))
    true = render_rgb([scene for views in scenes for scene in views], resolution=backbone.resolution)
    oracle, encoder = Oracle.load(weights / "oracle"), load_image_encoder(weights / "dino")
    ratio = sum(_alike(encoder, true.unflatten(0, (-1, VIEWS)))) / count
    figures = []
    for name, images in (("views", joint), ("words", words)):
        figures += _read(name, oracle, images, scenes, start)
        figures.append(figure(f"{name}/alike", [value / ratio for value in _alike(encoder, images)], start))
    return figures, joint


def _turned(scene: Scene) -> list[Scene]:
    """The scene from the front, both sides and the back, at one height."""
    place = {**vars(scene.camera), "elevation": 15.0}
    camera = type(scene.camera)
    return [Scene(**{**vars(scene), "camera": camera(**{**place, "azimuth": angle})}) for angle in _FRONT]


def _read(name: str, oracle: Oracle, images: Tensor, scenes: Sequence[Sequence[Scene]], start: float) -> list[Measured]:
    read = oracle.read(images.flatten(0, 1))
    shown = [scene for views in scenes for scene in views]
    view = [float(have["view"] == relative_view(scene)) for have, scene in zip(read, shown, strict=True)]
    kind = [float(have["class"] == scene.objects[0].class_name) for have, scene in zip(read, shown, strict=True)]
    return [figure(f"{name}/view", view, start), figure(f"{name}/class", kind, start)]


def _alike(encoder: ImageEncoder, images: Tensor) -> list[float]:
    """Mean cosine of two different views of a set, per set `v 3 h w`."""
    features = torch.cat([encoder.encode_images(part) for part in images.flatten(0, 1).split(64)])
    features = features.unflatten(0, images.shape[:2])
    cosines = features @ features.transpose(1, 2)
    count = images.shape[1]
    return ((cosines.sum((1, 2)) - count) / (count * (count - 1))).tolist()
