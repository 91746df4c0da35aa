"""`python -m pcs_ext.toybox.world.sheets`: the contact sheets of the world that the docs show."""

import dataclasses
import io
from pathlib import Path

import torch
import tyro
from torch import Tensor

from pcs_ext.config_io import atomic_write_bytes
from pcs_ext.image.levels import to_pil
from pcs_ext.toybox.world.flow import flow
from pcs_ext.toybox.world.render import render, render_rgb
from pcs_ext.toybox.world.sampling import frame, sample_scene
from pcs_ext.toybox.world.scene import Scene, SceneObject
from pcs_ext.toybox.world.subjects import SUBJECTS, reference_scenes
from pcs_ext.toybox.world.vocabulary import CLASSES, COLORS, CONTEXTS, MOTIONS, STYLES

_SIDE = 128


def tile(images: Tensor, columns: int) -> Tensor:
    """`n c h w` to one `c H W` picture, row by row."""
    n, c, h, w = images.shape
    grid = images.view(n // columns, columns, c, h, w).permute(2, 0, 3, 1, 4)
    return grid.reshape(c, n // columns * h, columns * w)


def truth_sheet(generator: torch.Generator, count: int = 6) -> Tensor:
    """Rows: picture, coverage, depth, normals, object coordinates, parts; one scene per column. `3 H W` in [-1, 1]."""
    scenes = [sample_scene(generator, two_objects=1.0 if i == count - 1 else 0.0) for i in range(count)]
    shown = render(scenes, resolution=_SIDE)
    near = 1 / shown.depth
    depth = (near / near.amax((1, 2), keepdim=True)).clamp(0, 1)[:, None].expand(-1, 3, -1, -1)
    on = shown.mask[:, None]
    places = torch.where(
        on, shown.object_coordinates * shown.object_coordinates.new_tensor([0.8, 0.8, 0.5])[:, None, None], 0
    )
    places = torch.where(on, places + places.new_tensor([0.5, 0.5, 0.0])[:, None, None], 0).clamp(0, 1)
    hues = torch.rand(64, 3, generator=torch.Generator().manual_seed(4)) * 0.8 + 0.2
    parts = torch.where(on, hues[shown.part_ids.clamp_min(0) % 64].permute(0, 3, 1, 2), 0)
    coverage = shown.coverage[:, None].expand(-1, 3, -1, -1)
    truths = [coverage, depth, (shown.normals * 0.5 + 0.5) * on, places, parts]
    return tile(torch.cat([shown.rgb, *(truth * 2 - 1 for truth in truths)]), count)


def class_sheet() -> Tensor:
    """Every class in its own colour, average proportions, then every context."""
    colors = list(COLORS)
    toys = [
        SceneObject(class_name=name, color=colors[i], second_color=colors[(i + 5) % 12])
        for i, name in enumerate(CLASSES)
    ]
    scenes = [
        Scene(objects=(toy,), camera=frame((toy,), 28, 14, fill=0.95), context=CONTEXTS[i % 11])
        for i, toy in enumerate(toys)
    ]
    return tile(render_rgb(scenes, resolution=_SIDE), 6)


def style_sheet() -> Tensor:
    """One scene per row in all styles."""
    scenes = []
    for name, place in zip(("robot", "cat", "boat"), (CONTEXTS[2], CONTEXTS[5], CONTEXTS[0]), strict=True):
        toy = SceneObject(class_name=name, color="orange", second_color="blue")
        camera = frame((toy,), 25, 14, fill=0.95)
        scenes += [Scene(objects=(toy,), camera=camera, context=place, style=style) for style in STYLES]
    return tile(render_rgb(scenes, resolution=_SIDE), len(STYLES))


def subject_sheet() -> Tensor:
    """The five reference scenes of every subject, two subjects per row."""
    scenes = [scene for name in SUBJECTS for scene in reference_scenes(name)]
    return tile(render_rgb(scenes, resolution=_SIDE), 10)


def motion_sheet(frames: int = 8) -> Tensor:
    """Every motion in a row, the flow from each frame to the next below it (hue: direction, brightness: length)."""
    toy = SceneObject(class_name="dog", color="yellow", second_color="brown")
    rows = []
    for number, motion in enumerate(MOTIONS):
        scene = Scene(objects=(toy,), camera=frame((toy,), 40, 12, fill=0.6), context=CONTEXTS[number], motion=motion)
        times = [i / (frames - 1) for i in range(frames)]
        rows.append(render_rgb([scene.at(time) for time in times], resolution=96))
        pairs = zip(times, [*times[1:], 1.0], strict=True)
        rows.append(torch.stack([_flow_picture(flow(scene, a, b, resolution=96).displacement) for a, b in pairs]))
    return tile(torch.cat(rows), frames)


def panorama_sheet() -> Tensor:
    """360 degree pictures of four contexts, the camera among the toys."""
    toys = tuple(
        dataclasses.replace(SceneObject(class_name=name, color=a, second_color=b), position=place, heading=turn)
        for name, a, b, place, turn in (
            ("robot", "red", "gray", (0.0, 2.6, 0.0), 0.0),
            ("house", "yellow", "brown", (2.8, -0.4, 0.0), -90.0),
            ("car", "blue", "white", (-2.4, 1.0, 0.0), 60.0),
            ("tree", "green", "brown", (-1.6, -2.4, 0.0), 150.0),
        )
    )
    camera = dataclasses.replace(
        frame(toys[:1], 0, 0, fill=1.0), projection="equirectangular", distance=0.0, elevation=0.0, target=(0, 0, 1.0)
    )
    scenes = [Scene(objects=toys, camera=camera, context=CONTEXTS[i]) for i in (2, 7, 4, 9)]
    return tile(render_rgb(scenes, resolution=192), 2)


def _flow_picture(displacement: Tensor) -> Tensor:
    x, y = displacement
    length = (torch.hypot(x, y) / 12).clamp(0, 1)
    angle = torch.atan2(y, x)
    hues = torch.stack([0.5 + 0.5 * torch.cos(angle + shift) for shift in (0.0, 2.0944, -2.0944)])
    return (hues * length) * 2 - 1


def main(output: Path = Path("docs/images")) -> None:
    """Write the contact sheets of the world as PNG files.

    Args:
        output: folder to write to.
    """
    sheets = {
        "classes": class_sheet(),
        "styles": style_sheet(),
        "truth": truth_sheet(torch.Generator().manual_seed(11)),
        "subjects": subject_sheet(),
        "motions": motion_sheet(),
        "panoramas": panorama_sheet(),
    }
    for name, picture in sheets.items():
        buffer = io.BytesIO()
        to_pil(picture).save(buffer, "PNG", optimize=True)
        atomic_write_bytes(output / f"world_{name}.png", buffer.getvalue())


if __name__ == "__main__":
    tyro.cli(main)
