"""Commands that belong to no plugin or to two: `evaluate`, `3d animate`, `demo`, `systems`, `doctor`."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from pcs_ext.command_options import (
    MACHINE,
    Device,
    Machine,
    Output,
    Precision,
    console_reporter,
    print_json,
    print_paths,
)

if TYPE_CHECKING:
    from pcs_ext.threed.animate_job import AnimateOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Motion:
    """How a scene is set in motion and filmed, whatever it is made of."""

    preset: Literal["fast", "balanced", "paper"] = "balanced"
    """fast, to see that it works; balanced; or the steps of the paper."""
    motion_module: Path | None = None
    """motion adapter for an image base; toybox has its own."""
    controlnet: Path | None = None
    """folder of a diffusers ControlNet for the base that reads coarse pictures (tile), for animate124."""
    seed: int = 0
    """of everything random."""
    previews: int = 0
    """write a sheet to previews in the work folder every so many steps; 0 writes none."""
    frames: int = 48
    """of the film."""
    side: int = 192
    """of the film, pixels."""
    overwrite: bool = False
    """replace the output (the work folder is never replaced)."""
    jsonl: Path | None = None
    """also write every event as a JSON line to this file."""

    def options(self, machine: Machine, **own: Any) -> "AnimateOptions":
        """All settings of the job, those that only one command has among them."""
        from pcs_ext.threed.animate_job import AnimateOptions

        return AnimateOptions(
            effort=self.preset, motion_module=self.motion_module, controlnet=self.controlnet, seed=self.seed,
            previews=self.previews, frames=self.frames, side=self.side, overwrite=self.overwrite, **machine.loading,
            **own,
        )  # fmt: skip


Motion = Annotated[_Motion, arg(name="")]
MOTION = _Motion()


def evaluate(
    subject: Positional[Path],
    photos: Positional[tuple[Path, ...]],
    output: Output,
    prompts: str = "auto",
    seeds: tuple[int, ...] = (0, 1, 2, 3),
    base: str = "",
    clip: Path | None = None,
    dino: Path | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    json: bool = False,
) -> None:
    """Measure likeness to the subject and how well prompts work.

    Both beside what the plain class word gives from the same seeds.

    Args:
        subject: folder written by `learn`.
        photos: photos of the subject: those it was learned from, or others.
        output: folder for the images and reports; run again after an interruption, it goes on from what is there.
        prompts: toybox, object or live, or a text file with a prompt per line; auto: toybox for toybox, else object.
        seeds: one image of each prompt per seed.
        base: another base of the same family than the one it was learned on.
        clip: transformers folder or hub id of a CLIP model; toybox has its own.
        dino: transformers folder or hub id of a DINO, ViT or ResNet image encoder; toybox has its own.
        device: where to run.
        precision: of the base's weights.
        json: print the report as JSON instead of a table.
    """
    from pcs_ext.config_io import to_jsonable
    from pcs_ext.evaluation import evaluate as run
    from pcs_ext.image.evaluate import result_rows, results_table

    report, baseline = run(
        subject, photos, output, prompts=prompts, seeds=seeds, base=base, clip=clip, dino=dino, device=device,
        precision=precision, reporter=console_reporter(),
    )  # fmt: skip
    if json:
        print_json(to_jsonable({"subject": report, "class-word": baseline}))
        return
    shown = [name for name in report.figures if "/" not in name]
    sys.stdout.write(results_table(result_rows([report]) + result_rows([baseline]), shown))
    sys.stdout.write(f"\n{output / 'reports'}\n")


def animate(
    scene: Positional[Path],
    subject: Positional[Path],
    prompt: Positional[str],
    output: Output,
    method: Literal["dream-in-4d", "animate124"] = "dream-in-4d",
    base: str = "",
    photo: Path | None = None,
    view_model: str = "",
    steps: int = 0,
    config: Path | None = None,
    motion: Motion = MOTION,
    machine: Machine = MACHINE,
) -> None:
    """Set a finished 3D scene in motion by a video model; interrupted, the same command goes on.

    Args:
        scene: OUTPUT.work of `3d make`; it is never written to.
        subject: folder written by `learn`: what the scene shows.
        prompt: of the clip, with {subject} where the subject goes: "{subject} jumping".
        output: .mp4, .webp or .gif, a film around it; .png for a sheet of moments and directions.
        method: dream-in-4d displaces the scene's points and leaves its looks; animate124 has a grid for every moment.
        base: a text-to-video model, or another image base of the subject's family.
        photo: of the first moment, cut out, for animate124: holds it; without, the first moment is the scene.
        view_model: folder or hub id of a Zero123 in diffusers layout, beside a photo.
        steps: 0 takes the preset's.
        config: a recipe as JSON (OUTPUT.work/recipe.json is one).
    """
    from pcs_ext.threed.animate_job import animate_3d
    from pcs_ext.video.backbones.load import load_video_backbone

    options = motion.options(
        machine, method=method, base=base, photo=photo, view_model=view_model, steps=steps or None, config=config
    )
    made = animate_3d(
        scene, subject, prompt, output, options, load_video_backbone, reporter=console_reporter(motion.jsonl)
    )
    print_paths([made.file, made.work])


def animate_photo(
    photo: Positional[Path],
    prompt: Positional[str],
    output: Output,
    noun: str,
    still_prompt: str = "a photo of {subject}",
    base: str = "toybox",
    view_model: str = "",
    depth: Path | None = None,
    config: Path | None = None,
    still_config: Path | None = None,
    motion: Motion = MOTION,
    machine: Machine = MACHINE,
) -> None:
    """Make a moving 3D scene of one cut-out photo (Animate124); interrupted, the same command goes on.

    A word is learned from the photo, then a still scene, then its motion; all of it lies in OUTPUT.work.

    Args:
        photo: of one thing from its front, transparent around it, or with NAME_mask.png beside it.
        prompt: of the clip, with {subject} where the thing goes: "a photo of {subject} jumping".
        output: .mp4, .webp or .gif, a film around it; .png for a sheet of moments and directions.
        noun: what it is: dog.
        still_prompt: of the still scene; words for the view are appended.
        base: toybox, or a Stable Diffusion 1.x or 2.x model with --motion-module.
        view_model: folder or hub id of a Zero123 in diffusers layout; without, words say what other sides look like.
        depth: picture of how near things are in the photo, brighter is nearer.
        config: the motion's recipe as JSON (OUTPUT.work/film.*.work/recipe.json is one).
        still_config: the still scene's (OUTPUT.work/still.glb.work/recipe.json).
    """
    from pcs_ext.threed.photo_job import animate_photo as run
    from pcs_ext.video.backbones.load import load_video_backbone

    options = motion.options(
        machine, method="animate124", base=base, photo=photo, depth=depth, view_model=view_model, config=config
    )
    made = run(noun, prompt, output, options, load_video_backbone, still_prompt=still_prompt,
               still_config=still_config, reporter=console_reporter(motion.jsonl))  # fmt: skip
    print_paths([made.file, made.work])


def demo(
    output: Output = Path("demo"),
    subject: str = "rex",
    prompts: int = 20,
    seeds: int = 4,
    seed: int = 0,
    steps: int = 0,
    parts: tuple[Literal["panorama", "object", "video", "drawing", "protection"], ...] = ("panorama", "video"),
) -> None:
    """Learn a bundled toy and write a page that shows it.

    Args:
        output: folder of the page; run again after an interruption, it goes on from what is there.
        subject: name of a bundled toy.
        prompts: how many situations to put it in, at most 20.
        seeds: images of each.
        seed: of everything random.
        steps: optimiser steps of everything that learns; 0 takes what each part is made for.
        parts: what else to show: a panorama (seconds), an object to turn (minutes), a motion learned from one clip (a
            minute), an SVG redrawn with its layers kept (a minute), protected photos and what an attacker gets
            (minutes). Asked for later, they are added to what is there.
    """
    from pcs_ext.demo.job import run_demo

    page = run_demo(
        output,
        subject=subject,
        prompts=prompts,
        seeds=seeds,
        seed=seed,
        steps=steps or None,
        parts=parts,
        reporter=console_reporter(),
    )
    sys.stdout.write(f"{page}\n")


def systems(
    names: Positional[tuple[str, ...]] = (),
    status: Literal["all", "measured", "runs", "open"] = "all",
    json: bool = False,
) -> None:
    """List the survey's 176 systems and which of them run.

    Args:
        names: show only systems whose name, id or scope has one of these words, and all that is known of each.
        status: only systems of this status (measured: beats its baseline in results/; runs: has a recipe or an edit).
        json: print JSON instead of text.
    """
    from pcs_ext.errors import UsageError
    from pcs_ext.systems import catalogue, found, listing, portrait

    everything = catalogue()
    named = found(everything, names)
    if not named:
        raise UsageError(f"none of the {len(everything)} systems has {' or '.join(names)} in its name, id or scope.")
    chosen = [system for system in named if status in ("all", system.status)]
    if names and not chosen and not json:
        others = ", ".join(f"{system.id} is {system.status}" for system in named[:5])
        raise UsageError(f"none of the {len(named)} systems of {' or '.join(names)} has the status {status}: {others}.")
    if json:
        facts = ("status", "reason")
        print_json(
            [{**dataclasses.asdict(system), **{fact: getattr(system, fact) for fact in facts}} for system in chosen]
        )
    elif names:
        sys.stdout.write("\n".join(map(portrait, chosen)))
    else:
        sys.stdout.write(listing(chosen))


def doctor(json: bool = False) -> None:
    """Say what this machine has and what is missing.

    Args:
        json: print JSON instead of lines.
    """
    from pcs_ext.doctor import examine

    report = examine()
    if json:
        print_json(report)
        return
    for section, facts in report.items():
        sys.stdout.write(f"{section}\n")
        for key, value in facts.items():
            sys.stdout.write(f"  {key:13} {value}\n")
