"""A stage that paints a mesh: its shape stays, a field of materials learns what its views should look like."""

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.types import FitState, LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.threed.camera_laws import CameraLaw, draw_cameras
from pcs_ext.threed.cameras import Cameras
from pcs_ext.threed.geometry_control import GeometryControl, depth_pictures, normal_pictures
from pcs_ext.threed.guidance import AbstractGuidance
from pcs_ext.threed.materials import MaterialConfig, MaterialField
from pcs_ext.threed.pbr import Studio, lit_by
from pcs_ext.threed.personalized import PersonalizedConfig
from pcs_ext.threed.rasterize import project
from pcs_ext.threed.surface import SurfaceMesh
from pcs_ext.threed.surface_render import SeenSurface, look_at
from pcs_ext.threed.teach import taught


@config
class TextureStage:
    """How materials are learned."""

    materials: MaterialConfig = MaterialConfig(kind="hash", resolution=1024, learning_rate=0.01)
    """What is learned."""
    fit: FitConfig
    """Steps and optimiser."""
    guidance: PersonalizedConfig = PersonalizedConfig()
    """What the two models' scores do."""
    cameras: CameraLaw = CameraLaw()
    """Where views come from."""
    views_per_step: int = 1
    """A multiple of `cameras.views`."""
    side: int = 512
    """Of a rendered view, pixels."""
    supersampling: int = 2
    """Samples per pixel and axis."""
    studio: Studio = Studio()
    """Light, the same in all steps."""
    background: float = 1.0
    """Grey behind the mesh (TextureDreamer: white)."""

    def __post_init__(self) -> None:
        if self.views_per_step < 1 or self.views_per_step % self.cameras.views:
            raise ConfigError(
                f"views_per_step must be a positive multiple of {self.cameras.views} views, got {self.views_per_step}."
            )
        if not 8 <= self.side <= 2048 or not 1 <= self.supersampling <= 4 or not 0 <= self.background <= 1:
            raise ConfigError(
                "expected views of 8 to 2048 pixels, 1 to 4 samples per axis and a background in [0, 1], got "
                f"{self.side}, {self.supersampling} and {self.background}."
            )

    def with_steps(self, steps: int) -> "TextureStage":
        """The same stage in other steps.

        Raises:
            ConfigError: fewer than one.
        """
        return dataclasses.replace(self, fit=dataclasses.replace(self.fit, steps=steps))


@torch.no_grad()
def geometry(mesh: SurfaceMesh, normals: Tensor, cameras: Cameras, side: int) -> list[SeenSurface]:
    """What `b` square views of a mesh see: it never changes in a view, so nothing of it is differentiated."""
    cameras = cameras.to(mesh.vertices.device)
    return [
        look_at(mesh, normals, project(cameras, i, mesh.vertices, side, side), cameras.positions[i], (side, side))
        for i in range(len(cameras))
    ]


def paint_views(
    seen: list[SeenSurface], materials: MaterialField, cameras: Cameras, studio: Studio, background: float
) -> Tensor:
    """Pictures `b 3 h w` in [0, 1] of a mesh in a studio. Differentiable in the materials."""
    pictures = []
    for index, view in enumerate(seen):
        toward = functional.normalize(cameras.positions[index].to(view.places) - view.places, dim=-1)
        color = lit_by(studio, materials.query(view.places), view.normals, toward)
        layer = color.new_full((*view.covered.shape, 3), background)
        pictures.append(layer.index_put((view.covered,), color).permute(2, 0, 1))
    return torch.stack(pictures)


class TextureLoss:
    """The terms of one step: a `Loss` for `fit`.

    Args:
        materials: what trains, on the device where pictures are made.
        mesh: what is painted, in the cameras' world.
        stage: how.
        guidance: the teacher.
        backbone: the teacher's, for the control.
        control: tells the teacher the geometry in view; None leaves it to the picture.
    """

    def __init__(
        self,
        materials: MaterialField,
        mesh: SurfaceMesh,
        stage: TextureStage,
        guidance: AbstractGuidance,
        backbone: AbstractUnetBackbone,
        control: GeometryControl | None = None,
    ) -> None:
        self.materials, self.stage, self.guidance = materials, stage, guidance
        self.mesh = mesh.to(materials.device)
        self.backbone, self.control, self.normals = backbone, control, self.mesh.vertex_normals()

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Terms of one draw of cameras, timesteps and noise."""
        stage, progress = self.stage, step / self.stage.fit.steps
        cameras = draw_cameras(stage.cameras, stage.views_per_step, generator)
        seen = geometry(self.mesh, self.normals, cameras, stage.side * stage.supersampling)
        fine = paint_views(seen, self.materials, cameras, stage.studio, stage.background)
        images = functional.avg_pool2d(fine, stage.supersampling) * 2 - 1
        with self._informed(seen, cameras):
            return self.guidance.terms(images, cameras, progress=progress, generator=generator)

    def _informed(self, seen: list[SeenSurface], cameras: Cameras) -> contextlib.AbstractContextManager[None]:
        if self.control is None:
            return contextlib.nullcontext()
        covered = torch.stack([view.covered for view in seen])
        if self.control.kind == "depth":
            pictures = depth_pictures(torch.stack([view.depth for view in seen]), covered)
        else:
            normals = covered.new_zeros(*covered.shape, 3, dtype=torch.float32)
            normals[covered] = torch.cat([view.normals for view in seen])
            pictures = normal_pictures(normals, covered, cameras)
        return self.control.showing(self.backbone, pictures)


def learn_texture(
    loss: TextureLoss, *, checkpoints: CheckpointFolder | None = None, reporter: Reporter | None = None
) -> Iterator[FitState]:
    """Let a guidance paint a mesh; yields after every step.

    Raises:
        DivergedError, CheckpointError, Interrupted: as `fit`.
    """
    groups, settings = loss.materials.groups(), loss.stage.fit
    yield from taught(loss, groups, loss.guidance, settings, checkpoints=checkpoints, reporter=reporter)
