"""The page's clips: a motion learned from one true clip, and the learned subject performing it, beside each other."""

import dataclasses
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pcs_ext.config_io import config_hash
from pcs_ext.demo.data import ShownClip, ShownVideo
from pcs_ext.demo.numbers import seconds_text
from pcs_ext.demo.part import part, part_seconds
from pcs_ext.demo.video_methods import measured_methods, methods_table
from pcs_ext.demo.wording import command, quoted
from pcs_ext.image.evaluate import ImageEncoder, square_images
from pcs_ext.image.evaluate.metrics import reference_similarity
from pcs_ext.image.levels import levels_of
from pcs_ext.page.pictures import data_uri, video_uri
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import generator_for
from pcs_ext.toybox.motion_reader import MotionReader
from pcs_ext.toybox.train.clips import FRAMES
from pcs_ext.toybox.true_motion import true_flow
from pcs_ext.toybox.world.captions import caption
from pcs_ext.toybox.world.motion import frames_of
from pcs_ext.toybox.world.render import render_rgb
from pcs_ext.toybox.world.sampling import sample_clip
from pcs_ext.toybox.world.scene import Scene
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.backbones.inflated import CrossFrame
from pcs_ext.video.clips import read_clip, write_clip
from pcs_ext.video.evaluate import ClipFlow, motion_fidelity
from pcs_ext.video.learn import learn_motion
from pcs_ext.video.make import make_clips
from pcs_ext.video.make_request import MakeRequest
from pcs_ext.video.motion import Motion
from pcs_ext.video.recipes import MOTIONS, MotionRecipe

FOLDER, PROMPT = "video", "a photo of {subject} in the desert"
MOTION, RECIPE = "jumping", "tune-a-video"
_STEPS = 60
_FPS = 6
_SIDE = 256
"""Of the clips on the page, in pixels."""


@dataclasses.dataclass(frozen=True)
class ClipJudge:
    """Who measures clips."""

    encoder: ImageEncoder
    """Tells how like the photos frames are."""
    reader: MotionReader
    """Names motions."""

    @torch.inference_mode()
    def shown(self, label: str, path: Path, folder: Path, flow: ClipFlow, photos: Tensor) -> ShownClip:
        """A clip that lies in `path`, measured, and enlarged beside it."""
        frames = read_clip(path).video()[0].transpose(0, 1)
        likeness = reference_similarity(self.encoder.encode_images(frames), self.encoder.encode_images(photos))
        large, still = path.with_name(f"{path.stem}.large.mp4"), path.with_name(f"{path.stem}.png")
        if not large.is_file():
            _write_large(frames, large, still)
        return ShownClip(
            label=label,
            clip=large.relative_to(folder).as_posix(),
            still=still.relative_to(folder).as_posix(),
            read=self.reader.read(frames[None])[0],
            fidelity=motion_fidelity(frames, flow),
            likeness=likeness.mean().item(),
        )


def video_recipe(steps: int | None = None) -> MotionRecipe:
    """How the motion is learned; without `steps` for less than its own, which is quick."""
    return MOTIONS[RECIPE].build("toybox").with_steps(steps or _STEPS)


def reference_scenes() -> list[Scene]:
    """The clip that the motion is learned from, the benchmark's: a tree, so that no dog lends its looks to one."""
    scene = sample_clip(generator_for("video systems", MOTION), motion=MOTION, style="a photo of")
    return frames_of(scene, FRAMES, start=0.1)


