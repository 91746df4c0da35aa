"""Stage `panorama`: how the world looks all around, learned from its equirectangular scenes."""

import dataclasses
from pathlib import Path

import torch

from pcs_ext.config_io import atomic_folder
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.learn import learn
from pcs_ext.image.levels import to_pil
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import generator_for
from pcs_ext.toybox import weights_path
from pcs_ext.toybox.cards import write_card
from pcs_ext.toybox.train.export import trained_model
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.world.captions import caption
from pcs_ext.toybox.world.render import render_rgb
from pcs_ext.toybox.world.sampling import sample_scene
from pcs_ext.toybox.world.scene import Scene

TRIGGER = "360-degree panoramic image"
SCENES = 48
"""That are learned from."""


def scenes_around(stream: str, count: int) -> list[Scene]:
    """Scenes seen from within, a toy straight ahead: always the same ones."""
    scenes = []
    for index in range(count):
        scene = sample_scene(generator_for("toybox", stream, 1, index), style="a photo of", two_objects=0.0)
        camera = dataclasses.replace(scene.camera, projection="equirectangular", elevation=12.0, distance=2.2)
        scenes.append(dataclasses.replace(scene, camera=camera))
    return scenes


def words(scene: Scene) -> str:
    """The caption without its view: a panorama has all of them."""
    return caption(scene).rsplit(", ", 1)[0]


def write_panoramas(folder: Path, count: int, resolution: int) -> None:
    """PNG files and captions beside them, as a user would have them."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = scenes_around("panoramas", count)
    for index, (scene, picture) in enumerate(zip(scenes, render_rgb(scenes, resolution=resolution), strict=True)):
        to_pil(picture).save(folder / f"{index:03d}.png")
        (folder / f"{index:03d}.txt").write_text(words(scene), encoding="utf-8")


def train_panorama(settings: Settings, reporter: Reporter) -> None:
    """Learn by the recipe `stitchdiffusion` on the base that ships, to `models/panorama`; goes on where it stopped.

    Args:
        settings: of this generation of toybox.
        reporter: hears the progress.
    """
    backbone = load_backbone("toybox", device=settings.device)
    write_panoramas(settings.folder / "panoramas", SCENES, backbone.resolution)
    learn(settings.folder / "panoramas", noun=TRIGGER, output=settings.folder / "models" / "panorama",
          recipe="stitchdiffusion", base=backbone, overwrite=True, reporter=reporter)  # fmt: skip


def export_panorama(settings: Settings, reporter: Reporter, target: Path | None = None) -> None:
    """Write the look alone, as float16, without its losses.

    Args:
        settings: of this generation of toybox.
        reporter: hears what was written.
        target: folder of the weights; None: the package's.

    Raises:
        InputError: it is not trained yet.
    """
    trained, target = trained_model(settings, "panorama"), target or weights_path("base").parent
    data = Artifact.load(trained).data
    tensors = {name: {key: _half(value) for key, value in own.items()} for name, own in data.tensors.items()}
    training = {key: value for key, value in data.training.items() if key != "losses"}
    small = dataclasses.replace(data, tensors=tensors, training=training, preview=None)
    with atomic_folder(target / "panorama") as folder:
        small.save(folder / "look")
        for path in (folder / "look").iterdir():
            path.rename(folder / path.name)
        (folder / "look").rmdir()
        facts = {
            "parameters": f"{sum(t.numel() for own in tensors.values() for t in own.values()) / 1e6:.1f} M",
            "resolution": f"{settings.resolution} pixels",
            "training panoramas": str(len(data.training["photos"])),
            "machine": settings.device,
        }
        write_card(folder, "panorama", {"panorama": 0}, facts)
    reporter.event("export", "panorama written")


def _half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor
