"""What a 3D command writes, the files beside its output included, and whether what lies in their places may go.

Asked before any work is done: an hour later it would be late to learn that a picture is in the way.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcs_ext.config_io import check_place
from pcs_ext.errors import UsageError
from pcs_ext.threed.obj_reading import libraries


@dataclasses.dataclass(frozen=True)
class Outputs:
    """A mesh's file and those beside it."""

    mesh: Path
    page: Path | None
    """Of an HTML page, beside a GLB alone."""
    others: tuple[Path, ...]
    """An OBJ's material and pictures."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them, the mesh first."""
        return (self.mesh, *self.others, *([self.page] if self.page is not None else []))


def outputs_of(output: Path, *, viewer: bool, textured: bool, materials: bool = False) -> Outputs:
    """What writing a mesh brings.

    Args:
        output: where the mesh goes.
        viewer: a page was asked for.
        textured: its colours are in a picture.
        materials: it has pictures of roughness and metalness, too.
    """
    page = output.with_suffix(".html") if viewer and output.suffix.lower() == ".glb" else None
    names = [".mtl", ".png", *(["_roughness.png", "_metalness.png"] if materials else [])]
    beside = names if textured and output.suffix.lower() == ".obj" else []
    return Outputs(output, page, tuple(output.with_name(output.stem + name) for name in beside))


def free_outputs(
    output: Path,
    endings: Sequence[str],
    *,
    viewer: bool,
    textured: bool,
    overwrite: bool,
    materials: bool = False,
    source: Path | None = None,
) -> Outputs:
    """What writing a mesh brings, once nothing is in its way. Arguments as for `outputs_of` and `check_files`.

    Raises:
        UsageError: another ending, or a file that is there.
    """
    check_ending(output, endings)
    outputs = outputs_of(output, viewer=viewer, textured=textured, materials=materials)
    check_files(outputs.files, source, overwrite)
    return outputs


def outputs_for(mesh: Any, output: Path, *, viewer: bool) -> Outputs:
    """What writing this `trimesh.Trimesh` brings."""
    textured = mesh.visual.kind == "texture"
    materials = textured and getattr(mesh.visual.material, "metallicRoughnessTexture", None) is not None
    return outputs_of(output, viewer=viewer, textured=textured, materials=materials)


def check_ending(output: Path, endings: Sequence[str]) -> None:
    """Refuse outputs of another ending.

    Raises:
        UsageError: says which are expected.
    """
    if output.suffix.lower().lstrip(".") not in endings or output.is_dir():
        raise UsageError(f"the output is {output}; expected a file name that ends in {', '.join(endings)}.")


def check_free(output: Path, endings: Sequence[str], overwrite: bool) -> None:
    """Refuse outputs of another ending, and those that are there already.

    Raises:
        UsageError: says which.
    """
    check_ending(output, endings)
    check_files([output], None, overwrite)


def check_folder(output: Path, mark: str, overwrite: bool) -> None:
    """See, before long work, that a model's folder can be written, and that it replaces nothing but such a folder.

    Args:
        output: the folder.
        mark: a file by which such folders are known.
        overwrite: replace one that is there.

    Raises:
        UsageError: it is there already, or is something else.
        InputError: see `check_place`.
    """
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists already; choose another --output, or pass --overwrite to replace it.")
    own = output.is_dir() and ((output / mark).is_file() or not any(output.iterdir()))
    if output.exists() and not own:
        raise UsageError(
            f"{output} is no folder with {mark} in it, and nothing else is ever replaced; choose another --output."
        )
    check_place(output)


def check_files(files: Sequence[Path], source: Path | None, overwrite: bool) -> None:
    """Refuse to write over files that are there already, and always over those that the source needs.

    Args:
        files: what will be written.
        source: a mesh file or a job's folder; None: there is none.
        overwrite: replace what is there.

    Raises:
        UsageError: says which file.
    """
    for path in files:
        if not path.exists():
            continue
        if source is not None and source.is_file() and _belongs(path, source):
            raise UsageError(f"{path} belongs to {source}, which is never written to; choose another --output.")
        if not overwrite:
            raise UsageError(f"{path} exists already; choose another --output, or pass --overwrite to replace it.")


def _belongs(path: Path, source: Path) -> bool:
    """Whether a file is the source, or lies in its folder and is named by it or by an MTL that it names."""
    if path.samefile(source):
        return True
    folder = source.resolve().parent
    if not path.resolve().is_relative_to(folder):
        return False
    text = source.read_bytes()
    if source.suffix.lower() == ".obj":
        text = b"\n".join([text, *(library.read_bytes() for library in libraries(folder, text))])
    return _names(text, path.name)


def _names(text: bytes, name: str) -> bool:
    """Whether a text holds a file's name, as a whole: `a.png` is not in `ba.png`."""
    return re.search(rb"(?<![\w.-])" + re.escape(name.encode()) + rb"(?![\w-])", text) is not None
