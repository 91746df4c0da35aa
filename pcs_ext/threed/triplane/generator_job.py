"""`3d learn-generator`: a learned subject or style and a shape in, a generator of 3D objects in that look out."""

import copy
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pcs_ext.config_io import config, file_sha256, from_jsonable, read_json, to_jsonable, write_json
from pcs_ext.errors import InputError, Interrupted
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import AbstractRun, fit
from pcs_ext.image.learn import preset_of
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import seed_for
from pcs_ext.threed.avatar.figure import capsule_body
from pcs_ext.threed.cameras import Cameras
from pcs_ext.threed.fields import Bounds
from pcs_ext.threed.geometry_control import ControlKind, GeometryControl, check_control, control_identity
from pcs_ext.threed.named_recipe import EffortOptions, named_recipe
from pcs_ext.threed.outputs import check_folder
from pcs_ext.threed.placed_mesh import place_mesh
from pcs_ext.threed.recipes import GeneratorRecipe
from pcs_ext.threed.stored import restored, store
from pcs_ext.threed.surface import SurfaceMesh
from pcs_ext.threed.transforms_json import write_transforms
from pcs_ext.threed.triplane.gan_stage import GanLoss, GanStage
from pcs_ext.threed.triplane.networks import Discriminator, Generator, GeneratorConfig
from pcs_ext.threed.triplane.view_data import ViewMaker
from pcs_ext.threed.work import WorkFolder

_STEM = "generator"
_BODY = 64
_BODY_HEIGHT = 1.0
"""Of the capsule body's middle."""
_BODY_HALF = 1.5
"""Half the side of the cube that the capsule body suits, world units."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorOptions(EffortOptions):
    """How pictures are made and a generator is trained."""

    shape: Path | None = None
    """Mesh whose renders guide the pictures; None: the capsule body."""
    controlnet: Path | None = None
    """Folder of a diffusers ControlNet for the base; None: the noised renders guide."""
    control: ControlKind = "depth"
    """What the ControlNet reads."""
    pictures: int | None = None
    """How many; None takes the recipe's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_control(self.control, self.controlnet, unless="depth")


@config
class GeneratorFile:
    """What is stored beside the tensors."""

    generator: GeneratorConfig
    """Sizes."""
    prompt: str
    """What its pictures were made of, words in place."""
    steps: int
    """Of its training."""


def learn_generator(
    subject: Path,
    prompt: str,
    output: Path,
    options: GeneratorOptions | None = None,
    *,
    reporter: Reporter | None = None,
) -> Generator:
    """Make stylised pictures of a posed shape and train a generator on them; goes on after an interruption.

    Args:
        subject: folder written by `learn`: a subject or a style.
        prompt: with `{subject}`; words for the view are appended.
        output: folder of the generator; appears whole. Pictures and checkpoints lie in OUTPUT.work; pictures stay.
        options: how.
        reporter: hears events and progress.

    Raises:
        UsageError, ConfigError, InputError, ArtifactError, ModelError: before any sampling, with what to do.
        CheckpointError: the work folder belongs to another request.
        DivergedError: the loss stopped being finite.
        Interrupted: Ctrl-C; what was done is saved.
    """
    options, reporter = options or GeneratorOptions(), reporter or SilentReporter()
    check_folder(output, f"{_STEM}.json", options.overwrite)
    artifact = Artifact.load(subject)
    text = artifact.concept.prompt(prompt)
    base = options.base or artifact.data.base_name
    recipe = named_recipe(GeneratorRecipe, "styleavatar3d", preset_of(base), options)
    if options.pictures is not None:
        recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, count=options.pictures))
    mesh = guiding_shape(options.shape, recipe.gan.generator.bounds)
    backbone = load_backbone(base, device=options.device, precision=options.precision, reporter=reporter)
    control = None
    if options.controlnet is not None:
        control = GeometryControl.load(options.controlnet, options.control, backbone)
    work = WorkFolder(
        output.with_name(f"{output.name}.work"),
        {
            "recipe": to_jsonable(recipe),
            "subject": artifact.data.content_hash,
            "prompt": text,
            "shape": "" if options.shape is None else file_sha256(options.shape),
            "control": control_identity(options.controlnet, options.control),
            "base": backbone.fingerprint,
            "precision": str(backbone.dtype),
            "seed": options.seed,
        },
    )
    write_json(work.path / "recipe.json", recipe)
    job = GeneratorJob(recipe, artifact, backbone, mesh, work, options, reporter)
    try:
        generator = job.run(prompt, control)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; what was done is in {work.path}. The same command goes on from there."
        ) from None
    store(output, _STEM, generator, GeneratorFile(generator=recipe.gan.generator, prompt=text,
                                                  steps=recipe.gan.fit.steps))  # fmt: skip
    shutil.rmtree(work.path / "checkpoints", ignore_errors=True)
    return generator


