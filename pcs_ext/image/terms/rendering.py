"""What a feature field shows of a subject, held to its photos (CustomDiffusion360, arXiv 2404.12333)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.feature_field import FeatureFieldAdapter
from pcs_ext.image.feature_nerf import Rendering
from pcs_ext.image.terms.base import AbstractTerm, Step


@config
class RenderingConfig:
    """Colours and outlines of the fields; the weights are the released configuration's, the forms are recalled."""

    kind: Literal["rendering"] = "rendering"
    """Tag of this term in JSON."""
    color: float = 5.0
    """Times the squared error of colours where the subject is."""
    silhouette: float = 10.0
    """Times what light passes where the subject is."""
    background: float = 10.0
    """Times what is in the way where it is not."""

    def __post_init__(self) -> None:
        if min(self.color, self.silhouette, self.background) < 0:
            raise ConfigError("the weights of a rendering term are 0 or more.")


class RenderingTerm(AbstractTerm):
    """The mean over all fields; 0 where no photo was seen by its camera."""

    name = "rendering"

    def __init__(self, config: RenderingConfig) -> None:
        self.config = config

    def __call__(self, step: Step) -> Tensor:
        found = [adapter for adapter in step.adapters.values() if isinstance(adapter, FeatureFieldAdapter)]
        if not found:
            raise ConfigError("a rendering term is about an adapter of kind feature_field, and the recipe has none.")
        batch, losses = step.batch, list[Tensor]()
        masks = torch.ones_like(batch.images[:, :1]) if batch.masks is None else batch.masks
        for rendering, rows, side in found[0].rendered.values():
            device = rendering.opacity.device
            shown, mask = (
                F.interpolate(values[rows], size=side, mode="area").flatten(2).transpose(1, 2).to(device)
                for values in (batch.images * 0.5 + 0.5, masks)
            )
            losses.append(self._of(rendering, shown, mask[..., 0]))
        return torch.stack(losses).mean() if losses else torch.zeros(())

    def _of(self, rendering: Rendering, shown: Tensor, mask: Tensor) -> Tensor:
        """Of colours `b r 3` in [0, 1] and a mask `b r`."""
        outside = 1 - mask
        error = (rendering.colors - shown).square().mean(-1)
        color = (mask * error).sum() / mask.sum().clamp_min(1)
        silhouette = (mask * (1 - rendering.opacity)).sum() / mask.sum().clamp_min(1)
        background = (outside * rendering.opacity).sum() / outside.sum().clamp_min(1)
        config = self.config
        return config.color * color + config.silhouette * silhouette + config.background * background
