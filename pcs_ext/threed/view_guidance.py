"""What a view model says about rendered views of the thing of one photo (Magic123, arXiv 2306.17843; Animate124)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.types import LossTerms
from pcs_ext.threed.cameras import Cameras, Vector
from pcs_ext.threed.distillation import DistillationConfig, TimestepLaw, distillation_loss
from pcs_ext.threed.guidance import AbstractGuidance
from pcs_ext.threed.known_view import KnownPhoto, KnownView
from pcs_ext.threed.view_model import ViewModel, pose_numbers


@config
class ViewScore:
    """How a view model judges."""

    guidance: DistillationConfig = DistillationConfig(
        guidance_scale=5.0, timesteps=TimestepLaw(low=(0.2, 0.2), high=(0.6, 0.6))
    )
    """How its score is taken (Animate124: 5, in the standard form already, noise from 0.2 to 0.6)."""
    weight: float = 40.0
    """Beside the image model's score, which counts 1 (Animate124: 40)."""
    by_angle: bool = True
    """Views count by their angle to the photo's, 180 degrees fully: near it the photo itself says enough (the released
    code's default)."""
    unit: float = 0.35
    """What a world unit is in those of the model's training. Zero-1-to-3 saw things of about unit size from 1.5 to 2.2
    away (recalled), where ours are two units tall and 5.2 away."""

    def __post_init__(self) -> None:
        if self.weight < 0 or self.unit <= 0 or self.guidance.perp_neg:
            raise ConfigError(
                f"expected a weight of 0 or more, a unit above 0 and no Perp-Neg, which is about words; got "
                f"{self.weight}, {self.unit} and {self.guidance.perp_neg}."
            )


class ViewGuidance(AbstractGuidance):
    """The score of a view model that is shown a photo (Animate124, sec. 3.2).

    Args:
        model: frozen.
        photo: of the thing over white.
        known: the photo's camera.
        settings: how the score is taken.
        target: what all cameras look at.
        seed: of kept noise.
    """

    def __init__(
        self,
        model: ViewModel,
        photo: KnownPhoto,
        known: KnownView,
        settings: ViewScore,
        target: Vector,
        seed: int = 0,
    ) -> None:
        self.model, self.settings, self.target, self.seed = model, settings, target, seed
        self.known = known.camera(target)
        self.told = model.see(photo.image[None] * 2 - 1)

    def terms(self, images: Tensor, cameras: Cameras, *, progress: float, generator: torch.Generator) -> LossTerms:
        """See `AbstractGuidance.terms`."""
        settings = self.settings
        if settings.by_angle:
            share = (angles(cameras, self.known, self.target) / 180).to(images)[:, None, None, None]
            # The same picture, whose gradient is a share of what it would be.
            images = images.detach() + share * (images - images.detach())
        with torch.no_grad():
            poses = pose_numbers(cameras, self.known, self.target, settings.unit)
            positive = self.model.conditioning(self.told, poses)
        prompts = (self.model.nothing(positive), positive)
        loss = distillation_loss(
            self.model,
            images,
            prompts,
            settings.guidance,
            progress=progress,
            generator=generator,
            azimuth=cameras.azimuth,
            seed=self.seed,
        )
        return LossTerms({"view": settings.weight * loss})


class SummedGuidance(AbstractGuidance):
    """Several that judge the same views and train nothing themselves."""

    def __init__(self, parts: Sequence[AbstractGuidance]) -> None:
        assert not any(part.groups() for part in parts), "what is summed trains nothing itself"
        self.parts = tuple(parts)

    def terms(self, images: Tensor, cameras: Cameras, *, progress: float, generator: torch.Generator) -> LossTerms:
        """See `AbstractGuidance.terms`."""
        first, *others = (part.terms(images, cameras, progress=progress, generator=generator) for part in self.parts)
        for one in others:
            first = first + one
        return first


def angles(cameras: Cameras, known: Cameras, target: Vector) -> Tensor:
    """Degrees `b` in [0, 180] between the directions from a target to cameras and to a known one."""
    away = [one.positions - one.positions.new_tensor(target) for one in (cameras, known)]
    ours, theirs = (torch.nn.functional.normalize(one.double(), dim=1) for one in away)
    return torch.rad2deg(torch.acos((ours * theirs).sum(1).clamp(-1, 1))).float()
