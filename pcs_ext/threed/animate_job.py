"""`3d animate`: a finished scene, a learned subject and a prompt in; the scene in motion, filmed, out."""

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from pcs_ext.config_io import atomic_write_bytes, file_sha256, read_json, to_jsonable, write_json
from pcs_ext.errors import Interrupted, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.data import find_photos
from pcs_ext.image.learn import preset_of
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import seed_for
from pcs_ext.threed.cameras import Cameras, orbit, ring
from pcs_ext.threed.clip_guidance import ClipGuidance
from pcs_ext.threed.fields import AbstractField
from pcs_ext.threed.geometry_control import GeometryControl, control_identity
from pcs_ext.threed.guidance import AbstractGuidance, ScoreGuidance
from pcs_ext.threed.known_view import KnownPhoto, read_known_photo
from pcs_ext.threed.motion_stage import HeldFirst, MotionLoss, Showing, learn_motion
from pcs_ext.threed.moving_fields import AbstractMovingField, MovingConfig, load_moving, save_moving
from pcs_ext.threed.named_recipe import EffortOptions, named_recipe
from pcs_ext.threed.outputs import check_free
from pcs_ext.threed.recipes import AnimateRecipe
from pcs_ext.threed.scene import Scene, read_scene
from pcs_ext.threed.shapes import shape_views
from pcs_ext.threed.turntable import KINDS, check_rate, sheet, write_turntable
from pcs_ext.threed.view_guidance import ViewGuidance
from pcs_ext.threed.view_model import load_view_model
from pcs_ext.threed.work import REQUEST, WorkFolder

_MODEL = "model.json"
"""Names of the model of clips, in a job's folder."""
_LOOKS = 4
"""Directions in a sheet."""
_TURNS = 2
"""Times that the motion is seen, there and back, while the camera goes once around."""


class LoadClips(Protocol):
    """Loads a model of clips: its `predict` takes latents `b c f h w`, and of pictures `b c h w`."""

    def __call__(self, base: str, motion: Path | None, *, device: str, precision: str, reporter: Reporter) -> Any: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnimateOptions(EffortOptions):
    """How a scene is set in motion and filmed."""

    method: str = "dream-in-4d"
    """Name in `RECIPES`."""
    motion_module: Path | None = None
    """Motion adapter for an image base; None: the base's own."""
    photo: Path | None = None
    """Of the scene's first moment, cut out, for recipes that hold it to one; None: the first moment is the scene."""
    depth: Path | None = None
    """A depth picture of the photo, brighter is nearer."""
    view_model: str = ""
    """Folder or hub id of a view model (Zero123), beside a photo."""
    controlnet: Path | None = None
    """Folder of a diffusers ControlNet (tile) for the base, for recipes that judge single frames; None: they are judged
    freely."""
    frames: int = 48
    """Of the film."""
    side: int = 192
    """Of the film, pixels."""
    frames_per_second: float = 12.0
    """Of the film."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.photo is None and (self.view_model or self.depth is not None):
            raise UsageError("a view model and a depth picture are about a photo; give it, too: --photo PHOTO.png.")
        if self.frames < 1 or not 16 <= self.side <= 2048:
            raise UsageError(f"expected at least 1 frame of 16 to 2048 pixels, got {self.frames} and {self.side}.")
        check_rate(self.frames_per_second)


@dataclasses.dataclass(frozen=True)
class Animated:
    """What a finished job left."""

    field: AbstractMovingField
    """The scene in motion."""
    file: Path
    """The film."""
    work: Path
    """The job's folder."""


def animate_3d(
    scene: Path,
    subject: Path,
    prompt: str,
    output: Path,
    options: AnimateOptions,
    load: LoadClips,
    *,
    reporter: Reporter | None = None,
) -> Animated:
    """Set a finished scene in motion.

    The job lives in `OUTPUT.work/`; the same call goes on from there after an interruption, to the same tensors bit for
    bit on the CPU.

    Args:
        scene: OUTPUT.work of `3d make`; never written to.
        subject: folder written by `learn`: what the scene shows.
        prompt: of the clip, with `{subject}`.
        output: .mp4, .webp or .gif; .png for a sheet, moments beside each other, directions below.
        options: how.
        load: makes a model of clips from a base's name.
        reporter: hears events and progress.

    Raises:
        UsageError, ConfigError, InputError, ArtifactError, ModelError: before any training, with what to do.
        CheckpointError: the work folder belongs to another request.
        DivergedError: the loss stopped being finite.
        Interrupted: Ctrl-C; what was done is saved.
    """
    reporter = reporter or SilentReporter()
    check_free(output, (*KINDS, "png"), options.overwrite)
    found, artifact = read_scene(scene), Artifact.load(subject)
    text = artifact.concept.prompt(prompt)
    base = options.base or artifact.data.base_name
    recipe = _with_what_is_given(named_recipe(AnimateRecipe, options.method, preset_of(base), options), options)
    photo = None if options.photo is None else read_known_photo(options.photo, options.depth)
    settings = MovingConfig(still=found.settings, motion=recipe.stage.motion)
    identity = {
        "recipe": to_jsonable(recipe),
        "scene": found.digest,
        "prompt": text,
        "subject": artifact.data.content_hash,
        "seed": options.seed,
        **_beside(options),
    }
    place = output.with_name(f"{output.name}.work")
    field = _finished(place, identity, _model(base, options))
    if field is None:
        model = load(base, options.motion_module, device=options.device, precision=options.precision, reporter=reporter)
        helpers = _helpers(recipe, photo, model, options, reporter)
        weights = {"base": model.fingerprint, "precision": str(model.dtype), "view_weights": helpers.view_model}
        work = WorkFolder(place, {**identity, **weights})
        write_json(place / "recipe.json", recipe)
        write_json(place / _MODEL, _model(base, options))
        job = AnimateJob(recipe, artifact, text, model, work, options, reporter, helpers)
        try:
            field = job.run(settings, found)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; what was done is in {place}. The same command goes on from there."
            ) from None
    write_film(field, output, frames=options.frames, side=options.side, rate=options.frames_per_second)
    return Animated(field, output, place)


