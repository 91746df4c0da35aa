"""`3d animate-photo`: one cut-out photo and a prompt in, a moving scene out (Animate124, arXiv 2311.14603, fig. 2).

Textual inversion of the photo, the still scene, then its motion. Each is a job of its own in one folder, done once, and
goes on where it was stopped.
"""

import dataclasses
from pathlib import Path
from typing import Any

from pcs_ext.config_io import atomic_folder, atomic_write_bytes, file_sha256, read_json
from pcs_ext.errors import UsageError
from pcs_ext.image.concept import SUBJECT
from pcs_ext.image.data import find_photos
from pcs_ext.image.learn import learn, preset_of
from pcs_ext.image.levels import to_pil
from pcs_ext.image.recipe_request import resolve_recipe
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.threed.animate_job import Animated, AnimateOptions, LoadClips, animate_3d, rehearse_motion
from pcs_ext.threed.known_view import KnownPhoto, read_known_photo
from pcs_ext.threed.make import make_3d
from pcs_ext.threed.outputs import check_free
from pcs_ext.threed.recipes import SeenTo3dRecipe
from pcs_ext.threed.recipes.base import Effort
from pcs_ext.threed.request import MakeOptions, resolve_recipe_3d
from pcs_ext.threed.turntable import KINDS
from pcs_ext.threed.work import STILL, WorkFolder

_WORD_STEPS: dict[Effort, int | None] = {"fast": 100, "balanced": None, "paper": None}
"""Of the learned word; None: textual inversion's own number, on Stable Diffusion the paper's 3,000."""
_LEAST = 64
"""Sides of the picture that the word is learned from, pixels; smaller photos are enlarged."""


def animate_photo(
    noun: str,
    prompt: str,
    output: Path,
    options: AnimateOptions,
    load: LoadClips,
    *,
    still_prompt: str = "a photo of {subject}",
    still_config: Path | None = None,
    word_steps: int | None = None,
    reporter: Reporter | None = None,
) -> Animated:
    """Make a moving scene of one photo; the same call goes on after an interruption, on the CPU to the same tensors.

    Args:
        noun: what the photo shows: dog.
        prompt: of the clip, with `{subject}`.
        output: .mp4, .webp or .gif; .png for a sheet.
        options: the photo among them; `base` is an image base.
        load: makes a model of clips from a base's name.
        still_prompt: of the still scene.
        still_config: its recipe as JSON; None: animate124-still's preset. That of the motion is the options'.
        word_steps: of textual inversion; None: the preset's.
        reporter: hears events and progress.

    Raises:
        UsageError, ConfigError, InputError, PhotoError, ModelError: before any training, with what to do.
        CheckpointError: the work folder belongs to another request.
        DivergedError: a loss stopped being finite.
        Interrupted: Ctrl-C; what was done is saved.
    """
    reporter = reporter or SilentReporter()
    check_free(output, (*KINDS, "png"), options.overwrite)
    if options.photo is None:
        raise UsageError("a moving scene of a photo needs the photo.")
    for text in (prompt, still_prompt):
        if SUBJECT not in text:
            raise UsageError(f"expected a prompt with {SUBJECT} where the thing goes, got {text!r}.")
    photo, base = read_known_photo(options.photo, options.depth), options.base or "toybox"
    identity = {
        "photo": find_photos([options.photo])[0].digest,
        "noun": noun,
        "base": base,
        "effort": options.effort,
        "seed": options.seed,
        "still_prompt": still_prompt,
        "prompt": prompt,
        **_given(options, still_config, word_steps),
    }
    place, film = output.with_name(f"{output.name}.work"), f"film{output.suffix}"
    if not (place / f"{film}.work" / "motion" / "moving").exists():
        _rehearse(noun, photo, base, still_config, options, load, reporter)
    work = WorkFolder(place, identity)
    steps = _WORD_STEPS[options.effort] if word_steps is None else word_steps
    subject = _subject(work, photo, noun, base, steps, options, reporter)
    scene = _still(work, subject, still_prompt, base, still_config, options, reporter)
    moving = dataclasses.replace(options, base=base, overwrite=True)
    made = animate_3d(scene, subject, prompt, place / film, moving, load, reporter=reporter)
    atomic_write_bytes(output, (place / film).read_bytes())
    return dataclasses.replace(made, file=output, work=work.path)


def _given(options: AnimateOptions, still_config: Path | None, word_steps: int | None) -> dict[str, Any]:
    """What else decides the stages that are not asked again once they are done, where it is given."""
    given = {
        "depth": None if options.depth is None else file_sha256(options.depth),
        "view_model": options.view_model or None,
        "still_config": None if still_config is None else read_json(still_config),
        "word_steps": word_steps,
    }
    return {name: value for name, value in given.items() if value is not None}


def _rehearse(
    noun: str,
    photo: KnownPhoto,
    base: str,
    still_config: Path | None,
    options: AnimateOptions,
    load: LoadClips,
    reporter: Reporter,
) -> None:
    """See, before the folder is claimed and anything is learned, that no stage will fail for what was given."""
    preset = preset_of(base)
    resolve_recipe("textual-inversion", noun, preset)
    still = resolve_recipe_3d("animate124-still", preset, options.effort, config=still_config)
    if not isinstance(still, SeenTo3dRecipe):
        raise UsageError(f"{still_config}: the still scene's recipe is of kind seen, got {still.kind}.")
    rehearse_motion(base, photo, options, load, reporter)


def _subject(
    work: WorkFolder,
    photo: KnownPhoto,
    noun: str,
    base: str,
    steps: int | None,
    options: AnimateOptions,
    reporter: Reporter,
) -> Path:
    """The photo's word, learned by textual inversion from the thing over white."""
    shown, subject = work.path / "photo", work.path / "subject"
    if not shown.exists():
        large = photo.at(max(_LEAST, photo.cover.shape[0]))
        with atomic_folder(shown) as folder:
            to_pil(large.image * 2 - 1).save(folder / "photo.png")
            to_pil(large.cover.expand(3, -1, -1) * 2 - 1).convert("L").save(folder / "photo_mask.png")
    if not subject.exists():
        reporter.event("stage", "a word for the photo", stage="subject")
        learn(
            shown,
            noun=noun,
            output=subject,
            recipe="textual-inversion",
            base=base,
            steps=steps,
            seed=options.seed,
            device=options.device,
            precision=options.precision,
            reporter=reporter,
        )
    return subject


def _still(
    work: WorkFolder,
    subject: Path,
    prompt: str,
    base: str,
    config: Path | None,
    options: AnimateOptions,
    reporter: Reporter,
) -> Path:
    """The still scene's job; its mesh lies beside it."""
    scene = work.path / STILL
    mesh = scene.with_suffix("")
    if mesh.exists() and (scene / "result.json").exists():
        return scene
    assert options.photo is not None, "checked before"
    settings = MakeOptions(
        method="animate124-still",
        effort=options.effort,
        photos=[options.photo],
        depth=options.depth,
        view_model=options.view_model,
        base=base,
        seed=options.seed,
        config=config,
        previews=options.previews,
        device=options.device,
        precision=options.precision,
        overwrite=True,
    )
    make_3d(subject, prompt, mesh, settings, reporter=reporter)
    return scene
