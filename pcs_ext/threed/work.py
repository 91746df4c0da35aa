"""The folder a 3D job lives in: what was asked, which stages are done, what came out."""

from pathlib import Path
from typing import Any

from pcs_ext.config_io import config, config_hash, from_jsonable, read_json, to_jsonable, write_json
from pcs_ext.errors import CheckpointError, ConfigError, InputError
from pcs_ext.threed.mesh import MeshConfig
from pcs_ext.threed.shapes import Shape, load_shape

REQUEST, _RESULT = "request.json", "result.json"
STILL = "still.glb.work"
"""The still scene's job in the folder of a photo's."""


@config
class Result:
    """What a finished job says of itself."""

    field: str
    """Folder of the last field or surface, inside the work folder."""
    mesh: MeshConfig
    """How the surface was cut out."""
    prompt: str
    """With the subject's words in place."""


class WorkFolder:
    """A job's folder, claimed for one request: another request in it is refused.

    Args:
        path: made when it is missing.
        request: everything that decides what comes out, as JSON data.

    Raises:
        CheckpointError: the folder belongs to another request.
    """

    def __init__(self, path: Path, request: dict[str, Any]) -> None:
        self.path, self.hash = path, config_hash(request)
        wanted = to_jsonable(request)
        if not (path / REQUEST).is_file():
            if path.exists() and any(path.iterdir()):
                raise CheckpointError(f"{path} exists and is not a 3D job's folder; choose another output.")
            write_json(path / REQUEST, wanted)
            return
        found = read_json(path / REQUEST)
        if not isinstance(found, dict):
            raise CheckpointError(f"{path / REQUEST} is damaged; move the folder away to start over.")
        differing = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        if differing:
            raise CheckpointError(
                f"{path} holds a job with another {', '.join(differing)}. Give the settings it was begun with to go "
                "on, choose another output, or move the folder away to start over."
            )

    def finish(self, result: Result) -> None:
        """Note what came out."""
        write_json(self.path / _RESULT, result)


def finished_shape(path: Path) -> tuple[Shape, Result]:
    """The field or surface of a finished job.

    Raises:
        InputError: the folder is none, or its job has not finished.
    """
    if (path / "materials").is_dir():
        raise InputError(f"{path} holds a texture, which is baked already; give the painted mesh instead.")
    if (path / "motion").is_dir():
        raise InputError(f"{path} holds a scene in motion, of which `3d animate` makes films; give the still scene's.")
    if (path / STILL).is_dir():
        raise InputError(f"{path} holds all that was made of a photo; give its still scene: {path / STILL}.")
    if not (path / _RESULT).is_file():
        state = "has not finished: run `3d make` again" if (path / REQUEST).is_file() else "is no 3D job's folder"
        raise InputError(f"{path} {state}; expected what `3d make` left, OUTPUT.work.")
    try:
        result: Result = from_jsonable(Result, read_json(path / _RESULT), where=str(path / _RESULT))
    except ConfigError as error:
        raise InputError(str(error)) from None
    return load_shape(path / result.field), result