def make_video(
    output: Path,
    subject: Path,
    photos: Sequence[Path],
    load: Callable[[CrossFrame | None], AbstractVideoBackbone],
    *,
    judge: ClipJudge,
    recipe: MotionRecipe,
    name: str,
    seed: int,
    reporter: Reporter,
) -> ShownVideo:
    """Learn the motion and make both clips, or take what an equal run made; all of it lies in `OUTPUT/video/`.

    Args:
        output: folder of the demonstration.
        subject: folder of the learned subject.
        photos: what it was learned from.
        load: loads the model that makes clips, inflated as it is told.
        judge: measures them.
        recipe: how the motion is learned.
        name: the subject's, for people.
        seed: of everything random.
        reporter: hears events and progress.
    """
    folder, backbone = output / FOLDER, load(recipe.inflation)
    reference, motion, scenes = folder / "reference", folder / "motion", reference_scenes()
    clips = {"with": folder / "with.webp", "without": folder / "without.webp"}
    facts = {
        "recipe": config_hash(recipe),
        "base": backbone.fingerprint,
        "subject": config_hash(str((subject / "config.json").read_text(encoding="utf-8"))),
        "prompt": PROMPT,
        "motion": MOTION,
        "seed": seed,
    }
    with part(folder, facts, reporter) as watch:
        if not reference.is_dir():
            pictures = render_rgb(scenes, resolution=backbone.resolution)
            write_clip(pictures.transpose(0, 1), reference, fps=_FPS)
        if not motion.is_dir():
            # What it shows, but not how it moves: the motion can only come from the clip.
            says = caption(scenes[0]).replace(f" {MOTION}", "")
            learn_motion([read_clip(reference).video()[0]], [says], motion, backbone=backbone, recipe=recipe,
                         seed=seed, reporter=watch)  # fmt: skip
        for which, path in clips.items():
            if not path.is_file():
                request = MakeRequest(
                    prompts=(PROMPT,),
                    seeds=(seed,),
                    subject=subject,
                    motion=motion if which == "with" else None,
                    fps=_FPS,
                    frames=recipe.frames,
                )
                make_clips(request, path, overwrite=True, reporter=watch, backbone=backbone)
    flow, pictures = true_flow(scenes, resolution=backbone.resolution), square_images(photos, backbone.resolution)
    labels = {"reference": "The clip", "with": f"{name}, with its motion", "without": f"{name}, without"}
    return ShownVideo(
        motion=MOTION,
        text=PROMPT,
        recipe=recipe.id,
        from_noise=recipe.inflation is not None,
        steps=len(Motion.load(motion).data.training["losses"]),
        clips=tuple(
            judge.shown(label, reference if which == "reference" else clips[which], output, flow, pictures)
            for which, label in labels.items()
        ),
        methods=measured_methods(),
        seconds=part_seconds(folder),
    )


def _write_large(frames: Tensor, path: Path, still: Path) -> None:
    """Frames `f 3 h w`, enlarged here: browsers enlarge with filters of their own."""
    size = (_SIDE, _SIDE)
    large = F.interpolate(frames, size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
    levels = levels_of(large[0])
    still.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels.permute(1, 2, 0).numpy()).save(still)
    write_clip(large.transpose(0, 1), path, fps=_FPS, overwrite=True)


def video_section(shown: ShownVideo, folder: Path, name: str) -> str:
    """The reference, the subject with the motion and without, as players that play without a script, too."""
    text = escape(shown.text).replace("{subject}", name)
    players = "".join(_player(clip, folder) for clip in shown.clips)
    learn = f"pcs-ext video learn-motion clip.mp4 -o move --recipe {shown.recipe}"
    make = f"pcs-ext video make {name.lower()} {quoted(shown.text)} --motion move -o {name.lower()}.mp4"
    start = (
        f"The clip with the motion starts from the noise that the clip on the left comes from, so {name} stands where "
        "its toy stood."
        if shown.from_noise
        else f"Both clips of {name} start from the same noise."
    )
    return (
        f'<h2 id="video-title">A motion of one clip, given to {name}</h2>'
        f'<p class="soft">A motion learned from the clip on the left ({escape(shown.recipe)}, {shown.steps} steps) and '
        f"a subject learned from photos, put together without any further training: “{text}”. The prompt does not say "
        f"how {name} moves. {start} {seconds_text(shown.seconds)}.</p>"
        f'<div class="plates clips">{players}</div>'
        f'<div class="honest verdict"><h3>{_verdict(shown)}</h3><p>The clip on the left is rendered and shows a toy '
        f"{escape(shown.motion)}. Fidelity compares the movement seen in a clip with its true one: 1 is the same, 0 "
        f"unrelated or none, −1 the opposite. {_looks(shown, name)}One motion, one clip, one seed: an "
        "illustration, no claim.</p></div>"
        f"{methods_table(shown.methods)}{command(learn)}{command(make)}"
    )


def _player(clip: ShownClip, folder: Path) -> str:
    poster = data_uri(folder / clip.still, side=0)
    read = escape(clip.read) if clip.read else "no motion"
    return (
        f'<figure class="plate"><video src="{video_uri(folder / clip.clip)}" poster="{poster}" width="{_SIDE}" '
        f'height="{_SIDE}" loop muted playsinline controls aria-label="{escape(clip.label)}"></video>'
        f"<figcaption><b>{escape(clip.label)}</b> read as: {read}; fidelity {clip.fidelity:+.2f}; likeness to the "
        f"photos {clip.likeness:.2f}</figcaption></figure>"
    )


def _looks(shown: ShownVideo, name: str) -> str:
    """A word of warning where the clip is no more like the subject than the clip it learned from."""
    reference, moved, _ = shown.clips
    if moved.likeness > reference.likeness:
        return ""
    return f"The looks did not come across: the toy of the clip on the left is as like the photos of {name}. "


def _verdict(shown: ShownVideo) -> str:
    _, moved, plain = shown.clips
    if moved.read == shown.motion and moved.fidelity > max(0.3, plain.fidelity):
        return "The motion came across"
    if moved.fidelity > max(0.3, plain.fidelity):
        return "It moves more like the clip than without, but the reader names another motion"
    return "The motion did not come across here"