def rehearse_motion(base: str, photo: KnownPhoto, options: AnimateOptions, load: LoadClips, reporter: Reporter) -> None:
    """See that the recipe and all models of a motion can be had, before hours go into the scene that is to move.

    Raises:
        UsageError, ConfigError, ModelError: as `animate_3d`.
    """
    recipe = _with_what_is_given(named_recipe(AnimateRecipe, options.method, preset_of(base), options), options)
    model = load(base, options.motion_module, device=options.device, precision=options.precision, reporter=reporter)
    _helpers(recipe, photo, model, options, reporter)


def _with_what_is_given(recipe: AnimateRecipe, options: AnimateOptions) -> AnimateRecipe:
    """The recipe, with the scene itself as its first moment where there is no photo that could hold it.

    Raises:
        UsageError: something is given that the recipe has no use for.
    """
    if options.photo is not None and recipe.stage.first is None:
        raise UsageError(f"{recipe.id} keeps the scene as its first moment; leave --photo out, or choose animate124.")
    if options.controlnet is not None and recipe.stage.pictures is None:
        raise UsageError(f"{recipe.id} judges no single frames; leave --controlnet out, or choose animate124.")
    return recipe if options.photo is not None else dataclasses.replace(recipe, stage=recipe.stage.anchored())


def _beside(options: AnimateOptions) -> dict[str, Any]:
    """What decides the result beside scene, subject and models of clips, as JSON data; None where nothing is given."""
    return {
        "photo": None if options.photo is None else find_photos([options.photo])[0].digest,
        "depth": None if options.depth is None else file_sha256(options.depth),
        "view_model": options.view_model or None,
        "controlnet": control_identity(options.controlnet, "tile"),
    }


@dataclasses.dataclass(frozen=True)
class Helpers:
    """Models beside the one of clips."""

    held: HeldFirst | None = None
    """Holds the first moment."""
    control: GeometryControl | None = None
    """Shown the coarse frames."""
    view_model: str | None = None
    """Fingerprint of the view model that holds the first moment."""


def _helpers(
    recipe: AnimateRecipe, photo: KnownPhoto | None, backbone: Any, options: AnimateOptions, reporter: Reporter
) -> Helpers:
    first, view, control, mark = recipe.stage.first, None, None, None
    if first is None or photo is None:
        held = None
    else:
        if options.view_model:
            model = load_view_model(
                options.view_model, device=options.device, precision=options.precision, reporter=reporter
            )
            mark = model.fingerprint
            view = ViewGuidance(
                model,
                photo,
                first.known,
                first.view,
                recipe.stage.cameras.target,
                seed_for(options.seed, "motion") % 2**31,
            )
        held = HeldFirst(photo.at(first.known.side), view)
    if options.controlnet is not None:
        if not isinstance(backbone.denoiser, UNet2DConditionModel):
            raise UsageError(f"a ControlNet is for an image base with a motion adapter; {backbone.name} is none.")
        control = GeometryControl.load(options.controlnet, "tile", backbone)
    return Helpers(held, control, mark)


def _model(base: str, options: AnimateOptions) -> dict[str, str]:
    """Which model of clips is asked for, in the words of the request."""
    motion = "" if options.motion_module is None else str(options.motion_module)
    return {"base": base, "motion_module": motion, "device": options.device, "precision": options.precision}


def _finished(place: Path, identity: dict[str, Any], model: dict[str, str]) -> AbstractMovingField | None:
    """What a finished job of the same request left: it is filmed again without its model of clips."""
    files = [place / name for name in (REQUEST, _MODEL)]
    if not (place / "motion" / "moving").exists() or not all(file.is_file() for file in files):
        return None
    begun, told = (read_json(file) for file in files)
    same = told == model and all(begun.get(key) == value for key, value in to_jsonable(identity).items())
    return load_moving(place / "motion" / "moving") if same else None


