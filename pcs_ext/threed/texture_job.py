"""`3d texture`: a mesh and a learned subject in, the mesh with the subject's look out."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcs_ext.config_io import atomic_write_bytes, write_json
from pcs_ext.errors import Interrupted, UsageError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import seed_for
from pcs_ext.threed.cameras import ring
from pcs_ext.threed.export import check_tools, write_with_page
from pcs_ext.threed.fields import Bounds
from pcs_ext.threed.geometry_control import GeometryControl
from pcs_ext.threed.materials import MaterialConfig, MaterialField
from pcs_ext.threed.outputs import check_ending, check_files, outputs_of
from pcs_ext.threed.personalized import PersonalizedGuidance
from pcs_ext.threed.placed_mesh import Placed
from pcs_ext.threed.stored import restored, store
from pcs_ext.threed.texture import TextureConfig, bake_texture, check_room, resolved
from pcs_ext.threed.texture_request import TextureOptions, TextureRequest, read_texture_request
from pcs_ext.threed.texture_stage import TextureLoss, TextureStage, geometry, learn_texture, paint_views
from pcs_ext.threed.turntable import sheet
from pcs_ext.threed.work import WorkFolder

_FORMATS = ("glb", "obj")
_PREVIEW = 128
"""Sides of larger views in previews, pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Textured:
    """What a finished job left."""

    mesh: Any
    """The `trimesh.Trimesh` that was written."""
    materials: MaterialField
    """What was baked, in the cube it was learned in."""
    files: tuple[Path, ...]
    """The mesh and, where wanted, the page that shows it."""
    work: Path
    """The job's folder."""


def texture_3d(
    mesh: Path, subject: Path, output: Path, options: TextureOptions | None = None, *, reporter: Reporter | None = None
) -> Textured:
    """Paint a mesh with a learned subject's look; the same call goes on after an interruption.

    Faces keep their number, order and place; vertices on seams are doubled.

    Args:
        mesh: .glb, .obj or .ply; never written to.
        subject: folder written by `learn`.
        output: ends in .glb or .obj.
        options: how.
        reporter: hears events and progress.

    Raises:
        UsageError, ConfigError, InputError, ArtifactError, ModelError: before any training, with what to do.
        CheckpointError: the work folder belongs to another request.
        DivergedError: the loss stopped being finite.
        Interrupted: Ctrl-C; what was done is saved.
    """
    options, reporter = options or TextureOptions(), reporter or SilentReporter()
    check_ending(output, _FORMATS)
    if output.resolve() == mesh.resolve():
        raise UsageError(f"{output} is the mesh itself, which is never written to; choose another --output.")
    outputs = outputs_of(output, viewer=options.viewer, textured=True, materials=True)
    check_files(outputs.files, mesh, options.overwrite)
    check_tools(options.layout)
    texture = TextureConfig(size=options.texture_size, layout=options.layout)
    request = read_texture_request(mesh, subject, options)
    if texture.size is not None and resolved(texture.layout) == "grid":
        check_room(len(request.placed.mesh.faces), texture.size)
    backbone = load_backbone(request.base, device=options.device, precision=options.precision, reporter=reporter)
    control = _control(options, backbone, reporter)
    work = WorkFolder(output.with_name(f"{output.name}.work"), request.identity(backbone))
    write_json(work.path / "recipe.json", request.recipe)
    try:
        materials = TextureJob(request, backbone, control, work, reporter).run()
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; what was done is in {work.path}. The same command goes on from there."
        ) from None
    painted = baked(request.placed, materials, texture)
    files = tuple(write_with_page(painted, outputs))
    return Textured(mesh=painted, materials=materials, files=files, work=work.path)


def baked(placed: Placed, materials: MaterialField, settings: TextureConfig) -> Any:
    """The mesh as it was read with base colour, roughness and metalness in textures."""

    def paint(places: Tensor, normals: Tensor) -> Tensor:
        found = materials.query(placed.inside(places))
        return torch.cat([found.albedo, found.roughness[:, None], found.metallic[:, None]], 1)

    return bake_texture(placed.mesh, paint, settings)


def _control(options: TextureOptions, backbone: AbstractUnetBackbone, reporter: Reporter) -> GeometryControl | None:
    if options.controlnet is not None:
        return GeometryControl.load(options.controlnet, options.control, backbone)
    reporter.event(
        "no-control",
        "Without --controlnet the models see the mesh only in the picture: colours need not follow its parts, and the "
        "first steps, when it is grey, say little of its shape.",
    )
    return None


class TextureJob:
    """The optimisation of one request; done once, goes on where it was stopped.

    Args:
        request: what is wanted.
        backbone: its base, without the subject.
        control: tells the models the geometry; None: the picture alone does.
        work: where everything lies.
        reporter: hears everything.
    """

    def __init__(
        self,
        request: TextureRequest,
        backbone: AbstractUnetBackbone,
        control: GeometryControl | None,
        work: WorkFolder,
        reporter: Reporter,
    ) -> None:
        self.request, self.backbone, self.control = request, backbone, control
        self.work, self.reporter = work, reporter
        self.seed = seed_for(request.options.seed, "texture") % 2**31
        stage = request.recipe.stage
        self.stage: TextureStage = dataclasses.replace(stage, fit=dataclasses.replace(stage.fit, seed=self.seed))

    def run(self) -> MaterialField:
        """The materials."""
        folder = self.work.path / "materials"
        if folder.exists():
            return restored(folder, "materials", MaterialConfig, lambda settings: settings.build(Bounds()))
        materials = self.stage.materials.build(Bounds(), self.seed).to(self.backbone.device)
        checkpoints = CheckpointFolder(
            self.work.path / "checkpoints", config_hash=self.work.hash, reporter=self.reporter
        )
        every = self.request.options.previews
        for state in learn_texture(self._loss(materials), checkpoints=checkpoints, reporter=self.reporter):
            self.reporter.progress("3d texture", state.step, state.total_steps)
            if every and state.step % every == 0:
                self._preview(materials, state.step)
        store(folder, "materials", materials.cpu(), self.stage.materials)
        shutil.rmtree(self.work.path / "checkpoints", ignore_errors=True)
        return materials

    def _loss(self, materials: MaterialField) -> TextureLoss:
        recipe, options = self.request.recipe, self.request.options
        guidance = PersonalizedGuidance(
            self.backbone,
            self.request.artifact,
            options.prompt,
            self.stage.guidance,
            negative_prompt=recipe.negative_prompt,
            words=recipe.words,
            seed=self.seed,
        )
        surface = self.request.placed.surface
        return TextureLoss(materials, surface, self.stage, guidance, self.backbone, self.control)

    @torch.no_grad()
    def _preview(self, materials: MaterialField, step: int) -> None:
        stage, side = self.stage, min(self.stage.side, _PREVIEW)
        mesh = self.request.placed.surface.to(materials.device)
        cameras = ring(8, target=Bounds().center)
        seen = geometry(mesh, mesh.vertex_normals(), cameras, side)
        views = paint_views(seen, materials, cameras, stage.studio, stage.background)
        path = self.work.path / "previews" / f"texture-{step:06d}.png"
        atomic_write_bytes(path, sheet(views, columns=len(cameras)))
        self.reporter.event("preview", f"preview {path}", path=str(path))
