"""A stage that refines a surface: views at a higher resolution, the guidance of the field's stage."""

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.types import FitState, LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.threed.camera_laws import CameraLaw, draw_cameras
from pcs_ext.threed.distillation import DistillationConfig, TimestepLaw
from pcs_ext.threed.guidance import AbstractGuidance, GuidanceConfig
from pcs_ext.threed.lighting import Lighting
from pcs_ext.threed.soft_edges import mesh_edges
from pcs_ext.threed.surface import SurfaceConfig, SurfaceMesh, TetSurface
from pcs_ext.threed.surface_render import render_surface
from pcs_ext.threed.teach import taught


@config
class SurfaceStage:
    """How a surface is refined."""

    surface: SurfaceConfig = SurfaceConfig()
    """Grid and materials."""
    fit: FitConfig
    """Steps and optimiser."""
    guidance: GuidanceConfig = DistillationConfig(timesteps=TimestepLaw(low=(0.02, 0.02), high=(0.5, 0.5)))
    """What the model's score does; small noise, because the shape is there already (threestudio: 0.02 to 0.5)."""
    cameras: CameraLaw = CameraLaw()
    """Where views come from."""
    views_per_step: int = 1
    """A multiple of `cameras.views`."""
    side: int = 512
    """Of a rendered view, pixels (Magic3D: 512)."""
    supersampling: int = 2
    """Samples per pixel and axis."""
    lighting: Lighting = Lighting()
    """Shading and background of each step."""
    smoothness: float = 10_000.0
    """Of `normal_consistency` (threestudio: 1e4 beside a score summed over a view)."""
    evenness: float = 0.0
    """Of `laplacian` (ProlificDreamer's geometry stage: 1e4)."""

    def __post_init__(self) -> None:
        if self.views_per_step < 1 or self.views_per_step % self.cameras.views:
            raise ConfigError(
                f"views_per_step must be a positive multiple of {self.cameras.views} views, got {self.views_per_step}."
            )
        if not 8 <= self.side <= 2048 or not 1 <= self.supersampling <= 4:
            raise ConfigError(
                f"expected views of 8 to 2048 pixels and 1 to 4 samples per axis, got {self.side} and "
                f"{self.supersampling}."
            )

    def with_steps(self, steps: int) -> "SurfaceStage":
        """The same stage in other steps.

        Raises:
            ConfigError: fewer than one.
        """
        return dataclasses.replace(self, fit=dataclasses.replace(self.fit, steps=steps))


def normal_consistency(mesh: SurfaceMesh) -> Tensor:
    """Mean over edges of 1 minus the cosine between the normals at their ends, 0-d; 0 on a plane. Differentiable."""
    normals = mesh.vertex_normals()
    first, second = normals[mesh_edges(mesh.faces).ends].unbind(1)
    return (1 - (first * second).sum(-1)).mean()


def laplacian(mesh: SurfaceMesh) -> Tensor:
    """Mean squared distance of vertices from the middle of their neighbours, 0-d, world units (uniform weights)."""
    ends = mesh_edges(mesh.faces).ends
    both, other = torch.cat([ends[:, 0], ends[:, 1]]), torch.cat([ends[:, 1], ends[:, 0]])
    summed = torch.zeros_like(mesh.vertices).index_add(0, both, mesh.vertices[other])
    count = torch.bincount(both, minlength=len(mesh.vertices)).clamp_min(1)
    return (summed / count[:, None] - mesh.vertices).square().sum(-1).mean()


class SurfaceLoss:
    """The terms of one step: a `Loss` for `fit`.

    Args:
        surface: what trains.
        stage: how.
        guidance: the teacher.
    """

    def __init__(self, surface: TetSurface, stage: SurfaceStage, guidance: AbstractGuidance) -> None:
        self.surface, self.stage, self.guidance = surface, stage, guidance

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Terms of one draw of cameras, light, timesteps and noise."""
        stage, progress = self.stage, step / self.stage.fit.steps
        cameras = draw_cameras(stage.cameras, stage.views_per_step, generator)
        lit, lighting = stage.lighting.draw(cameras, progress, generator), stage.lighting
        seen = render_surface(
            self.surface, cameras, stage.side, lit, ambient=lighting.ambient, supersampling=stage.supersampling
        )
        terms = self.guidance.terms(seen.rgb * 2 - 1, cameras, progress=progress, generator=generator)
        return terms + LossTerms(self._penalties())

    def _penalties(self) -> dict[str, Tensor]:
        weights, terms, mesh = self.stage, {}, self.surface.mesh()
        if weights.smoothness:
            terms["smoothness"] = weights.smoothness * normal_consistency(mesh)
        if weights.evenness:
            terms["evenness"] = weights.evenness * laplacian(mesh)
        return terms


def refine_surface(
    surface: TetSurface,
    stage: SurfaceStage,
    guidance: AbstractGuidance,
    *,
    checkpoints: CheckpointFolder | None = None,
    reporter: Reporter | None = None,
) -> Iterator[FitState]:
    """Let a guidance refine a surface; yields after every step.

    Args:
        surface: changed in place.
        stage: how.
        guidance: a frozen model and a prompt.
        checkpoints: where to save and resume; None keeps nothing.
        reporter: hears of a resume.

    Raises:
        UsageError: the surface vanished.
        DivergedError, CheckpointError, Interrupted: as `fit`.
    """
    loss = SurfaceLoss(surface, stage, guidance)
    yield from taught(loss, surface.groups(), guidance, stage.fit, checkpoints=checkpoints, reporter=reporter)
