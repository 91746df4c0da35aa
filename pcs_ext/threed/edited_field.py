"""A field that is another one outside a box, to the bit, and learns inside it."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.image.types import ParameterGroup
from pcs_ext.threed.box import Box
from pcs_ext.threed.field_config import FieldConfig
from pcs_ext.threed.fields import AbstractField, Bounds, Queried
from pcs_ext.threed.stored import restored, store


@config
class EditedConfig:
    """An edited field before training."""

    scene: FieldConfig
    """What is there already."""
    content: FieldConfig
    """What is put into the box, in a cube of its own about it."""
    box: Box
    """Where anything may change."""
    mode: Literal["add", "replace"] = "add"
    """add: beside what is in the box; replace: instead of it."""


class EditedField(AbstractField):
    """A frozen scene and new content inside a box.

    Differs from TIP-Editor, whose scenes are splats: it copies or takes the splats inside the box, makes them nearly
    transparent and prunes what leaves it. Here the content is a field of its own, which cannot leave the box.
    """

    def __init__(self, settings: EditedConfig, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.box = settings, settings.box
        self.scene, self.content = settings.scene.build(), settings.content.build(seed)
        self.scene.requires_grad_(False)
        self.bounds = self.scene.bounds

    def query(self, points: Tensor) -> Queried:
        """See `AbstractField.query`. Outside the box this is the scene's answer itself."""
        there = self.scene.query(points)
        index = torch.nonzero(self.box.contains(points))[:, 0]
        made = self.content.query(points[index])
        kept = there.density[index] if self.settings.mode == "add" else torch.zeros_like(made.density)
        density = kept + made.density
        share = (made.density / density.clamp_min(1e-8))[:, None]
        albedo = there.albedo[index] + share * (made.albedo - there.albedo[index])
        return Queried(there.density.index_copy(0, index, density), there.albedo.index_copy(0, index, albedo))

    def alone(self) -> "ContentField":
        """The new content without the scene; shares its parameters."""
        return ContentField(self.content, self.box)

    def advance(self, progress: float) -> None:
        """See `AbstractField.advance`."""
        self.content.advance(progress)

    def groups(self) -> list[ParameterGroup]:
        """The content's."""
        return self.content.groups()


class ContentField(AbstractField):
    """A field inside a box, nothing outside."""

    def __init__(self, content: AbstractField, box: Box) -> None:
        super().__init__()
        self.content, self.box, self.bounds = content, box, content.bounds

    def query(self, points: Tensor) -> Queried:
        """See `AbstractField.query`."""
        found = self.content.query(points)
        return Queried(found.density * self.box.contains(points), found.albedo)

    def groups(self) -> list[ParameterGroup]:
        """The content's."""
        return self.content.groups()


def content_bounds(box: Box) -> Bounds:
    """The cube about a box."""
    return Bounds(center=box.middle, half=box.half)


def save_edited(field: EditedField, folder: Path) -> None:
    """Write `edited.json` and `edited.safetensors`; the folder appears whole or not at all."""
    store(folder, "edited", field, field.settings)


def load_edited(folder: Path) -> EditedField:
    """What `save_edited` wrote.

    Raises:
        InputError: a file is missing or damaged.
    """
    field = restored(folder, "edited", EditedConfig, EditedField)
    field.scene.advance(1.0)
    field.content.advance(1.0)
    return field
