"""Splats of a scene, frozen, and new ones inside a box."""

import math
from pathlib import Path
from typing import Literal

import torch

from pcs_ext.config_io import config
from pcs_ext.image.types import ParameterGroup
from pcs_ext.threed.box import Box
from pcs_ext.threed.splats import AbstractSplats, Cloud, SplatRates, Splats, SplatsConfig
from pcs_ext.threed.stored import restored, store


@config
class EditedConfig:
    """An edited scene before training."""

    scene: SplatsConfig
    """What is there already."""
    content: SplatsConfig
    """What is put into the box; its cube is the scene's."""
    box: Box
    """Where anything may change."""
    mode: Literal["add", "replace"] = "add"
    """add: beside what is in the box; replace: instead of it."""


@config
class Pruning:
    """Which new splats are given up while they learn (TIP-Editor)."""

    every: int = 50
    """Steps between looks; chosen (the paper: once per pass through its views)."""
    largest: float = 0.15
    """Standard deviation along the longest axis, world units (TIP-Editor: 0.05, its scenes' own units)."""
    faintest: float = 0.001
    """Opacity (TIP-Editor: 0.001)."""


class EditedSplats(AbstractSplats):
    """A scene that stays as it is, to the bit, and content that learns."""

    def __init__(self, settings: EditedConfig) -> None:
        super().__init__()
        self.settings, self.box, self.bounds = settings, settings.box, settings.scene.bounds
        self.scene, self.content = Splats(settings.scene), Splats(settings.content)
        self.scene.requires_grad_(False)

    def parts(self) -> tuple[Splats, ...]:
        """Scene and content."""
        return self.scene, self.content

    def groups(self, rates: SplatRates | None = None) -> list[ParameterGroup]:
        """The content's. See `AbstractSplats.groups`."""
        return self.content.groups(rates)

    def marked(self) -> Cloud:
        """All of it, the content white and the scene black: a picture of it shows where the content is seen."""
        cloud, kept = self.cloud(), int(self.scene.alive.sum())
        colors = torch.zeros_like(cloud.colors)
        colors[kept:] = 1.0
        return Cloud(places=cloud.places, covariances=cloud.covariances, opacities=cloud.opacities, colors=colors)

    @torch.no_grad()
    def begin(self, scene: Splats, raw_opacity: float, seed: int) -> None:
        """Take a scene over, and let the content begin, nearly transparent.

        The content is a copy of what the scene has in the box (add), or that itself (replace), a random choice where it
        is more than the content holds; where it is less, gray splats at random places of the box fill it up. Differs
        from TIP-Editor: the released code was only read of for boxes that hold something.

        Args:
            scene: of the settings' count.
            raw_opacity: before the sigmoid (TIP-Editor: -4.5).
            seed: of the choice and the places.
        """
        self.scene.load_state_dict(scene.state_dict())
        count, generator = self.settings.content.count, torch.Generator().manual_seed(seed)
        inside = (self.box.contains(scene.places) & scene.alive).nonzero()[:, 0]
        chosen = inside[torch.randperm(len(inside), generator=generator)[:count]]
        low, high = scene.places.new_tensor(self.box.low), scene.places.new_tensor(self.box.high)
        self.content.places.copy_(low + (high - low) * torch.rand(count, 3, generator=generator))
        spacing = float((high - low).prod()) / count
        self.content.log_scales.fill_(math.log(0.7) + math.log(spacing) / 3)
        self.content.put(scene, chosen)
        self.content.raw_opacities.fill_(raw_opacity)
        if self.settings.mode == "replace":
            self.scene.alive[inside] = False

    @torch.no_grad()
    def prune(self, settings: Pruning) -> None:
        """Give up what left the box, grew too large or fades; where all fade none does, or nothing would learn."""
        content = self.content
        whole = content.alive & self.box.contains(content.places)
        whole &= content.log_scales.amax(1) <= math.log(settings.largest)
        bright = whole & (torch.sigmoid(content.raw_opacities) >= settings.faintest)
        kept = bright if bright.any() else whole
        if kept.any():
            content.alive.copy_(kept)


def save_edited(splats: EditedSplats, folder: Path) -> None:
    """Write `edited.json` and `edited.safetensors`; the folder appears whole or not at all."""
    store(folder, "edited", splats, splats.settings)


def load_edited(folder: Path) -> EditedSplats:
    """What `save_edited` wrote.

    Raises:
        InputError: a file is missing or damaged.
    """
    return restored(folder, "edited", EditedConfig, EditedSplats)
