"""What clips are judged by: the motion reader, the world's flow, the oracle and the image encoder of toybox."""

import functools
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.video_world import Pair, example, true_scenes
from pcs_ext.image.evaluate import load_image_encoder
from pcs_ext.image.evaluate.metrics import attribute_hits, reference_similarity
from pcs_ext.runtime import generator_for
from pcs_ext.toybox import weights_path
from pcs_ext.toybox.motion_reader import MotionReader
from pcs_ext.toybox.oracle import Oracle
from pcs_ext.toybox.world.render import render_rgb
from pcs_ext.toybox.world.subjects import novel_views
from pcs_ext.video.evaluate import leaked_attributes, motion_fidelity, temporal_consistency

MEASURES: dict[str, bool] = {
    "motion-read": True,
    "motion-fidelity": True,
    "subject": True,
    "class": True,
    "prompt": True,
    "consistency": True,
    "leakage": False,
    "leaked-attributes": False,
}
"""Measure -> whether higher is better.

motion-read: 1 where the reader names the motion. motion-fidelity: to the true flow of the clip it was learned from.
subject: mean cosine of frames to true views. class: share of frames that show it. prompt: share of style and place as
asked for. leakage: mean cosine of frames to those of the learned clip. leaked-attributes: share of that clip's class
and place where others were asked for."""
_TRUE_VIEWS = 16


class VideoJudges:
    """All of them, loaded once.

    Raises:
        ModelError: a model is missing; the motion reader is the one most likely to be.
    """

    def __init__(self, reader: Path, resolution: int) -> None:
        self.resolution = resolution
        self.reader = MotionReader.load(reader)
        self.oracle = Oracle.load(weights_path("oracle"))
        self.encoder = load_image_encoder(weights_path("dino"))
        self._views = functools.cache(self._true_views)
        self._example = functools.cache(lambda motion: example(motion, resolution=resolution))
        self._example_features = functools.cache(lambda motion: self._features(self._example(motion).clip))

    @torch.inference_mode()
    def measure(self, frames: Tensor, pair: Pair) -> dict[str, float | None]:
        """All measures of a clip `f 3 h w` in [-1, 1] that was asked for as the pair says."""
        shown, asked = self._example(pair.motion), pair.asked
        features, read = self._features(frames), self.oracle.read(frames)
        of_prompt = {kind: value for kind, value in asked.items() if kind != "class"}
        hits = attribute_hits(read, [of_prompt] * len(read))
        others = {kind: value for kind, value in asked.items() if kind != "style"}
        return {
            "motion-read": float(self.reader.read(frames[None])[0] == pair.motion),
            "motion-fidelity": motion_fidelity(frames, shown.flow),
            "subject": reference_similarity(features, self._views(pair.subject)).mean().item(),
            "class": statistics.fmean(facts["class"] == asked["class"] for facts in read),
            "prompt": statistics.fmean(right for _, _, right in hits),
            "consistency": temporal_consistency(features[None]).item(),
            "leakage": reference_similarity(features, self._example_features(pair.motion)).mean().item(),
            "leaked-attributes": leaked_attributes(read, shown.shows, others),
        }

    def truth(self, wanted: Sequence[Pair]) -> list[dict[str, float | None]]:
        """The measures of the world's own clips of the pairs: what a perfect method would get."""
        return [self.measure(render_rgb(true_scenes(pair), resolution=self.resolution), pair) for pair in wanted]

    def _features(self, frames: Tensor) -> Tensor:
        return torch.cat([self.encoder.encode_images(part) for part in frames.split(16)])

    def _true_views(self, name: str) -> Tensor:
        generator = generator_for("video systems", name)
        return self._features(novel_views(name, _TRUE_VIEWS, generator, resolution=self.resolution).images)
