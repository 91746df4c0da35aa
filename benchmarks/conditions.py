"""`python -m benchmarks.conditions`: swaps and layouts on the embedded world, where masks and boxes are known.

Swaps: toys of rendered pictures are replaced by toys of another class, in plain words; measured are the error outside
of the true mask before and after the edit is put back, and whether the oracle reads the new class. The baseline samples
from the same inverted noise without any attention taken over. Layouts: captions of two toys and the boxes of a rendered
scene, the toys' sides exchanged in every second one; a box is hit when the oracle reads the toy's class and colour in
it. The baseline is plain sampling from the same seeds; the same pictures' renderings bound what the oracle can read.
Masks: overlap of what attention finds with the true mask.
"""

import dataclasses
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from PIL import Image, ImageDraw
from torch import Tensor

from pcs_ext.config_io import write_json
from pcs_ext.errors import InputError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.edits.boxes import Box
from pcs_ext.image.edits.layout import LayoutConfig, layout_hooks
from pcs_ext.image.edits.one_by_one import one_by_one
from pcs_ext.image.edits.region import around, whole
from pcs_ext.image.edits.settings import resolve_edit
from pcs_ext.image.edits.swap import SwapConfig, swap
from pcs_ext.image.locate import locate
from pcs_ext.image.subject import to_pil
from pcs_ext.reporter import ConsoleReporter
from pcs_ext.runtime import generator_for
from pcs_ext.toybox import weights_path
from pcs_ext.toybox.oracle import Oracle
from pcs_ext.toybox.world.boxes import boxes
from pcs_ext.toybox.world.captions import caption
from pcs_ext.toybox.world.render import render, render_rgb
from pcs_ext.toybox.world.sampling import sample_scene
from pcs_ext.toybox.world.scene import Scene
from pcs_ext.toybox.world.vocabulary import CLASSES

ROOT = Path(__file__).parents[1]
SWAPS = ("photoswap", "swapanything")


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


def levels(a: Tensor, b: Tensor, where: Tensor) -> float:
    """Mean absolute difference in 8-bit levels over pixels where a mask is set."""
    return float(((a - b).abs() * 127.5)[where.expand_as(a)].mean())


def measure_swaps(
    backbone: AbstractBackbone, oracle: Oracle, count: int, steps: int, sheet: list[list[Tensor]]
) -> dict[str, dict[str, list[float]]]:
    """By method: `outside` before and `outside_pasted` after putting back, in levels; `class` read right, 0 or 1."""
    scenes = scenes_of("swaps", count, 0.0)
    truth = render(scenes)
    found: dict[str, dict[str, list[float]]] = {}
    for index, scene in enumerate(scenes):
        old = scene.objects[0].class_name
        new = CLASSES[(CLASSES.index(old) + 5) % len(CLASSES)]
        picture, mask = truth.rgb[index][None], truth.mask[index][None, None].float()
        source, target = (f"a photo of a {noun} {scene.context}" for noun in (old, new))
        line = [picture]
        for method in (*SWAPS, "no attention"):
            config = resolve_edit(SWAPS[0] if method not in SWAPS else method, SwapConfig, "toybox", steps=steps)
            if method not in SWAPS:
                config = dataclasses.replace(config, cross_maps=0.0, self_maps=0.0, self_outputs=0.0)
            region = around(mask, config.margin, backbone) if config.crop else whole(picture, backbone)
            edited = swap(
                backbone,
                region.cut(picture),
                region.cut_mask(mask),
                source_prompt=source,
                target_prompt=target,
                config=config,
            )
            pasted = region.paste(picture, edited, mask, 0.0)
            figures = found.setdefault(method, {"outside": [], "outside_pasted": [], "class": []})
            figures["outside"].append(levels(edited, region.cut(picture), region.cut_mask(mask) == 0))
            figures["outside_pasted"].append(levels(pasted, picture, mask == 0))
            figures["class"].append(float(oracle.read(pasted)[0]["class"] == new))
            line.append(pasted)
        sheet.append(line)
    return found


def asked_boxes(scene: Scene, exchanged: bool) -> list[Box]:
    """The boxes of a scene's two toys, or each other's."""
    places = boxes(scene).clamp(0, 1).tolist()
    if exchanged:
        places.reverse()
    return [
        Box(phrase=f"{toy.color} {toy.class_name}", left=left, top=top, right=right, bottom=bottom)
        for toy, (left, top, right, bottom) in zip(scene.objects, places, strict=True)
    ]


def hits(oracle: Oracle, picture: Tensor, wanted: list[Box]) -> list[float]:
    """For every box, the share of class and colour that the oracle reads in it: 0, one half or 1."""
    side, read = picture.shape[-1], []
    for box in wanted:
        half = max(box.right - box.left, box.bottom - box.top) * side * 0.6
        x, y = (box.left + box.right) / 2 * side, (box.top + box.bottom) / 2 * side
        left, top = max(0, round(x - half)), max(0, round(y - half))
        cut = picture[None, :, top : round(y + half), left : round(x + half)]
        crop = F.interpolate(cut, size=(side, side), mode="bicubic", antialias=True)
        seen = oracle.read(crop.clamp(-1, 1))[0]
        read.append(statistics.fmean(part in (seen["color"], seen["class"]) for part in box.phrase.split()))
    return read


