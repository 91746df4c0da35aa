"""What `benchmarks.conditions` measures: one swap of a learned subject, one layout, one mask at a time."""

import dataclasses
import statistics
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.arms import Figures
from pcs_ext.errors import InputError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.boxes import Box
from pcs_ext.image.edits.layout import LayoutConfig, layout_hooks
from pcs_ext.image.edits.one_by_one import one_by_one
from pcs_ext.image.edits.settings import resolve_edit
from pcs_ext.image.edits.swap import SwapConfig
from pcs_ext.image.edits.swap_picture import swap_picture
from pcs_ext.image.evaluate.encoders import ImageEncoder
from pcs_ext.image.levels import to_pil
from pcs_ext.image.locate import locate
from pcs_ext.image.sample import sample
from pcs_ext.image.subject import Artifact
from pcs_ext.runtime import generator_for
from pcs_ext.toybox.oracle import Oracle
from pcs_ext.toybox.world.boxes import boxes
from pcs_ext.toybox.world.captions import caption
from pcs_ext.toybox.world.render import render, render_rgb
from pcs_ext.toybox.world.sampling import attributes, sample_scene
from pcs_ext.toybox.world.scene import Scene

SWAPS = ("photoswap", "swapanything")
AS_IT_IS, NO_ATTENTION, PLAIN = "the picture as it is", "no attention", "plain generation"
SWAP_ARMS = (AS_IT_IS, *SWAPS, NO_ATTENTION, PLAIN)
LAYOUT, RENDERED = "layout-control", "rendered"


def scenes_of(stream: str, count: int, two_objects: float) -> list[Scene]:
    """Photo-style scenes without patterns: always the same ones. Toys of a pair differ in class and colour."""
    found: list[Scene] = []
    index = 0
    while len(found) < count:
        scene = sample_scene(generator_for("toybox", stream, 1, index), style="a photo of", two_objects=two_objects)
        index += 1
        toys = tuple(dataclasses.replace(toy, pattern="", accessory="") for toy in scene.objects)
        distinct = {toy.class_name for toy in toys}, {toy.color for toy in toys}
        if all(len(values) == len(toys) for values in distinct):
            found.append(dataclasses.replace(scene, objects=toys))
    return found


@dataclasses.dataclass(frozen=True)
class Swapper:
    """Puts learned subjects where other toys stand, and says what came of it.

    Args:
        backbone: the subjects' base.
        oracle: reads the view.
        encoder: of likeness.
        steps: of sampling; 0 takes the methods'.
    """

    backbone: AbstractBackbone
    oracle: Oracle
    encoder: ImageEncoder
    steps: int = 0

    def swap(self, arm: str, artifact: Artifact, scene: Scene, seed: int) -> tuple[Tensor, Tensor]:
        """The scene's picture and the arm's with the subject in it, `3 h w` in [-1, 1], of 8-bit levels."""
        truth = render([scene])
        picture, prompt = truth.rgb[0], f"a photo of {{subject}} {scene.context}"
        if arm == AS_IT_IS:
            return _levels(picture), _levels(picture)
        if arm == PLAIN:
            with artifact.applied(self.backbone), torch.inference_mode():
                texts = [artifact.concept.prompt(prompt)]
                made = sample(self.backbone, texts, seeds=[seed], config=artifact.sampling)[0].float().cpu()
            return _levels(picture), _levels(made)
        noun, mask = scene.objects[0].class_name, truth.mask[0][None].float()
        made = swap_picture(
            artifact, picture, noun=noun, config=self._config(arm), prompt=prompt, mask=mask, base=self.backbone
        )
        return _levels(picture), pixels_of(made.picture.image)

    def _config(self, arm: str) -> SwapConfig:
        config = resolve_edit(arm if arm in SWAPS else SWAPS[0], SwapConfig, "toybox", steps=self.steps)
        if arm == NO_ATTENTION:
            config = dataclasses.replace(config, cross_maps=0.0, self_maps=0.0, self_outputs=0.0)
        return config

    def figures(self, picture: Tensor, made: Tensor, scene: Scene, views: Tensor) -> Figures:
        """Of one swap: `likeness` to true views, the mean cosine; whether the oracle reads the `pose` (the view) of the
        toy that went; `likeness in pose`, 0 where it does not; `outside` of that toy's mask the mean difference in
        levels.

        Args:
            picture, made: as `swap` gives them.
            scene: of the picture.
            views: encodings of true views, `n d`.
        """
        outside = render([scene]).mask[0] == 0
        read = self.oracle.read(made[None])[0]
        with torch.inference_mode():
            likeness = float((self.encoder.encode_images(made[None]) @ views.T).mean())
        posed = read["view"] == attributes(scene)["view"]
        return {
            "likeness": likeness,
            "pose": float(posed),
            "likeness in pose": likeness * posed,
            "outside": float(((made - picture).abs() * 127.5)[outside.expand_as(made)].mean()),
        }


