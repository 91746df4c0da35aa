"""Files that come into being beside an exported mesh, and whether what lies in their places may go."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcs_ext.errors import UsageError


def files_beside(mesh: Any, output: Path, page: Path | None) -> list[Path]:
    """Every file that writing a mesh brings, the mesh's own first.

    Args:
        mesh: `trimesh.Trimesh`.
        output: where it goes.
        page: of the page beside it, if one is wanted.
    """
    files = [output, *([page] if page is not None else [])]
    if output.suffix.lower() != ".obj" or mesh.visual.kind != "texture":
        return files
    names = [f"{output.stem}.mtl", f"{output.stem}.png"]
    if getattr(mesh.visual.material, "metallicRoughnessTexture", None) is not None:
        names += [f"{output.stem}_roughness.png", f"{output.stem}_metalness.png"]
    return [*files, *(output.with_name(name) for name in names)]


def check_files(files: Sequence[Path], source: Path, overwrite: bool) -> None:
    """Refuse to write over files that are there already, and always over those that the source needs.

    Args:
        files: what will be written.
        source: a mesh file or a job's folder.
        overwrite: replace what is there.

    Raises:
        UsageError: says which file.
    """
    for path in files:
        if not path.exists():
            continue
        if source.is_file() and _belongs(path, source):
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
        named = re.findall(rb"^mtllib[ \t]+(.+?)[ \t]*\r?$", text, re.MULTILINE)
        libraries = [folder / name.decode(errors="replace").replace("\\", "/") for name in named[:64]]
        text = b"\n".join([text, *(library.read_bytes() for library in libraries if library.is_file())])
    return _names(text, path.name)


def _names(text: bytes, name: str) -> bool:
    """Whether a text holds a file's name, as a whole: `a.png` is not in `ba.png`."""
    return re.search(rb"(?<![\w.-])" + re.escape(name.encode()) + rb"(?![\w-])", text) is not None
