"""Training a generator of planes against a discriminator that is told the view."""

import dataclasses

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.types import LossTerms, ParameterGroup
from pcs_ext.threed.cameras import Cameras, rays
from pcs_ext.threed.fields import AbstractField
from pcs_ext.threed.render import RenderConfig, render_rays
from pcs_ext.threed.triplane.networks import Discriminator, Generator, GeneratorConfig
from pcs_ext.threed.triplane.view_labels import LabelConfig, view_labels


@config
class GanStage:
    """How a generator is trained."""

    generator: GeneratorConfig = GeneratorConfig()
    """Sizes."""
    labels: LabelConfig = LabelConfig()
    """What the discriminator is told of views."""
    fit: FitConfig
    """Steps and optimiser."""
    side: int = 32
    """Of the pictures that are compared, a power of two (EG3D: 64, then enlarged to 512)."""
    samples: int = 24
    """Per ray."""
    batch_size: int = 4
    """Pictures of each kind per step."""
    generator_rate: float = 2.5e-3
    """Learning rate (EG3D)."""
    discriminator_rate: float = 2e-3
    """Learning rate (EG3D)."""
    penalty: float = 1.0
    """gamma of the penalty on the discriminator's slope at real pictures (R1, arXiv 1801.04406)."""

    def __post_init__(self) -> None:
        if self.side < 8 or self.side & (self.side - 1) or min(self.samples, self.batch_size) < 1 or self.penalty < 0:
            raise ConfigError(
                "expected pictures of 8, 16, 32 ... pixels, at least one sample and picture, and a penalty of 0 or "
                f"more, got {self.side}, {self.samples}, {self.batch_size}, {self.penalty}."
            )

    def with_steps(self, steps: int) -> "GanStage":
        """The same in other steps."""
        return dataclasses.replace(self, fit=dataclasses.replace(self.fit, steps=steps))


class GanLoss:
    """The terms of both players at once: a `Loss` for `fit`.

    Both step at the same time from where both stand, instead of in turn; each term moves its own player alone.

    Args:
        generator: one player.
        discriminator: the other.
        cameras: of the real pictures.
        pictures: `n 3 s s` in [0, 1], over white.
        stage: how.
    """

    def __init__(
        self, generator: Generator, discriminator: Discriminator, cameras: Cameras, pictures: Tensor, stage: GanStage
    ) -> None:
        self.generator, self.discriminator, self.cameras, self.stage = generator, discriminator, cameras, stage
        self.pictures = functional.interpolate(pictures, (stage.side, stage.side), mode="bilinear", antialias=True)

    def groups(self) -> list[ParameterGroup]:
        """Both players."""
        players = (
            ("generator", self.generator, self.stage.generator_rate),
            ("discriminator", self.discriminator, self.stage.discriminator_rate),
        )
        return [
            ParameterGroup(name=name, parameters=tuple(player.parameters()), learning_rate=rate)
            for name, player, rate in players
        ]

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Terms of one draw of pictures, styles, views and labels (non-saturating logistic loss with R1)."""
        count, stage = self.stage.batch_size, self.stage
        shown, asked = (torch.randint(len(self.cameras), (count,), generator=generator) for _ in range(2))
        z = torch.randn(count, stage.generator.latent, generator=generator)
        fake = self.views(z, self.cameras[asked], generator)
        fake_labels = view_labels(self.cameras[asked], stage.labels, generator)
        real_labels = view_labels(self.cameras[shown], stage.labels, generator)
        real = (self.pictures[shown] * 2 - 1).requires_grad_()
        frozen = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        judged = functional_call(self.discriminator, frozen, (fake, fake_labels))
        on_real = self.discriminator(real, real_labels)
        on_fake = self.discriminator(fake.detach(), fake_labels)
        (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
        return LossTerms(
            {
                "generator": functional.softplus(-judged).mean(),
                "discriminator": (functional.softplus(-on_real) + functional.softplus(on_fake)).mean(),
                "slope": stage.penalty / 2 * slope.square().sum((1, 2, 3)).mean(),
            }
        )

    def views(self, z: Tensor, cameras: Cameras, generator: torch.Generator | None) -> Tensor:
        """Pictures `b 3 s s` in [-1, 1] of styles `b latent`, each from its own camera. Differentiable."""
        planes = self.generator.planes(self.generator.styled(z))
        seen = [self._view(self.generator.field(one), cameras[[index]], generator) for index, one in enumerate(planes)]
        return torch.stack(seen) * 2 - 1

    def _view(self, field: AbstractField, camera: Cameras, generator: torch.Generator | None) -> Tensor:
        side, settings = self.stage.side, RenderConfig(samples=self.stage.samples)
        found = render_rays(field, rays(camera, side, side), settings, background=1.0, generator=generator)
        return found.rgb.view(side, side, 3).permute(2, 0, 1)
