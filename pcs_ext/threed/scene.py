"""A finished scene that something is to be done with: a job's field."""

import dataclasses
from pathlib import Path
from typing import Any

from pcs_ext.config_io import file_sha256, from_jsonable, read_json
from pcs_ext.errors import UsageError
from pcs_ext.threed.field_config import FieldConfig
from pcs_ext.threed.fields import AbstractField
from pcs_ext.threed.stored import fill
from pcs_ext.threed.work import Result, finished_shape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """The field of a finished job; never written to."""

    folder: Path
    """Of the field."""
    settings: FieldConfig
    """What that field is."""
    made: Result
    """What its job said of itself."""

    @property
    def digest(self) -> str:
        """Hash of its tensors."""
        return file_sha256(self.folder / "field.safetensors")

    def fill(self, field: AbstractField) -> None:
        """Put its tensors into a field of the same settings.

        Raises:
            InputError: the file is damaged.
        """
        fill(field, self.folder / "field.safetensors")
        field.advance(1.0)


def read_scene(path: Path) -> Scene:
    """The scene in OUTPUT.work of `3d make`.

    Raises:
        InputError: it is none, or its job has not finished.
        UsageError: it holds a surface or an edited scene.
    """
    _, made = finished_shape(path)
    folder = path / made.field
    if not (folder / "field.json").is_file():
        raise UsageError(
            f"{path} holds a surface or an edited scene; expected a field: a job of dreambooth3d, dreamfusion, "
            "prolificdreamer or mvdream."
        )
    settings: Any = from_jsonable(FieldConfig, read_json(folder / "field.json"), where=str(folder / "field.json"))
    return Scene(folder=folder, settings=settings, made=made)