def measure_layouts(
    backbone: AbstractBackbone, oracle: Oracle, count: int, steps: int, sheet: list[list[Tensor]]
) -> dict[str, list[float]]:
    """Hits of every box by `layout-control`, `plain` and `rendered` (true pictures in their own boxes)."""
    scenes = scenes_of("layouts", count, 1.0)
    rendered = render_rgb(scenes)
    config = resolve_edit("layout-control", LayoutConfig, "toybox", steps=steps)
    off = dataclasses.replace(config, iterations=0)
    found: dict[str, list[float]] = {"layout-control": [], "plain": [], "rendered": []}
    for index, scene in enumerate(scenes):
        wanted = asked_boxes(scene, exchanged=index % 2 == 1)
        line = [rendered[index][None]]
        for method, settings in (("plain", off), ("layout-control", config)):
            prompt = caption(scene)
            hooks = layout_hooks(backbone, prompt, wanted, settings)
            made = one_by_one(backbone, prompt, hooks, seeds=[index], sampling=settings.sampling)
            found[method] += hits(oracle, made[0], wanted)
            line.append(_framed(made[0], wanted)[None])
        found["rendered"] += hits(oracle, rendered[index], asked_boxes(scene, exchanged=False))
        sheet.append(line)
    return found


def measure_masks(backbone: AbstractBackbone, count: int) -> list[float]:
    """Intersection over union of found and true masks; 0 where nothing was found."""
    scenes = scenes_of("masks", count, 0.5)
    truth = render(scenes)
    overlaps = []
    for index, scene in enumerate(scenes):
        true = truth.object_ids[index] == 0
        try:
            mask = locate(backbone, truth.rgb[index][None], caption(scene), scene.objects[0].class_name)[0, 0] > 0
        except InputError:
            overlaps.append(0.0)
            continue
        overlaps.append(float((mask & true).sum() / (mask | true).sum()))
    return overlaps


def _framed(picture: Tensor, wanted: list[Box]) -> Tensor:
    image = to_pil(picture)
    draw = ImageDraw.Draw(image)
    for box in wanted:
        corners = (box.left, box.top, box.right, box.bottom)
        draw.rectangle([min(round(share * image.width), image.width - 1) for share in corners], outline="white")
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.reshape(image.height, image.width, 3).permute(2, 0, 1) / 127.5 - 1


def row(system: str, metric: str, values: list[float], baseline: str, against: list[float], up: bool) -> dict[str, Any]:
    """One row of a result file; the spread is the standard error of the mean."""
    return {
        "system": system, "metric": metric, "higher_is_better": up, "value": statistics.fmean(values),
        "spread": statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None, "n": len(values),
        "baseline": baseline, "baseline_value": statistics.fmean(against) if against else None,
    }  # fmt: skip


def main(
    swaps: int = 12,
    layouts: int = 12,
    masks: int = 24,
    steps: int = 0,
    output: Path = ROOT / "results" / "conditions.json",
    sheet: Path = ROOT / "docs" / "images" / "conditions.png",
) -> None:
    """Sample, measure, write.

    Args:
        swaps: pictures whose toy is swapped.
        layouts: scenes of two toys.
        masks: pictures in which a toy is looked for.
        steps: of sampling; 0 takes the methods'.
        output: result file.
        sheet: pictures; per swap the original, each method and the baseline, per layout the scene, plain and guided.
    """
    backbone, oracle = load_backbone("toybox", device="cpu", precision="fp32"), Oracle.load(weights_path("oracle"))
    pictures: list[list[Tensor]] = []
    reporter, rows = ConsoleReporter(), []
    if masks > 0:
        rows.append(row("photoswap", "mask IoU", measure_masks(backbone, masks), "", [], True))
        reporter.event("masks", f"mask IoU {rows[-1]['value']:.3f}")
    if swaps > 0:
        swapped = measure_swaps(backbone, oracle, swaps, steps, pictures)
        for metric, up in (("outside", False), ("outside_pasted", False), ("class", True)):
            rows += [
                row(method, metric, swapped[method][metric], "no attention", swapped["no attention"][metric], up)
                for method in SWAPS
            ]
    if layouts > 0:
        found = measure_layouts(backbone, oracle, layouts, steps, pictures)
        rows.append(row("layout-control", "box hits", found["layout-control"], "plain", found["plain"], True))
        rows.append(row("layout-control", "box hits of renderings", found["rendered"], "", [], True))
    for entry in rows:
        reporter.event(
            "row", f"{entry['system']:16} {entry['metric']:24} {entry['value']:.3f} ({entry['baseline_value']})"
        )
    command = " ".join(["python -m benchmarks.conditions", *sys.argv[1:]])
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    write_json(output, {"command": command, "machine": machine, "seeds": [0], "rows": rows})
    if pictures:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        _sheet(pictures).save(sheet)


def _sheet(lines: list[list[Tensor]]) -> Image.Image:
    side, columns = lines[0][0].shape[-1], max(len(line) for line in lines)
    sheet = Image.new("RGB", (columns * side, len(lines) * side), "white")
    for y, line in enumerate(lines):
        for x, picture in enumerate(line):
            sheet.paste(to_pil(picture[0]), (x * side, y * side))
    return sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST)


if __name__ == "__main__":
    tyro.cli(main)
