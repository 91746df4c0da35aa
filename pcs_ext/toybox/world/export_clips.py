"""`python -m pcs_ext.toybox.world.export_clips`: what adapters for clips learn from, as the folders a user would have.

Random toys, a subfolder each: clips in which the toy moves, every one in another place, light and style, with a
caption, what is done (`NAME_action.txt`), and the world's truth of every frame (`NAME_depth.mp4`, `NAME_mask.mp4`);
photos of the toy with masks, and its class in `noun.txt`. Captions leave out what a photo tells.
"""

from pathlib import Path

import torch
import tyro
from PIL import Image
from torch import Tensor

from pcs_ext.config_io import atomic_folder
from pcs_ext.image.levels import to_pil
from pcs_ext.reporter import ConsoleReporter, Reporter
from pcs_ext.runtime import generator_for
from pcs_ext.toybox.world.export_job import LEAST_SIDE, check_counts, run_export
from pcs_ext.toybox.world.export_pairs import album_scenes
from pcs_ext.toybox.world.motion import frames_of
from pcs_ext.toybox.world.render import render
from pcs_ext.toybox.world.sampling import sample_clip
from pcs_ext.toybox.world.scene import Scene
from pcs_ext.video.clips import write_clip

_FPS = 8.0


def clip_scenes(index: int, clips: int, *, seed: int = 1) -> list[Scene]:
    """The scenes at the beginning of a subfolder's clips, always the same ones, of the toy of `album_scenes`.

    Args:
        index: of the subfolder.
        clips: how many.
        seed: of all.
    """
    generator = generator_for("toybox", "album clips", seed, index)
    toy = album_scenes(index, 1, seed=seed)[0].objects[0]
    return [sample_clip(generator, toy=toy) for _ in range(clips)]


def clip_caption(scene: Scene) -> str:
    """A scene's style, class, accessory, motion and place."""
    toy = scene.objects[0]
    words = (scene.style, f"a {toy.class_name}", toy.accessory, scene.motion, scene.context)
    return " ".join(word for word in words if word)


def nearness(depth: Tensor) -> Tensor:
    """Depth `f h w` -> how near everything is, in [0, 1]: the nearest of the clip 1, the sky 0, as estimators of
    relative inverse depth have it (MiDaS, arXiv 1907.01341)."""
    inverse = torch.where(depth.isfinite(), 1 / depth.clamp_min(1e-3), torch.zeros_like(depth))
    return inverse / inverse.max().clamp_min(1e-6)


def export_clip_album(folder: Path, scenes: list[Scene], shown: list[Scene], frames: int, resolution: int) -> None:
    """Write one subfolder whole.

    Args:
        folder: to write.
        scenes: of its clips.
        shown: of its photos.
        frames: of each clip.
        resolution: side in pixels.
    """
    with atomic_folder(folder) as made:
        for number, scene in enumerate(scenes, 1):
            seen = render(frames_of(scene, frames), resolution=resolution)
            write_clip(_bytes((seen.rgb + 1) / 2), made / f"{number}.mp4", fps=_FPS)
            for name, values in (("depth", nearness(seen.depth)), ("mask", seen.coverage)):
                write_clip(_bytes(values[:, None].expand(-1, 3, -1, -1)), made / f"{number}_{name}.mp4", fps=_FPS)
            (made / f"{number}.txt").write_text(clip_caption(scene), encoding="utf-8")
            (made / f"{number}_action.txt").write_text(scene.motion, encoding="utf-8")
        if shown:
            seen = render(shown, resolution=resolution)
            for number in range(len(shown)):
                to_pil(seen.rgb[number]).save(made / f"photo{number + 1}.png")
                mask = Image.fromarray((seen.coverage[number] * 255).round().byte().numpy())
                mask.save(made / f"photo{number + 1}_mask.png")
        (made / "noun.txt").write_text(f"{scenes[0].objects[0].class_name}\n", encoding="utf-8")


def _bytes(values: Tensor) -> Tensor:
    """`f 3 h w` in [0, 1] -> uint8."""
    return (values.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()


def export_clips(
    folder: Path, reporter: Reporter, *, subjects: int, clips: int, photos: int, frames: int, resolution: int, seed: int
) -> None:
    """Write the subfolders `00000`, ...; those that are there are kept.

    Args:
        folder: to write to.
        reporter: hears the progress.
        subjects: subfolders.
        clips: in each.
        photos: in each; 0: frames of the clips are shown.
        frames: of a clip, up to 17.
        resolution: side in pixels.
        seed: of all.

    Raises:
        UsageError: a number too small to write anything with.
        ConfigError: more frames than a motion has.
    """
    check_counts(0, subjects=subjects, photos=photos)
    check_counts(1, clips=clips, frames=frames)
    check_counts(LEAST_SIDE, resolution=resolution)
    for index in range(subjects):
        place = folder / f"{index:05d}"
        if not place.exists():
            shown = album_scenes(index, photos, seed=seed) if photos else []
            export_clip_album(place, clip_scenes(index, clips, seed=seed), shown, frames, resolution)
        reporter.progress("export", index + 1, subjects)


def main(
    output: Path,
    subjects: int = 1000,
    clips: int = 2,
    photos: int = 2,
    frames: int = 16,
    resolution: int = 64,
    seed: int = 1,
) -> None:
    """Render clips of random toys for `pcs-ext video learn-reference`; a call that was stopped goes on.

    Args:
        output: folder to write to.
        subjects: toys.
        clips: of each toy.
        photos: of each toy, in other scenes; 0: none.
        frames: of each clip, up to 17.
        resolution: side of the pictures in pixels.
        seed: of all; others give other toys.
    """
    run_export(lambda: export_clips(
        output, ConsoleReporter(), subjects=subjects, clips=clips, photos=photos, frames=frames, resolution=resolution,
        seed=seed,
    ))  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main)
