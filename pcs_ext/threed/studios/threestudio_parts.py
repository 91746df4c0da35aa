"""Guidance, prompt processor and system for threestudio's registry. Import only inside threestudio."""

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pcs_ext.errors import UsageError
from pcs_ext.image.types import Conditioning
from pcs_ext.threed.cameras import orbit, rays
from pcs_ext.threed.distillation import DistillationConfig, TimestepLaw
from pcs_ext.threed.posed_pictures import read_pictures
from pcs_ext.threed.studios.guide import Guide, SourceFields, source_of
from pcs_ext.threed.view_prompts import DIRECTIONS, ViewWords, directions


@dataclasses.dataclass
class PromptFields(SourceFields):
    """Keys of `system.prompt_processor`."""

    prompt: str = "a photo of {subject}"
    negative_prompt: str = ""
    front_threshold: float = 45.0
    overhead_threshold: float = 60.0


@dataclasses.dataclass
class GuidanceFields:
    """Keys of `system.guidance`; the guidance scale is the standard form, one more than threestudio's own."""

    guidance_scale: float = 101.0
    min_step_percent: float = 0.02
    max_step_percent: float = 0.98
    weighting_strategy: str = "sigma"
    max_gradient: float = 0.0
    max_steps: int = 10000
    seed: int = 0


class PromptOutput:
    """What `prompt_processor()` returns: the prompt in all directions, encoded by the personalised model."""

    def __init__(self, guide: Guide, fields: Any) -> None:
        self.guide = guide
        self.words = ViewWords(front_angle=fields.front_threshold, overhead_elevation=fields.overhead_threshold)
        text = guide.words(fields.prompt)
        self.texts = [text + getattr(self.words, name) for name in DIRECTIONS]
        self.positive = guide.encode(self.texts)
        self.negative = guide.encode([guide.away(fields.negative_prompt)])

    def conditioning(self, elevation: Tensor, azimuth: Tensor) -> tuple[Conditioning, Conditioning]:
        """Negative and positive conditioning, one row per camera; angles `b` in degrees, 0 being the front."""
        azimuth, elevation = azimuth.detach().cpu(), elevation.detach().cpu()
        ones = torch.ones_like(azimuth)
        seen = directions(orbit(azimuth, elevation, ones, 30 * ones), self.words)
        return self.negative[[0] * len(seen)], self.positive[[DIRECTIONS.index(name) for name in seen]]

    def get_text_embeddings(
        self, elevation: Tensor, azimuth: Tensor, camera_distances: Tensor, view_dependent_prompting: bool = True
    ) -> Tensor:
        """`2b n d`, texts first, then negatives: the form threestudio's own guidances ask for.

        Raises:
            UsageError: the subject's words differ from layer to layer, which that form cannot say.
        """
        if self.positive.per_layer is not None:
            raise UsageError("this subject conditions each layer by itself; use it with pcs-guidance.")
        front = torch.zeros_like(azimuth)
        angles = (elevation, azimuth) if view_dependent_prompting else (front, front)
        negative, positive = self.conditioning(*angles)
        return torch.cat([positive.states, negative.states])


def register_parts() -> None:
    """Register `pcs-prompt-processor`, `pcs-guidance` and `pcs-dreambooth3d-system` with threestudio."""
    import threestudio  # pyright: ignore[reportMissingImports]
    from threestudio.utils.base import BaseObject  # pyright: ignore[reportMissingImports]

    _register_prompts(threestudio, BaseObject)
    _register_guidance(threestudio, BaseObject)
    _register_system(threestudio)


def _register_prompts(registry: Any, base: Any) -> None:
    @registry.register("pcs-prompt-processor")
    class PcsPromptProcessor(base):
        @dataclasses.dataclass
        class Config(PromptFields):
            pass

        def configure(self) -> None:
            self.output = PromptOutput(Guide(source_of(self.cfg)), self.cfg)

        def __call__(self) -> PromptOutput:
            return self.output


def _register_guidance(registry: Any, base: Any) -> None:
    @registry.register("pcs-guidance")
    class PcsGuidance(base):
        @dataclasses.dataclass
        class Config(GuidanceFields):
            pass

        def configure(self) -> None:
            low, high = self.cfg.min_step_percent, self.cfg.max_step_percent
            self.settings = DistillationConfig(
                guidance_scale=self.cfg.guidance_scale,
                timesteps=TimestepLaw(low=(low, low), high=(high, high)),
                weighting=self.cfg.weighting_strategy,
                max_gradient=self.cfg.max_gradient or None,
            )
            self.generator = torch.Generator().manual_seed(self.cfg.seed)
            self.progress = 0.0

        def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
            self.progress = min(global_step / self.cfg.max_steps, 1.0)

        def __call__(
            self,
            rgb: Tensor,
            prompt_utils: Any,
            elevation: Tensor,
            azimuth: Tensor,
            camera_distances: Tensor,
            rgb_as_latents: bool = False,
            **unused: Any,
        ) -> dict[str, Any]:
            if rgb_as_latents or not isinstance(prompt_utils, PromptOutput):
                raise UsageError("pcs-guidance judges pictures and needs pcs-prompt-processor as the prompt processor.")
            prompts = prompt_utils.conditioning(elevation, azimuth)
            arguments = {"progress": self.progress, "generator": self.generator}
            return {"loss_sds": prompt_utils.guide.loss(rgb, prompts, self.settings, **arguments)}


def _register_system(registry: Any) -> None:
    parent = registry.find("dreamfusion-system")

    @registry.register("pcs-dreambooth3d-system")
    class PcsDreamBooth3DSystem(parent):
        @dataclasses.dataclass
        class Config(parent.Config):
            pseudo_views: str = ""
            pseudo_seed: int = 0

        def configure(self) -> None:
            super().configure()
            self.views = read_pictures(self.cfg.pseudo_views)
            self.view_generator = torch.Generator().manual_seed(self.cfg.pseudo_seed)

        def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
            result = super().training_step(batch, batch_idx)
            cameras, pictures = self.views
            index = int(torch.randint(len(cameras), (1,), generator=self.view_generator))
            target = pictures[[index]].permute(0, 2, 3, 1).to(result["loss"].device)
            bundle = rays(cameras[[index]], *target.shape[1:3])
            shaped = [value.view(target.shape).to(target) for value in (bundle.origins, bundle.directions)]
            light = cameras.positions[[index]].to(target)
            out = self({"rays_o": shaped[0], "rays_d": shaped[1], "light_positions": light})
            loss = functional.l1_loss(out["comp_rgb"], target)
            return {**result, "loss": result["loss"] + self.C(self.cfg.loss["lambda_pseudo"]) * loss}
