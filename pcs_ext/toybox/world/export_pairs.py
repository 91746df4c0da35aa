"""`python -m pcs_ext.toybox.world.export_pairs`: what reference adapters learn from, as the folders a user would have.

Random toys, a subfolder each, every photo in another place, light, style and from another side, with its mask, a
caption that leaves out what another photo tells (colours, patterns), from where it was taken, and the toy's class in
`noun.txt`. Some subfolders show two toys side by side, with a mask and a noun for each. On request condition maps lie
beside the photos, in folders that are named after their kinds.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import torch
import tyro
from PIL import Image
from torch import Tensor

from pcs_ext.config_io import atomic_folder
from pcs_ext.image.levels import to_pil
from pcs_ext.image.png import png_bytes
from pcs_ext.reporter import ConsoleReporter, Reporter
from pcs_ext.runtime import generator_for
from pcs_ext.toybox.world.captions import relative_view
from pcs_ext.toybox.world.condition_maps import WorldMap, world_maps
from pcs_ext.toybox.world.export_job import LEAST_SIDE, check_counts, run_export
from pcs_ext.toybox.world.landmarks import landmarks
from pcs_ext.toybox.world.render import Rendered, render
from pcs_ext.toybox.world.sampling import frame, sample_scene, sample_toy
from pcs_ext.toybox.world.scene import Scene

BesidePhotos = WorldMap | Literal["landmarks"]
"""Condition maps, and points of which one is drawn."""
_PATTERNED = 0.6
"""Share of toys with a pattern, the rare attribute: as in the pairs that toybox's own encoders learn from."""
_VIEWED = 1 / 3
"""Share of captions that name the view."""


def album_scenes(index: int, photos: int, *, seed: int = 1, couple: bool = False) -> list[Scene]:
    """The scenes of one subfolder: always the same ones. A toy that is alone wears something else, or nothing, in each.

    Args:
        index: of the subfolder.
        photos: how many.
        seed: of all.
        couple: two toys of different classes instead of one.
    """
    generator = generator_for("toybox", "album", "couple" if couple else "toy", seed, index)
    if couple:
        return _couple_scenes(photos, generator)
    toy = sample_toy(generator, patterned=_PATTERNED)
    worn = [sample_toy(generator).accessory for _ in range(photos)]
    return [sample_scene(generator, toy=dataclasses.replace(toy, accessory=one)) for one in worn]


def _couple_scenes(photos: int, generator: torch.Generator) -> list[Scene]:
    toys = sample_scene(generator, two_objects=1.0).objects
    while toys[0].class_name == toys[1].class_name:
        toys = sample_scene(generator, two_objects=1.0).objects
    scenes = []
    for _ in range(photos):
        other = sample_scene(generator, two_objects=1.0)
        camera = frame(toys, other.camera.azimuth, other.camera.elevation, fill=0.86)
        scenes.append(dataclasses.replace(other, objects=toys, camera=camera))
    return scenes


def album_caption(scene: Scene, generator: torch.Generator) -> str:
    """A scene's style, classes, accessories, place and, at times, view."""
    toys = " and ".join(
        " ".join(word for word in (f"a {toy.class_name}", toy.accessory) if word) for toy in scene.objects
    )
    text = f"{scene.style} {toys} {scene.context}"
    viewed = len(scene.objects) == 1 and float(torch.rand((), generator=generator)) < _VIEWED
    return f"{text}, {relative_view(scene)}" if viewed else text


def export_album(
    folder: Path, scenes: list[Scene], resolution: int, generator: torch.Generator, maps: tuple[BesidePhotos, ...] = ()
) -> None:
    """Write one subfolder, its photos whole, then each kind of maps whole; what is there is kept."""
    missing: list[BesidePhotos] = [kind for kind in maps if not (folder / kind).exists()]
    seen = render(scenes, resolution=resolution)
    if not folder.exists():
        _write_photos(folder, scenes, seen, generator)
    for kind in missing:
        with atomic_folder(folder / kind) as made:
            if kind == "landmarks":
                for number, scene in enumerate(scenes):
                    (made / f"{number + 1}.txt").write_text(_points(scene), encoding="utf-8")
                continue
            for number, picture in enumerate(world_maps(kind, seen, scenes)):
                (made / f"{number + 1}.png").write_bytes(png_bytes(to_pil(picture)))


