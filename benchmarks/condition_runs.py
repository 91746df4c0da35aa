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
from pcs_ext.image.masks import grown
from pcs_ext.image.sample import sample
from pcs_ext.image.subject import Artifact
from pcs_ext.runtime import generator_for
from pcs_ext.toybox.oracle import Oracle
from pcs_ext.toybox.world.boxes import boxes
from pcs_ext.toybox.world.captions import caption
from pcs_ext.toybox.world.render import render, render_rgb
from pcs_ext.toybox.world.sampling import attributes, sample_scene
from pcs_ext.toybox.world.scene import Scene
from pcs_ext.toybox.world.subjects import subject

SWAPS = ("photoswap", "swapanything")
AS_IT_IS, NO_ATTENTION, PLAIN = "the picture as it is", "no attention", "plain generation"
TRUE_SWAP = "rendered swap"
SWAP_ARMS = (AS_IT_IS, *SWAPS, NO_ATTENTION, PLAIN, TRUE_SWAP)
SIDES = 8
"""From which a subject is rendered to tell its pose."""
_ROOM = 3
"""Pixels of 64 by which a toy's mask is larger than it, as users are told to draw it."""
LAYOUT, BACKWARD, RENDERED = "layout-control", "backward guidance alone", "rendered"


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

    def swap(self, arm: str, artifact: Artifact, scene: Scene, name: str, seed: int) -> Tensor:
        """The arm's picture of a scene with the subject in it, `3 h w` in [-1, 1], of 8-bit levels."""
        prompt = f"a photo of {{subject}} {scene.context}"
        if arm == AS_IT_IS:
            return _levels(render_rgb([scene])[0])
        if arm == TRUE_SWAP:
            return _levels(true_swaps(scene, name)[0])
        if arm == PLAIN:
            with artifact.applied(self.backbone), torch.inference_mode():
                texts = [artifact.concept.prompt(prompt)]
                return _levels(sample(self.backbone, texts, seeds=[seed], config=artifact.sampling)[0].float().cpu())
        made = swap_picture(
            artifact, render_rgb([scene])[0], noun=scene.objects[0].class_name, config=self._config(arm),
            prompt=prompt, mask=swap_mask(scene), base=self.backbone,
        )  # fmt: skip
        return pixels_of(made.picture.image)

    def _config(self, arm: str) -> SwapConfig:
        config = resolve_edit(arm if arm in SWAPS else SWAPS[0], SwapConfig, "toybox", steps=self.steps)
        if arm == NO_ATTENTION:
            config = dataclasses.replace(config, cross_maps=0.0, self_maps=0.0, self_outputs=0.0)
        return config

    def figures(self, made: Tensor, scene: Scene, name: str, views: Tensor) -> Figures:
        """Of one swap: `likeness` inside of the mask, the mean cosine to true views of the picture with that much of
        what was made; whether it has the `pose` of the toy that went, to 45 degrees; `likeness in pose`, 0 where it
        does not; `view read`, whether the oracle reads that toy's view; mean differences in levels: `inside` of the
        mask from the rendered swap, `outside` from the picture.

        Args:
            made: as `swap` gives it.
            scene: of the picture.
            name: of the subject.
            views: encodings of true views, `n d`.
        """
        original, true, inside = _levels(render_rgb([scene])[0]), true_swaps(scene, name), swap_mask(scene) > 0
        put_in = torch.where(inside, made, original)
        with torch.inference_mode():
            likeness = float((self.encoder.encode_images(put_in[None]) @ views.T).mean())
        # What is not touched keeps its pose, whichever side of the subject is nearest.
        posed = torch.equal(made, original) or nearest_side(made, true) in (0, 1, SIDES - 1)
        return {
            "likeness": likeness,
            "pose": float(posed),
            "likeness in pose": likeness * posed,
            "view read": float(self.oracle.read(made[None])[0]["view"] == attributes(scene)["view"]),
            "inside": _apart(made, true[0], inside),
            "outside": _apart(made, original, ~inside),
        }


def swap_mask(scene: Scene) -> Tensor:
    """Of a scene's toy, a little larger than it: `1 h w` of zeros and ones."""
    return grown(render([scene]).mask[:1, None].float(), _ROOM)[0]


def true_swaps(scene: Scene, name: str) -> Tensor:
    """A subject in the place of a scene's toy, `SIDES 3 h w`: first as that one stands, then turned further and
    further about its own axis.

    Args:
        scene: of one toy.
        name: of the subject.
    """
    toy = scene.objects[0]
    turned = [
        dataclasses.replace(
            subject(name), position=toy.position, heading=toy.heading + 360 * side / SIDES, roll=toy.roll
        )
        for side in range(SIDES)
    ]
    return render_rgb([dataclasses.replace(scene, objects=(one,)) for one in turned])


def nearest_side(made: Tensor, true: Tensor) -> int:
    """Which of `true_swaps` a picture is nearest to, by where something stands: how far pixels are from the median of
    all sides, 16 x 16, less the mean of the sides. Colours count little, as a swap may have mixed ones.

    Args:
        made: `3 h w`.
        true: `SIDES 3 h w`.
    """
    stands = (torch.cat([made[None], true]) - true.median(0).values).abs().mean(1, keepdim=True)
    features = F.adaptive_avg_pool2d(stands, 16).flatten(1)
    apart = F.normalize(features - features[1:].mean(0), dim=1)
    return int((apart[1:] @ apart[0]).argmax())


def _apart(one: Tensor, other: Tensor, where: Tensor) -> float:
    """Mean difference in levels of two pictures `3 h w` where a mask `1 h w` says."""
    return float(((one - other).abs() * 127.5)[where.expand_as(one)].mean())


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
            config = self._config(arm)
            hooks = layout_hooks(self.backbone, caption(scene), wanted, config)
            made = one_by_one(self.backbone, caption(scene), hooks, seeds=[seed], sampling=config.sampling)[0]
        return _framed(made, wanted), {"box hits": statistics.fmean(self._hits(made, wanted))}

    def _config(self, arm: str) -> LayoutConfig:
        config = resolve_edit(LAYOUT, LayoutConfig, "toybox", steps=self.steps)
        if arm == LAYOUT:
            return config
        moves = LayoutConfig(id=LAYOUT, sampling=config.sampling).iterations if arm == BACKWARD else 0
        return dataclasses.replace(config, forward=0.0, iterations=moves)

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
