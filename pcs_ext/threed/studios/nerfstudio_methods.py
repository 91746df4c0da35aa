"""Methods for nerfstudio, found by its entry points: generfacto taught by a guide. Import only inside nerfstudio.

`pcs-generfacto` is generfacto with any base, LoRA or learned subject as its diffusion model; `pcs-dreambooth3d` adds
DreamBooth3D's weak reconstruction of pseudo views, for the last of its stages.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.cameras.rays import RayBundle  # pyright: ignore[reportMissingImports]
from nerfstudio.configs.base_config import ViewerConfig  # pyright: ignore[reportMissingImports]
from nerfstudio.data.datamanagers.random_cameras_datamanager import (  # pyright: ignore[reportMissingImports]
    RandomCamerasDataManagerConfig,
)
from nerfstudio.engine.optimizers import AdamOptimizerConfig  # pyright: ignore[reportMissingImports]
from nerfstudio.engine.trainer import TrainerConfig  # pyright: ignore[reportMissingImports]
from nerfstudio.models.generfacto import (  # pyright: ignore[reportMissingImports]
    GenerfactoModel,
    GenerfactoModelConfig,
)
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig  # pyright: ignore[reportMissingImports]
from nerfstudio.plugins.types import MethodSpecification  # pyright: ignore[reportMissingImports]
from torch import Tensor

from pcs_ext.threed.cameras import Rays, rays
from pcs_ext.threed.distillation import DistillationConfig, TimestepLaw
from pcs_ext.threed.fields import Bounds
from pcs_ext.threed.pseudo_views import read_pseudo_views
from pcs_ext.threed.studios.guide import Guide, SourceFields, source_of
from pcs_ext.threed.studios.guide_diffusion import GuideDiffusion


@dataclasses.dataclass
class PcsGenerfactoModelConfig(GenerfactoModelConfig, SourceFields):
    """Generfacto with a guide; `guidance_scale` is the standard form, one more than generfacto's own."""

    _target: type = dataclasses.field(default_factory=lambda: PcsGenerfactoModel)
    """target class to instantiate"""
    prompt: str = "a photo of {subject}"
    """with {subject} where a learned subject goes"""
    diffusion_model: Literal["pcs"] = "pcs"  # type: ignore[assignment]
    """the guide"""
    positional_prompting: Literal["discrete", "off"] = "discrete"  # type: ignore[assignment]
    """whether the direction is said; there is no mixture of prompts"""
    guidance_scale: float = 101
    """standard form, 1 = off"""
    noise: tuple[float, float] = (0.02, 0.98)
    """range of noise levels, shares of the schedule"""
    guide_seed: int = 0
    """of noise levels and noise"""


class PcsGenerfactoModel(GenerfactoModel):
    """Generfacto whose diffusion model is a guide."""

    config: PcsGenerfactoModelConfig

    def populate_modules(self) -> None:
        """Set the fields and modules."""
        low, high = self.config.noise
        settings = DistillationConfig(timesteps=TimestepLaw(low=(low, low), high=(high, high)))
        # Before the parent's: it builds a diffusion model of its own only for the two names that it knows.
        self._diffusion_model = GuideDiffusion(Guide(source_of(self.config)), settings, self.config.guide_seed)
        super().populate_modules()


@dataclasses.dataclass
class PcsDreamBooth3dModelConfig(PcsGenerfactoModelConfig):
    """Generfacto with a guide and a weak reconstruction of pseudo views."""

    _target: type = dataclasses.field(default_factory=lambda: PcsDreamBooth3dModel)
    """target class to instantiate"""
    pseudo_views: Path | None = None
    """folder of pseudo views: JOB.work/pseudo_views of `pcs-ext 3d make`"""
    pseudo_loss_mult: float = 1000.0
    """weight of their mean L1 error; chosen, the paper's is in its supplement"""
    pseudo_rays: int = 1024
    """per step"""


class PcsDreamBooth3dModel(PcsGenerfactoModel):
    """The loss of generfacto and an L1 term on rays of pseudo views."""

    config: PcsDreamBooth3dModelConfig

    def populate_modules(self) -> None:
        """Set the fields and modules, read the pseudo views."""
        super().populate_modules()
        self.pseudo: tuple[Rays, Tensor] | None = None
        if self.config.pseudo_views is not None:
            cameras, images = read_pseudo_views(self.config.pseudo_views, cut=True)
            self.pseudo = rays(cameras, *images.shape[2:]), images.permute(0, 2, 3, 1).reshape(-1, 3)
        self.pseudo_generator = torch.Generator().manual_seed(self.config.guide_seed)

    def get_loss_dict(self, outputs: Any, batch: Any, metrics_dict: Any = None) -> dict[str, Any]:
        """Generfacto's terms and, in training, `pseudo_loss`."""
        terms = super().get_loss_dict(outputs, batch, metrics_dict)
        if self.training and self.pseudo is not None:
            bundle, colors = self.pseudo
            index = torch.randint(len(bundle), (self.config.pseudo_rays,), generator=self.pseudo_generator)
            rendered = self(nerfstudio_rays(bundle[index], self.device))["rgb_only"]
            error = (rendered - colors[index].to(rendered)).abs().mean()
            terms["pseudo_loss"] = self.config.pseudo_loss_mult * error
        return terms


def nerfstudio_rays(bundle: Rays, device: Any) -> RayBundle:
    """Rays of the suite's cube in generfacto's, which is 2 wide about the origin; both look at the front along +y."""
    bounds = Bounds()
    ones = torch.ones(len(bundle), 1)
    return RayBundle(
        origins=bounds.normalized(bundle.origins),
        directions=bundle.directions,
        pixel_area=ones * 1e-6,
        camera_indices=torch.zeros(len(bundle), 1, dtype=torch.long),
        metadata={"directions_norm": ones},
    ).to(device)


def _method(name: str, model: PcsGenerfactoModelConfig) -> TrainerConfig:
    """Generfacto's own trainer, cameras and rates."""
    rates = {"proposal_networks": 1e-3, "fields": 5e-4}
    optimizers = {
        group: {"optimizer": AdamOptimizerConfig(lr=rate, eps=1e-15), "scheduler": None}
        for group, rate in rates.items()
    }
    return TrainerConfig(
        method_name=name,
        experiment_name="",
        steps_per_eval_batch=50,
        steps_per_eval_image=50,
        steps_per_save=200,
        max_num_iterations=30000,
        mixed_precision=True,
        pipeline=VanillaPipelineConfig(
            datamanager=RandomCamerasDataManagerConfig(horizontal_rotation_warmup=3000), model=model
        ),
        optimizers=optimizers,
        viewer=ViewerConfig(),
        vis="viewer",
    )


_RENDERING = {
    "eval_num_rays_per_chunk": 1 << 15,
    "interlevel_loss_mult": 100.0,
    "taper_range": (0, 2000),
    "proposal_warmup": 2000,
    "proposal_update_every": 0,
    "proposal_weights_anneal_max_num_iters": 2000,
    "start_lambertian_training": 500,
    "start_normals_training": 2000,
    "opacity_loss_mult": 0.001,
}
"""What generfacto's registered method changes of its own defaults."""

pcs_generfacto = MethodSpecification(
    config=_method("pcs-generfacto", PcsGenerfactoModelConfig(**_RENDERING)),
    description="generfacto taught by any base, LoRA or learned subject of pcs_ext",
)
pcs_dreambooth3d = MethodSpecification(
    config=_method("pcs-dreambooth3d", PcsDreamBooth3dModelConfig(**_RENDERING)),
    description="DreamBooth3D's last stage: pcs-generfacto and pseudo views of pcs_ext",
)
