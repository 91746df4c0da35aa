"""Material files and pictures of an OBJ, as programs write their names: with options, backslashes, or other folders.

Format: Alias|Wavefront's OBJ and MTL. `map_Kd` may have options before the file's name; Windows programs write
backslashes, and often the whole path on the machine the file comes from, of which the last part is what lies beside the
OBJ. Faces that turn inward become triangles here, because trimesh makes a fan of every face.
"""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from pcs_ext.errors import InputError
from pcs_ext.threed.polygons import ears, turns_inward

_OPTIONS = {
    **dict.fromkeys(("-blendu", "-blendv", "-boost", "-bm", "-cc", "-clamp", "-imfchan", "-texres", "-type"), (1, 1)),
    "-mm": (2, 2),
    **dict.fromkeys(("-o", "-s", "-t"), (1, 3)),
}
"""How many values an option has, at least and at most."""
_MOST_LIBRARIES = 64
_RESTING = {"-o": 0.0, "-s": 1.0, "-t": 0.0}
"""Values with which a picture stays where its coordinates say."""


def open_obj(path: Path) -> Any:
    """What trimesh makes of an OBJ, a scene.

    Raises:
        InputError: a material moves or scales its picture.
    """
    import trimesh
    from trimesh.resolvers import FilePathResolver

    # All of them at once: trimesh asks for the first one alone.
    materials = b"\n".join(_plain_names(library.read_bytes(), path) for library in libraries(path))

    class Beside(FilePathResolver):
        asked = False

        def get(self, name: str) -> bytes:
            if not self.asked:
                self.asked = True
                return materials
            picture = _found(path.resolve().parent, name)
            return super().get(name) if picture is None else picture.read_bytes()

    data = io.BytesIO(_without_inward_faces(path.read_bytes()))
    return trimesh.load_scene(data, file_type="obj", resolver=Beside(str(path)), process=False)


def libraries(path: Path) -> list[Path]:
    """The material files of an OBJ that exist; those of the first 64 lines that name some."""
    names = re.findall(rb"^[ \t]*mtllib[ \t]+(.+?)[ \t]*\r?$", path.read_bytes(), re.MULTILINE)
    files: dict[Path, None] = {}
    for line in names[:_MOST_LIBRARIES]:
        name = line.decode("utf-8", "replace")
        whole = _found(path.resolve().parent, name)  # a name may have spaces, a line several names
        several = [whole] if whole else [_found(path.resolve().parent, word) for word in name.split()]
        files |= dict.fromkeys(file for file in several if file is not None)
    return [*files]


def _found(folder: Path, name: str) -> Path | None:
    """A file that is meant by a name: in the folder or below it, else one of that last part in the folder itself."""
    name = name.strip().strip('"')
    parts = [part for part in re.split(r"[\\/]+", name) if part not in ("", ".")]
    if not parts:
        return None
    for candidate in (folder / name, folder.joinpath(*parts), folder / parts[-1]):
        try:
            inside = candidate.resolve().is_relative_to(folder)
            if inside and candidate.is_file():
                return candidate
        except (OSError, ValueError):  # a name that no file system can have
            continue
    return None


def _plain_names(data: bytes, path: Path) -> bytes:
    """An MTL's bytes without options before the names of colours' pictures."""
    lines = data.split(b"\n")
    for number, line in enumerate(lines):
        match = re.match(rb"(\s*map_kd\s+)(-.*)$", line.rstrip(), re.IGNORECASE)
        if match is not None:
            lines[number] = match[1] + _without_options(match[2].decode("latin-1"), path).encode("latin-1")
    return b"\n".join(lines)


def _without_inward_faces(data: bytes) -> bytes:
    """An OBJ's bytes with triangles instead of faces that turn inward, of which trimesh would make fans."""
    lines = data.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ").split(b"\n")
    faces = [number for number, line in enumerate(lines) if line.startswith(b"f ") and len(line.split()) > 4]
    if not faces:
        return data
    by_count: dict[int, list[int]] = {}
    for number in faces:
        by_count.setdefault(len(lines[number].split()) - 1, []).append(number)
    named = [number for number, line in enumerate(lines) if line.startswith(b"v ")]
    corners = np.array([lines[number].split()[1:4] for number in named], dtype=np.float64).reshape(-1, 3)
    for count, found in by_count.items():
        rows = _rows(lines, found, count, np.array(named))
        exist = np.all((rows >= 0) & (rows < len(corners)), axis=1)  # others are for trimesh to refuse
        inward = turns_inward(corners[np.where(exist[:, np.newaxis], rows, 0)]) & exist
        for at in np.nonzero(inward)[0]:
            words = lines[found[at]].split()[1:]
            parts = ears(corners[rows[at]])
            lines[found[at]] = b"\n".join(b"f " + b" ".join(words[i] for i in part) for part in parts)
    return b"\n".join(lines)


def _rows(lines: list[bytes], found: list[int], count: int, named: np.ndarray) -> np.ndarray:
    """Numbers from 0 of the corners of the faces on some lines, `m count`; `named` are the lines of the corners."""
    text = re.sub(rb"/\S*", b"", b" ".join(lines[number].strip()[1:] for number in found))
    rows = np.array(text.split(), dtype=np.int64).reshape(-1, count)
    # Numbers below 0 count back from the corner last named.
    known = np.searchsorted(named, np.array(found))[:, None]
    return np.where(rows > 0, rows - 1, known + rows)


def _without_options(text: str, path: Path) -> str:
    """What is left of `-o 0 0 0 -s 1 1 1 wood.png`."""
    words = re.findall(r"\s*\S+", text)
    while words and (option := words[0].strip().lower()) in _OPTIONS:
        least, most = _OPTIONS[option]
        values = words[1 : 1 + least]
        for word in words[1 + least : 1 + most]:
            if not _is_number(word) or len(words) <= 2 + len(values):  # a file may be called 1
                break
            values.append(word)
        if option in _RESTING and any(_is_number(v) and float(v) != _RESTING[option] for v in values):
            raise InputError(
                f"{path}: a material moves or scales its picture ({option} {' '.join(v.strip() for v in values)}), "
                "which is not read. Apply it to the texture coordinates in a modelling program, and export again."
            )
        words = words[1 + len(values) :]
    return "".join(words).strip()


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