def load_generator(folder: Path) -> tuple[Generator, GeneratorFile]:
    """What `learn_generator` wrote.

    Raises:
        InputError: there is none, or it is damaged.
    """
    if not (folder / f"{_STEM}.json").is_file():
        raise InputError(f"{folder} holds no generator; train one: pcs-ext 3d learn-generator SUBJECT -o {folder}.")
    generator = restored(folder, _STEM, GeneratorFile, lambda told: Generator(told.generator))
    told: Any = from_jsonable(GeneratorFile, read_json(folder / f"{_STEM}.json"), where=str(folder))
    return generator.requires_grad_(False).eval(), told


def guiding_shape(path: Path | None, bounds: Bounds) -> SurfaceMesh:
    """The user's mesh in the middle of the generator's cube, or the capsule body there."""
    if path is not None:
        return place_mesh(path, bounds).surface
    body = capsule_body(_BODY)
    place = torch.from_numpy(np.array(body.vertices)).float() - torch.tensor([0.0, 0.0, _BODY_HEIGHT])
    middle, scale = torch.tensor(bounds.center), bounds.half / _BODY_HALF
    return SurfaceMesh(place * scale + middle, torch.from_numpy(np.array(body.faces)).long())


class GeneratorJob:
    """The two stages of one request: pictures, then the generator."""

    def __init__(
        self,
        recipe: GeneratorRecipe,
        artifact: Artifact,
        backbone: AbstractUnetBackbone,
        mesh: SurfaceMesh,
        work: WorkFolder,
        options: GeneratorOptions,
        reporter: Reporter,
    ) -> None:
        self.recipe, self.artifact, self.backbone, self.mesh = recipe, artifact, backbone, mesh
        self.work, self.options, self.reporter = work, options, reporter

    def run(self, prompt: str, control: GeometryControl | None) -> Generator:
        """The generator, its averaged weights."""
        data, seed = self.recipe.data, self.options.seed
        cameras = data.cameras(self.recipe.gan.generator.bounds.center, seed)
        folder = self.work.path / "pictures"
        self.reporter.event("stage", f"{data.count} pictures", stage="pictures")
        maker = ViewMaker(folder, self.mesh, cameras, data, seed)
        pictures = maker.run(self.backbone, self.artifact, prompt, self.recipe.words, control, self.reporter,
                              side=self.recipe.gan.side)  # fmt: skip
        side = self.backbone.resolution
        names = [f"{index:04d}.png" for index in range(len(pictures))]
        write_transforms(folder / "transforms.json", cameras, names, side, side)
        return self._trained(cameras, pictures)

    def _trained(self, cameras: Cameras, pictures: torch.Tensor) -> Generator:
        own = seed_for(self.options.seed, "generator") % 2**31
        gan = self.recipe.gan
        stage: GanStage = dataclasses.replace(gan, fit=dataclasses.replace(gan.fit, seed=own))
        generator = Generator(stage.generator, own)
        discriminator = Discriminator(stage.side, stage.labels.width, seed=own)
        loss = GanLoss(generator, discriminator, cameras, pictures, stage)
        self.reporter.event("stage", f"generator: {stage.fit.steps} steps", stage="generator")
        checkpoints = CheckpointFolder(
            self.work.path / "checkpoints", config_hash=self.work.hash, reporter=self.reporter
        )
        runs: list[AbstractRun] = []
        states = fit(
            loss, loss.groups(), stage.fit, checkpoints=checkpoints, reporter=self.reporter, on_start=runs.append
        )
        for state in states:
            self.reporter.progress("3d generator", state.step, state.total_steps)
        if runs[0].average is None:
            return generator
        with runs[0].average.swapped():
            return copy.deepcopy(generator)