def _write_photos(folder: Path, scenes: list[Scene], seen: Rendered, generator: torch.Generator) -> None:
    with atomic_folder(folder) as made:
        for number, scene in enumerate(scenes):
            (made / f"{number + 1}.png").write_bytes(png_bytes(to_pil(seen.rgb[number])))
            if len(scene.objects) == 1:
                (made / f"{number + 1}_mask.png").write_bytes(png_bytes(_mask(seen.coverage[number])))
                (made / f"{number + 1}_view.txt").write_text(_view(scene), encoding="utf-8")
            else:
                for index in range(len(scene.objects)):
                    own = seen.coverage[number] * (seen.object_ids[number] == index)
                    (made / f"{number + 1}_mask{index + 1}.png").write_bytes(png_bytes(_mask(own)))
            (made / f"{number + 1}.txt").write_text(album_caption(scene, generator), encoding="utf-8")
        nouns = [toy.class_name for toy in scenes[0].objects]
        (made / "noun.txt").write_text("\n".join(nouns) + "\n", encoding="utf-8")


def _view(scene: Scene) -> str:
    """From where the first toy is seen, its heading taken off the azimuth: degrees, degrees, and the world's units."""
    camera = scene.camera
    azimuth = (camera.azimuth - scene.objects[0].heading + 180) % 360 - 180
    return f"{azimuth:.2f} {camera.elevation:.2f} {camera.distance:.3f}\n"


def _points(scene: Scene) -> str:
    """Its landmarks, a line for each: shares of the picture."""
    return "".join(f"{x:.5f} {y:.5f}\n" for x, y in landmarks(scene).tolist())


def _mask(coverage: Tensor) -> Image.Image:
    return Image.fromarray((coverage * 255).round().byte().numpy())


def export_pairs(
    folder: Path,
    reporter: Reporter,
    *,
    subjects: int,
    couples: int,
    photos: int,
    resolution: int,
    seed: int,
    maps: tuple[BesidePhotos, ...] = (),
) -> None:
    """Write the subfolders `00000`, ..., and `couple-00000`, ...; those that are there are kept.

    Args:
        folder: to write to.
        reporter: hears the progress.
        subjects: subfolders of one toy.
        couples: subfolders of two.
        photos: in each.
        resolution: side of the pictures in pixels.
        seed: of all.
        maps: kinds of condition maps that lie beside the photos.

    Raises:
        UsageError: a number too small to write anything with.
    """
    check_counts(0, subjects=subjects, couples=couples)
    check_counts(1, photos=photos)
    check_counts(LEAST_SIDE, resolution=resolution)
    wanted = [(f"{index:05d}", index, False) for index in range(subjects)]
    wanted += [(f"couple-{index:05d}", index, True) for index in range(couples)]
    for done, (name, index, couple) in enumerate(wanted):
        if any(not path.exists() for path in (folder / name, *(folder / name / kind for kind in maps))):
            scenes = album_scenes(index, photos, seed=seed, couple=couple)
            words = generator_for("toybox", "album words", seed, name)
            export_album(folder / name, scenes, resolution, words, maps)
        reporter.progress("export", done + 1, len(wanted))


def main(
    output: Path,
    subjects: int = 4000,
    couples: int = 0,
    photos: int = 4,
    resolution: int = 64,
    seed: int = 1,
    maps: tuple[BesidePhotos, ...] = (),
) -> None:
    """Render albums of random toys for `pcs-ext reference learn`; a call that was stopped goes on.

    Args:
        output: folder to write to.
        subjects: albums of one toy.
        couples: albums of two toys together, for systems that show several (fastcomposer, ssr-encoder).
        photos: in each album.
        resolution: side of the pictures in pixels.
        seed: of all; others give other toys.
        maps: also write condition maps of these kinds, for systems that read them (uni-controlnet, visconet; instantid:
            landmarks); edges are found without files, too.
    """
    run_export(lambda: export_pairs(
        output, ConsoleReporter(), subjects=subjects, couples=couples, photos=photos, resolution=resolution, seed=seed,
        maps=maps,
    ))  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main)
