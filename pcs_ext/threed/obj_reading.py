"""Material files and pictures of an OBJ, as programs write their names: with options, backslashes, or other folders.

Format: Alias|Wavefront's OBJ and MTL. `map_Kd` may have options before the file's name; Windows programs write
backslashes, and often the whole path on the machine the file comes from, of which the last part is what lies beside the
OBJ. Faces that turn inward become triangles here, because trimesh makes a fan of every face.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from pcs_ext.errors import InputError
from pcs_ext.threed.mesh_pictures import check_picture
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


def obj_resolver(path: Path) -> Any:
    """What finds an OBJ's materials and pictures for trimesh: files in its folder or below.

    Raises:
        InputError: a material moves or scales its picture, or one that faces are made of names a picture that is not
            there or cannot be read.
    """
    from trimesh.resolvers import FilePathResolver

    folder = path.resolve().parent
    # All of them at once: trimesh asks for the first one alone.
    text = path.read_bytes()
    materials = b"\n".join(_plain_names(file.read_bytes(), path) for file in libraries(folder, text))
    _check_pictures(materials, text, path)

    class Beside(FilePathResolver):
        asked = False

        def get(self, name: str) -> bytes:
            if not self.asked:
                self.asked = True
                return materials
            picture = _found(folder, name)
            return super().get(name) if picture is None else picture.read_bytes()

    return Beside(str(path))


def libraries(folder: Path, text: bytes) -> list[Path]:
    """The material files that exist of an OBJ in a folder; those of the first 64 lines that name some."""
    names = re.findall(rb"^[ \t]*mtllib[ \t]+(.+?)[ \t]*\r?$", text, re.MULTILINE)
    files: dict[Path, None] = {}
    for line in names[:_MOST_LIBRARIES]:
        name = line.decode("utf-8", "replace")
        whole = _found(folder, name)  # a name may have spaces, a line several names
        several = [whole] if whole else [_found(folder, word) for word in name.split()]
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


def _check_pictures(materials: bytes, text: bytes, path: Path) -> None:
    """Raises InputError where a used material's picture is missing or damaged: the mesh would come out grey without a
    word."""
    used = {name.strip() for name in re.findall(rb"^[ \t]*usemtl[ \t]+(.+?)[ \t]*\r?$", text, re.MULTILINE)}
    current, pictured = b"", set()
    for line in materials.split(b"\n"):
        key, _, value = line.strip().partition(b" ")
        if key.lower() == b"newmtl":
            current = value.strip()
        elif key.lower() == b"map_kd" and current in used and value.strip():
            name = value.decode("utf-8", "replace").strip()
            picture = _found(path.resolve().parent, name)
            if picture is None:
                raise InputError(
                    f"{path}: its material {current.decode('utf-8', 'replace')!r} has the picture {name!r}, which lies "
                    "neither beside the OBJ nor below it. Put it there, or delete the line map_Kd from the material."
                )
            check_picture(picture.read_bytes(), name, path)
            pictured.add(current)
    if pictured:
        _check_places(text, pictured, path)


def _check_places(text: bytes, pictured: set[bytes], path: Path) -> None:
    """Raises InputError where a part of a material's faces has no places in its picture: trimesh then drops it all."""
    current, found = b"", {name: set[bool]() for name in pictured}
    for line in _whole_lines(text):
        words = line.split()
        if words[:1] == [b"usemtl"]:
            current = line.strip()[len(b"usemtl") :].strip()
        elif words[:1] == [b"f"] and current in found:
            found[current].add(all(len(parts := word.split(b"/")) > 1 and parts[1] for word in words[1:]))
    for name, kinds in found.items():
        if len(kinds) > 1:
            raise InputError(
                f"{path}: some faces of the material {name.decode('utf-8', 'replace')!r} have no place in its picture. "
                "Lay them out in a modelling program, or give them a material of their own."
            )


def _whole_lines(text: bytes) -> list[bytes]:
    """Lines, those that go on after a backslash joined."""
    return text.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ").split(b"\n")


def obj_for_trimesh(path: Path) -> bytes:
    """An OBJ's bytes with triangles instead of faces that turn inward. What is damaged stays as it is."""
    data = path.read_bytes()
    lines = _whole_lines(data)
    by_count: dict[int, list[int]] = {}
    for number, line in enumerate(lines):
        if line.startswith(b"f ") and (count := len(line.split()) - 1) > 3:
            by_count.setdefault(count, []).append(number)
    if not by_count:
        return data
    try:
        places, faces = _numbers(lines, by_count)
    except (ValueError, OverflowError):  # words that are no numbers
        return data
    for count, found in by_count.items():
        for at in np.nonzero(turns_inward(places, faces[count]))[0]:
            words = lines[found[at]].split()[1:]
            parts = ears(places[faces[count][at]])
            lines[found[at]] = b"\n".join(b"f " + b" ".join(words[i] for i in part) for part in parts)
    return b"\n".join(lines)


def _numbers(lines: list[bytes], by_count: dict[int, list[int]]) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Corners `n 3`, and by their count the faces `m count` on some lines, as numbers of corners from 0."""
    named = [number for number, line in enumerate(lines) if line.startswith(b"v ")]
    places = np.array([lines[number].split()[1:4] for number in named], dtype=np.float64).reshape(-1, 3)
    faces = {}
    for count, found in by_count.items():
        text = re.sub(rb"/\S*", b"", b" ".join(lines[number].strip()[1:] for number in found))
        rows = np.array(text.split(), dtype=np.int64).reshape(-1, count)
        # Numbers below 0 count back from the corner last named.
        known = np.searchsorted(np.array(named), np.array(found))[:, None]
        faces[count] = np.where(rows > 0, rows - 1, known + rows)
    return places, faces


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