@dataclasses.dataclass(frozen=True)
class Layouts:
    """Two toys asked into boxes: those of a rendered scene, or each other's in every second one.

    Args:
        backbone: the base.
        oracle: reads what stands in a box.
        steps: of sampling; 0 takes the method's.
    """

    backbone: AbstractBackbone
    oracle: Oracle
    steps: int = 0

    def draw(self, arm: str, scene: Scene, index: int, seed: int) -> tuple[Tensor, Figures]:
        """A picture `3 h w`, framed, and `box hits`: the share of class and colour that is read in its boxes."""
        wanted = asked_boxes(scene, exchanged=index % 2 == 1 and arm != RENDERED)
        if arm == RENDERED:
            made = render_rgb([scene])[0]
        else:
            config = resolve_edit(LAYOUT, LayoutConfig, "toybox", steps=self.steps)
            if arm == PLAIN:
                config = dataclasses.replace(config, iterations=0)
            hooks = layout_hooks(self.backbone, caption(scene), wanted, config)
            made = one_by_one(self.backbone, caption(scene), hooks, seeds=[seed], sampling=config.sampling)[0]
        return _framed(made, wanted), {"box hits": statistics.fmean(self._hits(made, wanted))}

    def _hits(self, picture: Tensor, wanted: Sequence[Box]) -> list[float]:
        """For every box 0, one half or 1."""
        read = []
        for box, crop in zip(wanted, crops(picture, wanted), strict=True):
            seen = self.oracle.read(crop[None])[0]
            read.append(statistics.fmean(part in (seen["color"], seen["class"]) for part in box.phrase.split()))
        return read


def crops(picture: Tensor, places: Sequence[Box]) -> Tensor:
    """What stands in each box, with a tenth of its larger side around it, as pictures of the picture's size.

    Args:
        picture: `3 h w` in [-1, 1].
        places: `n` boxes.

    Returns:
        `n 3 h w` in [-1, 1].
    """
    side, found = picture.shape[-1], []
    for box in places:
        half = max(box.right - box.left, box.bottom - box.top) * side * 0.6
        x, y = (box.left + box.right) / 2 * side, (box.top + box.bottom) / 2 * side
        left, top = max(0, round(x - half)), max(0, round(y - half))
        cut = picture[None, :, top : round(y + half), left : round(x + half)]
        found.append(F.interpolate(cut, size=(side, side), mode="bicubic", antialias=True))
    return torch.cat(found).clamp(-1, 1)


def asked_boxes(scene: Scene, exchanged: bool) -> list[Box]:
    """The boxes of a scene's two toys, or each other's."""
    places = boxes(scene).clamp(0, 1).tolist()
    if exchanged:
        places.reverse()
    return [
        Box(phrase=f"{toy.color} {toy.class_name}", left=left, top=top, right=right, bottom=bottom)
        for toy, (left, top, right, bottom) in zip(scene.objects, places, strict=True)
    ]


def mask_overlap(backbone: AbstractBackbone, scene: Scene) -> float:
    """Intersection over union of the first toy's true mask and the one that attention finds; 0: it finds nothing."""
    truth = render([scene])
    true = truth.object_ids[0] == 0
    try:
        found = locate(backbone, truth.rgb[:1], caption(scene), scene.objects[0].class_name)[0, 0] > 0
    except InputError:
        return 0.0
    return float((found & true).sum() / (found | true).sum())


def pixels_of(image: Image.Image) -> Tensor:
    """An RGB image as `3 h w` in [-1, 1]."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.reshape(image.height, image.width, 3).permute(2, 0, 1) / 127.5 - 1


def _levels(picture: Tensor) -> Tensor:
    """As a file would have it."""
    return pixels_of(to_pil(picture))


def _framed(picture: Tensor, wanted: Sequence[Box]) -> Tensor:
    image = to_pil(picture)
    draw = ImageDraw.Draw(image)
    for box in wanted:
        corners = (box.left, box.top, box.right, box.bottom)
        draw.rectangle([min(round(share * image.width), image.width - 1) for share in corners], outline="white")
    return pixels_of(image)