class AnimateJob:
    """The one stage of a request; done once, goes on where it was stopped."""

    def __init__(
        self,
        recipe: AnimateRecipe,
        artifact: Artifact,
        prompt: str,
        backbone: AbstractBackbone,
        work: WorkFolder,
        options: AnimateOptions,
        reporter: Reporter,
        helpers: Helpers,
    ) -> None:
        self.helpers = helpers
        self.recipe, self.artifact, self.prompt, self.backbone = recipe, artifact, prompt, backbone
        self.work, self.options, self.reporter = work, options, reporter

    def run(self, settings: MovingConfig, scene: Scene) -> AbstractMovingField:
        """The scene in motion."""
        folder = self.work.path / "motion" / "moving"
        if folder.exists():
            return load_moving(folder)
        stage = self.recipe.stage
        seed = seed_for(self.options.seed, "motion") % 2**31
        stage = dataclasses.replace(stage, fit=dataclasses.replace(stage.fit, seed=seed))
        field = settings.build()
        scene.fill(field.still)
        checkpoints = self.work.path / "motion" / "checkpoints"
        kept = CheckpointFolder(checkpoints, config_hash=f"{self.work.hash}-motion", reporter=self.reporter)
        with self._judges() as (clips, pictures):
            loss = MotionLoss(field, stage, clips, pictures, self.helpers.held, self._tile())
            for state in learn_motion(loss, checkpoints=kept, reporter=self.reporter):
                self.reporter.progress("3d motion", state.step, state.total_steps)
                self._preview(field, state.step)
        save_moving(field, folder)
        shutil.rmtree(checkpoints, ignore_errors=True)
        return field

    def _tile(self) -> Showing | None:
        control = self.helpers.control
        return None if control is None else functools.partial(control.showing, self.backbone)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def _judges(self) -> Iterator[tuple[ClipGuidance, AbstractGuidance | None]]:
        """Of clips and, where the recipe wants it, of frames, with the subject in the base."""
        recipe, negative = self.recipe, self.artifact.concept.negative_prompt(self.recipe.negative_prompt)
        with self.artifact.applied(self.backbone) as backbone:
            clips = ClipGuidance(
                backbone,
                self.prompt,
                recipe.stage.guidance,
                negative_prompt=negative,
                noise_share=recipe.stage.noise_share,
            )
            pictures = recipe.stage.pictures
            if pictures is None:
                yield clips, None
                return
            yield (
                clips,
                ScoreGuidance(
                    backbone,
                    self.prompt,
                    pictures.guidance,
                    negative_prompt=negative,
                    words=recipe.words,
                    seed=seed_for(self.options.seed, "motion") % 2**31,
                ),
            )

    def _preview(self, field: AbstractMovingField, step: int) -> None:
        every = self.options.previews
        if every and step % every == 0:
            path = self.work.path / "previews" / f"motion-{step:06d}.png"
            atomic_write_bytes(path, motion_sheet(field, side=64))
            self.reporter.event("preview", f"preview {path}", path=str(path))


def write_film(field: AbstractMovingField, output: Path, *, frames: int, side: int, rate: float) -> None:
    """A moving scene as a film around it, or as a sheet, by the path's ending."""
    if output.suffix.lower() == ".png":
        atomic_write_bytes(output, motion_sheet(field, side=side))
        return
    turn = ring(frames, target=field.bounds.center)
    shown = [_seen(field, _there_and_back(index, frames), turn[[index]], side) for index in range(frames)]
    write_turntable(output, torch.cat(shown), rate)


def motion_sheet(field: AbstractMovingField, *, side: int) -> bytes:
    """Moments from left to right, directions from top to bottom, as a PNG."""
    moments = field.settings.motion.moments
    columns = min(moments, 8)
    azimuths = [(360 / _LOOKS * look + 20) % 360 for look in range(_LOOKS)]
    count = [15.0] * _LOOKS, [5.2] * _LOOKS, [32.0] * _LOOKS
    cameras = orbit(azimuths, *count, target=field.bounds.center)
    by_moment = torch.stack([_seen(field, index / (columns - 1), cameras, side) for index in range(columns)], 1)
    return sheet(by_moment.flatten(0, 1), columns=columns)


def _there_and_back(index: int, frames: int) -> float:
    """The moment shown by a frame: the motion runs to its end and back."""
    place = (2 * _TURNS * index / frames) % 2
    return place if place <= 1 else 2 - place


def _seen(field: AbstractMovingField, time: float, cameras: Cameras, side: int) -> Tensor:
    shape: AbstractField = field.at(time)
    return shape_views(shape, cameras, side, samples=96)
