"""`3d edit`: a finished scene, a learned subject and a box in; the scene with something new in the box out."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save_file

from pcs_ext.config_io import atomic_folder, atomic_write_bytes, write_json
from pcs_ext.errors import Interrupted
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import fit
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import seed_for
from pcs_ext.threed.cameras import ring
from pcs_ext.threed.edit_refine import refined_pictures
from pcs_ext.threed.edit_request import EditOptions, EditRequest, read_edit_request
from pcs_ext.threed.edit_stage import EditLoss, edit_splats
from pcs_ext.threed.edited_splats import EditedConfig, EditedSplats, load_edited, save_edited
from pcs_ext.threed.export import check_tools, colors_for, finished_mesh, write_with_page
from pcs_ext.threed.guidance import AbstractGuidance, build_guidance
from pcs_ext.threed.localization import SceneLoss, SceneUpdates
from pcs_ext.threed.make import Made
from pcs_ext.threed.mesh import WRITTEN
from pcs_ext.threed.outputs import free_outputs
from pcs_ext.threed.shapes import preview_sheet, shape_views
from pcs_ext.threed.splat_fit import field_pictures, fit_splats, surface_splats
from pcs_ext.threed.splats import Splats, SplatsConfig, load_splats, save_splats
from pcs_ext.threed.stored import fill
from pcs_ext.threed.work import Result, WorkFolder


def edit_3d(
    scene: Path, subject: Path, prompt: str, output: Path, options: EditOptions, *, reporter: Reporter | None = None
) -> Made:
    """Put something new into a box of a scene, as splats; the scene's own stay as they are, bit for bit.

    The job lives in `OUTPUT.work/`; the same call goes on from there after an interruption. `3d render` and `3d export`
    read it.

    Args:
        scene: OUTPUT.work of `3d make`; never written to.
        subject: folder written by `learn`: what comes into the box.
        prompt: of the edited scene, with `{subject}`.
        output: ends in .glb, .obj, .ply or .usdz.
        options: the box and how.
        reporter: hears events and progress.

    Raises:
        UsageError, ConfigError, InputError, ArtifactError, ModelError: before any training, with what to do.
        CheckpointError: the work folder belongs to another request.
        DivergedError: the loss stopped being finite.
        Interrupted: Ctrl-C; what was done is saved.
    """
    reporter = reporter or SilentReporter()
    colors = colors_for(output, "auto")
    outputs = free_outputs(
        output, WRITTEN, viewer=options.viewer, textured=colors != "vertex", overwrite=options.overwrite
    )
    check_tools(colors)
    path = output.with_name(f"{output.name}.work")
    request = read_edit_request(scene, subject, prompt, options)
    try:
        splats = _edited(request, path, reporter)
        mesh = finished_mesh(splats, request.scene.made.mesh, colors)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; what was done is in {path}. The same command goes on from there.") from None
    return Made(mesh=mesh, shape=splats, files=tuple(write_with_page(mesh, outputs)), work=path)


def edited_splats(
    scene: Path, subject: Path, prompt: str, work: Path, options: EditOptions, reporter: Reporter
) -> EditedSplats:
    """The edited scene, whether or not a mesh can be cut out of it. Arguments and errors as `edit_3d`'s.

    Args:
        scene, subject, prompt, options: as for `edit_3d`.
        work: the job's folder.
        reporter: hears events and progress.
    """
    return _edited(read_edit_request(scene, subject, prompt, options), work, reporter)


def _edited(request: EditRequest, path: Path, reporter: Reporter) -> EditedSplats:
    options = request.options
    backbone = load_backbone(request.base, device=options.device, precision=options.precision, reporter=reporter)
    work = WorkFolder(path, request.identity(backbone))
    write_json(work.path / "recipe.json", request.recipe)
    splats = EditJob(request, backbone, work, reporter).run()
    text = request.artifact.concept.prompt(request.prompt)
    work.finish(Result(field="refine/edited", mesh=request.scene.made.mesh, prompt=text))
    return splats


class EditJob:
    """The stages of one request; each is done once and goes on where it was stopped.

    Args:
        request: what is wanted.
        backbone: its base, without the subject.
        work: where everything lies.
        reporter: hears everything.
    """

    def __init__(
        self, request: EditRequest, backbone: AbstractUnetBackbone, work: WorkFolder, reporter: Reporter
    ) -> None:
        self.request, self.backbone, self.work, self.reporter = request, backbone, work, reporter
        self.recipe, self.concept = request.recipe, request.artifact.concept

    def run(self) -> EditedSplats:
        """The edited scene."""
        folder = self.work.path / "refine" / "edited"
        if folder.exists():
            return load_edited(folder)
        splats, seed = self._begun(self._scene_splats()), self._seed("refine")
        with self._placed(splats) as backbone:
            self._edit(splats, backbone)
            self._refine(splats, backbone, seed)
        splats.prune(self.recipe.stage.pruning)
        save_edited(splats.cpu(), folder)
        self._done("refine")
        return splats

    def _scene_splats(self) -> Splats:
        """The scene as splats; fitted only once."""
        folder, settings = self.work.path / "scene" / "splats", self.recipe.scene
        if folder.exists():
            return load_splats(folder)
        plain, seed, scene = self.recipe.stage.plain, self._seed("splats"), self.request.scene
        field = scene.settings.build()
        scene.fill(field)
        cameras, seen = field_pictures(field, settings, background=plain)
        splats = surface_splats(field, cameras, seen, settings, seed).to(self.backbone.device)
        settings = dataclasses.replace(settings, fit=dataclasses.replace(settings.fit, seed=seed))
        checkpoints = self._checkpoints("splats")
        for state in fit_splats(
            splats, cameras, seen.rgb, settings, background=plain, checkpoints=checkpoints, reporter=self.reporter
        ):
            self.reporter.progress("3d splats", state.step, state.total_steps)
        save_splats(splats.cpu(), folder)
        self._done("splats")
        return splats

    def _begun(self, scene: Splats) -> EditedSplats:
        """The scene with a nearly transparent beginning in the box."""
        stage, options = self.recipe.stage, self.request.options
        content = SplatsConfig(count=stage.count, bounds=scene.bounds)
        splats = EditedSplats(EditedConfig(scene=scene.settings, content=content, box=options.box, mode=options.mode))
        splats.begin(scene, stage.raw_opacity, self._seed("edit"))
        return splats.to(self.backbone.device)

    def _edit(self, splats: EditedSplats, backbone: AbstractUnetBackbone) -> None:
        """Fill the box by two scores; done only once."""
        folder, stage = self.work.path / "edit" / "edited", self.recipe.stage
        if not folder.exists():
            stage = dataclasses.replace(stage, fit=dataclasses.replace(stage.fit, seed=self._seed("edit")))
            loss = EditLoss(splats, stage, *self._guidances(backbone))
            for state in edit_splats(loss, checkpoints=self._checkpoints("edit"), reporter=self.reporter):
                self.reporter.progress("3d edit", state.step, state.total_steps)
                self._preview(splats, "edit", state.step)
            splats.prune(stage.pruning)
            save_edited(splats, folder)
            self._done("edit")
        splats.load_state_dict(load_edited(folder).state_dict())

    def _refine(self, splats: EditedSplats, backbone: AbstractUnetBackbone, seed: int) -> None:
        """Fit the content to what the model makes of its pictures."""
        settings, plain = self.recipe.refine, self.recipe.stage.plain
        cameras, pictures = refined_pictures(
            splats,
            backbone,
            self.concept.prompt(self.request.prompt),
            settings,
            sampling=self.request.artifact.sampling,
            negative_prompt=self.concept.negative_prompt(self.recipe.negative_prompt),
            words=self.recipe.words,
            plain=plain,
            seed=seed,
            reporter=self.reporter,
        )
        taken = dataclasses.replace(settings.pictures, fit=dataclasses.replace(settings.pictures.fit, seed=seed))
        checkpoints = self._checkpoints("refine")
        for state in fit_splats(
            splats, cameras, pictures, taken, background=plain, checkpoints=checkpoints, reporter=self.reporter
        ):
            self.reporter.progress("3d refine", state.step, state.total_steps)
            self._preview(splats, "refine", state.step)

    def _done(self, name: str) -> None:
        """Checkpoints of a stage whose result is stored are not needed any more."""
        shutil.rmtree(self.work.path / name / "checkpoints", ignore_errors=True)

    def _guidances(self, backbone: AbstractUnetBackbone) -> tuple[AbstractGuidance, AbstractGuidance]:
        """Of the whole scene and of the content alone."""
        whole, alone = (
            build_guidance(
                backbone,
                self.concept.prompt(text),
                self.recipe.stage.guidance,
                negative_prompt=self.concept.negative_prompt(self.recipe.negative_prompt),
                words=self.recipe.words,
                seed=self._seed("edit"),
            )
            for text in (self.request.prompt, self.request.options.content_prompt)
        )
        return whole, alone

    @contextlib.contextmanager
    def _placed(self, splats: EditedSplats) -> Iterator[AbstractUnetBackbone]:
        """The base with the subject in it that knows the scene and the place; learned only once."""
        settings, folder = self.recipe.place, self.work.path / "scene" / "updates"
        seed = self._seed("scene")
        settings = dataclasses.replace(settings, fit=dataclasses.replace(settings.fit, seed=seed))
        updates = SceneUpdates(self.backbone, settings, seed)
        with self.request.artifact.applied(self.backbone):
            if not folder.exists():
                self._learn_place(updates, self._scene_loss(splats), folder)
            fill(updates.updates, folder / "updates.safetensors")
            with updates.applied(training=False):
                yield self.backbone

    def _learn_place(self, updates: SceneUpdates, loss: SceneLoss, folder: Path) -> None:
        settings, checkpoints = updates.settings.fit, self._checkpoints("scene")
        with updates.applied(training=True):
            for state in fit(loss, updates.groups(), settings, checkpoints=checkpoints, reporter=self.reporter):
                self.reporter.progress("3d scene", state.step, state.total_steps)
        with atomic_folder(folder) as target:
            save_file(updates.updates.state_dict(), target / "updates.safetensors")
        self._done("scene")

    def _scene_loss(self, splats: EditedSplats) -> SceneLoss:
        settings, side = self.recipe.place, self.backbone.resolution
        cameras = ring(settings.views, target=splats.bounds.center)
        pictures = shape_views(splats.scene, cameras, side, background=self.recipe.stage.plain) * 2 - 1
        return SceneLoss(
            self.backbone,
            pictures,
            cameras,
            splats.box,
            self.request.scene_prompt,
            self.concept.prompt(self.request.prompt),
            self.concept.name,
            settings,
        )

    def _seed(self, name: str) -> int:
        return seed_for(self.request.options.seed, name) % 2**31

    def _checkpoints(self, name: str) -> CheckpointFolder:
        folder = self.work.path / name / "checkpoints"
        return CheckpointFolder(folder, config_hash=f"{self.work.hash}-{name}", reporter=self.reporter)

    def _preview(self, splats: EditedSplats, stage: str, step: int) -> None:
        every = self.request.options.previews
        if every and step % every == 0:
            path = self.work.path / "previews" / f"{stage}-{step:06d}.png"
            atomic_write_bytes(path, preview_sheet(splats, side=self.recipe.stage.side))
            self.reporter.event("preview", f"preview {path}", path=str(path))
