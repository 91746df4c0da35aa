"""Masks that are estimated while words are learned, from where these look (Rahman et al. 2024, arXiv 2402.11487)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import SUBJECT
from pcs_ext.image.data import SubjectDataset
from pcs_ext.image.locate import LocateConfig, word_maps
from pcs_ext.image.masks import on_range, otsu
from pcs_ext.image.phrases import phrase_positions


@config
class EstimateConfig:
    """When masks are estimated, and how maps are read."""

    rounds: int = 10
    """So often in the phase, the first time before its first step, the others evenly spread."""
    locate: LocateConfig = dataclasses.field(default_factory=LocateConfig)
    """How words are looked for; each in its own share of the range, cut by Otsu's threshold."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"masks are estimated in 1 or more rounds, got {self.rounds}.")

    def is_due(self, done: int, steps: int) -> bool:
        """Whether masks are estimated after `done` of `steps` steps."""
        return done < steps and done in {round(k * steps / self.rounds) for k in range(self.rounds)}


class EstimatedMasks:
    """The E step: a hook of `fit`, and a part of its state. Every photo's masks become what its words look at now.

    Differs from the paper: maps are spread by the denoiser's self-attention instead of refined by a dense conditional
    random field.

    Args:
        config: when and how.
        backbone: with the words in it.
        data: the photos, whose masks are replaced.
        steps: of the phase.
    """

    def __init__(self, config: EstimateConfig, backbone: AbstractBackbone, data: SubjectDataset, steps: int) -> None:
        self.config, self.backbone, self.data, self.steps = config, backbone, data, steps
        self.masks: list[Tensor] = []
        self._estimate()

    @torch.no_grad()
    def __call__(self, done: int) -> None:
        """After step `done`."""
        if self.config.is_due(done, self.steps):
            self._estimate()

    @torch.no_grad()
    def _estimate(self) -> None:
        concept = self.data.concept
        words = concept.parts or (concept.name,)
        template = concept.templates[0] if SUBJECT in concept.templates[0] else SUBJECT
        prompt = concept.caption(template, concept.parts) if concept.parts else concept.prompt(template)
        positions = [phrase_positions(self.backbone, prompt, word) for word in words]
        self.masks = []
        for image in self.data.squares():
            latents = self.backbone.encode_images(image[None].to(self.backbone.device, self.backbone.dtype)).float()
            maps = word_maps(self.backbone, latents, prompt, self.config.locate)[0]
            looks = torch.stack([maps[list(at)].mean(0) for at in positions])
            found = F.interpolate(parted(looks)[None], size=image.shape[-2:], mode="nearest")[0]
            self.masks.append(found.cpu())
        self.data.put_masks(self.masks)

    def state_dict(self) -> dict[str, Any]:
        """The masks of all photos."""
        return {f"photo_{index}": masks for index, masks in enumerate(self.masks)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.masks = [state[f"photo_{index}"].cpu() for index in range(len(self.masks))]
        self.data.put_masks(self.masks)


def parted(looks: Tensor) -> Tensor:
    """Masks `k h w` of zeros and ones, no cell in two, from where k words look, `k h w`.

    A cell belongs to the word whose map, brought to [0, 1], is the largest there, if it is above that map's threshold.
    Where nothing at all stands out every word has the whole picture: nothing is known.
    """
    scaled = torch.stack([on_range(one) for one in looks])
    above = torch.stack([(one > otsu(one)).float() for one in scaled])
    largest = F.one_hot(scaled.argmax(0), len(scaled)).permute(2, 0, 1)
    masks = above * largest
    return masks if masks.any() else torch.ones_like(masks)
