"""PLY files with larger faces as PLY files of triangles: trimesh makes fans of them and misreads mixed binary ones."""

import dataclasses
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pcs_ext.threed.polygons import ears, turns_inward

_TYPES = {
    **dict.fromkeys(("char", "int8"), "b"),
    **dict.fromkeys(("uchar", "uint8"), "B"),
    **dict.fromkeys(("short", "int16"), "h"),
    **dict.fromkeys(("ushort", "uint16"), "H"),
    **dict.fromkeys(("int", "int32"), "i"),
    **dict.fromkeys(("uint", "uint32"), "I"),
    **dict.fromkeys(("float", "float32"), "f"),
    **dict.fromkeys(("double", "float64"), "d"),
}
_CORNERS = (b"vertex_index", b"vertex_indices")


@dataclasses.dataclass
class _Element:
    """A kind of rows, as the header declares it."""

    name: bytes
    count: int
    line: int
    """Of the declaration in the header."""
    scalars: list[tuple[bytes, str]] = dataclasses.field(default_factory=list)
    """Name and letter of `struct`; those after a list follow it."""
    lists: list[tuple[bytes, str, str, int]] = dataclasses.field(default_factory=list)
    """Name, letters of the number and of the values, and how many scalars stand before it."""


@dataclasses.dataclass
class _Face:
    """A row of faces: its corners, and the bytes (or words) before and after their list."""

    before: bytes
    corners: list[int]
    after: bytes


def ply_for_trimesh(path: Path) -> bytes:
    """A PLY's bytes in which every face has three corners.

    Unchanged where that is so, or the file is of a kind or state that is for trimesh to judge: faces with several
    lists, lists before the faces, damage.
    """
    data = path.read_bytes()
    try:
        parsed = _parsed(data)
    except (ValueError, KeyError, IndexError, OverflowError, StopIteration, struct.error):
        return data
    if parsed is None:
        return data
    made = [parsed.body.written(row, parsed.faces) for row in _triangles(parsed.rows, parsed.places)]
    parsed.header[parsed.faces.line] = b"element face %d" % len(made)
    return b"\n".join(parsed.header) + b"\n" + parsed.body.joined(made) + parsed.body.rest()


@dataclasses.dataclass
class _Parsed:
    """A file some of whose faces have more than three corners."""

    header: list[bytes]
    faces: _Element
    body: "_Ascii | _Binary"
    places: np.ndarray
    """Of its corners, `n 3`."""
    rows: list[_Face]


def _parsed(data: bytes) -> _Parsed | None:
    """What is told of faces; None if all are triangles, or others must judge."""
    end = data.index(b"\n", data.index(b"end_header")) + 1
    header = data[:end].splitlines()
    form = next(line.split()[1] for line in header if line.split()[:1] == [b"format"])
    elements = _elements(header)
    at = next(i for i, element in enumerate(elements) if element.name == b"face")
    faces, earlier = elements[at], elements[:at]
    plain = len(faces.lists) == 1 and faces.lists[0][0] in _CORNERS and not any(one.lists for one in earlier)
    if not plain:
        return None
    body = _Ascii(data[end:]) if form == b"ascii" else _Binary(data[end:], "<" if b"little" in form else ">")
    places = next(found for found in [body.skip(one) for one in earlier] if found is not None)
    if body.triangles_alone(faces):
        return None
    return _Parsed(header, faces, body, places, list(body.faces(faces)))


def _elements(header: list[bytes]) -> list[_Element]:
    found: list[_Element] = []
    for number, line in enumerate(header):
        words = line.split()
        if words[:1] == [b"element"]:
            found.append(_Element(words[1], int(words[2]), number))
        elif words[:2] == [b"property", b"list"]:
            kinds = (_TYPES[words[2].decode()], _TYPES[words[3].decode()])
            found[-1].lists.append((words[4], *kinds, len(found[-1].scalars)))
        elif words[:1] == [b"property"]:
            found[-1].scalars.append((words[2], _TYPES[words[1].decode()]))
    return found


def _triangles(rows: list[_Face], places: np.ndarray) -> Iterator[_Face]:
    """Every face as triangles with its own other values; corners that do not exist are for others to refuse."""
    by_count: dict[int, list[_Face]] = {}
    for row in rows:
        by_count.setdefault(len(row.corners), []).append(row)
    inward: set[int] = set()
    for count, found in by_count.items():
        if count > 3:
            turned = turns_inward(places, np.array([row.corners for row in found]))
            inward |= {id(found[i]) for i in np.nonzero(turned)[0]}
    for row in rows:
        fan = [(0, i, i + 1) for i in range(1, len(row.corners) - 1)]
        for parts in ears(places[row.corners]) if id(row) in inward else fan:
            yield dataclasses.replace(row, corners=[row.corners[i] for i in parts])


class _Binary:
    """The rows of a binary file, read one element after another."""

    def __init__(self, data: bytes, order: str) -> None:
        self.data, self.order, self.at = data, order, 0
        self.begin = b""

    def skip(self, element: _Element) -> np.ndarray | None:
        """Go past an element without lists; the places `n 3` if it is the vertices."""
        kind = np.dtype([(name.decode(), self.order + letter) for name, letter in element.scalars])
        values = np.frombuffer(self.data, kind, element.count, self.at)
        self.at += element.count * kind.itemsize
        self.begin = self.data[: self.at]
        if element.name != b"vertex":
            return None
        return np.stack([values[axis] for axis in "xyz"], 1).astype(np.float64)

    def triangles_alone(self, element: _Element) -> bool:
        """Whether all faces are triangles, found without a look at each."""
        _, number, value, before = element.lists[0]
        scalars = [("", self.order + letter) for _, letter in element.scalars]
        fields = [*scalars[:before], ("count", self.order + number), ("", self.order + value, 3), *scalars[before:]]
        kind = np.dtype(fields)
        enough = len(self.data) - self.at >= element.count * kind.itemsize
        return enough and bool((np.frombuffer(self.data, kind, element.count, self.at)["count"] == 3).all())

    def faces(self, element: _Element) -> Iterator[_Face]:
        """The rows of the faces."""
        _, number, value, before = element.lists[0]
        head = struct.calcsize("=" + "".join(letter for _, letter in element.scalars[:before]))
        tail = struct.calcsize("=" + "".join(letter for _, letter in element.scalars[before:]))
        counted, size = struct.Struct(self.order + number), struct.calcsize("=" + value)
        for _ in range(element.count):
            (count,) = counted.unpack_from(self.data, self.at + head)
            start = self.at + head + counted.size
            corners = struct.unpack_from(f"{self.order}{count}{value}", self.data, start)
            stop = start + count * size
            yield _Face(self.data[self.at : self.at + head], [*corners], self.data[stop : stop + tail])
            self.at = stop + tail

    def written(self, row: _Face, element: _Element) -> bytes:
        """A row as bytes."""
        _, number, value, _ = element.lists[0]
        return row.before + struct.pack(f"{self.order}{number}3{value}", 3, *row.corners) + row.after

    def joined(self, rows: list[bytes]) -> bytes:
        """All that was read, with these rows as its faces."""
        return self.begin + b"".join(rows)

    def rest(self) -> bytes:
        """What follows."""
        return self.data[self.at :]


class _Ascii:
    """The same of a file of words."""

    def __init__(self, data: bytes) -> None:
        self.lines, self.at = [line for line in data.splitlines() if line.strip()], 0
        self.begin = 0

    def skip(self, element: _Element) -> np.ndarray | None:
        """See `_Binary`."""
        rows = self.lines[self.at : self.at + element.count]
        self.at += element.count
        self.begin = self.at
        if element.name != b"vertex":
            return None
        names = [name for name, _ in element.scalars]
        columns = [names.index(axis) for axis in (b"x", b"y", b"z")]
        return np.array([[float(row.split()[column]) for column in columns] for row in rows]).reshape(-1, 3)

    def triangles_alone(self, element: _Element) -> bool:
        """See `_Binary`."""
        before = element.lists[0][3]
        return all(line.split()[before] == b"3" for line in self.lines[self.at : self.at + element.count])

    def faces(self, element: _Element) -> Iterator[_Face]:
        """See `_Binary`."""
        before = element.lists[0][3]
        for line in self.lines[self.at : self.at + element.count]:
            words = line.split()
            count = int(words[before])
            corners = [int(word) for word in words[before + 1 : before + 1 + count]]
            if len(corners) != count:
                raise ValueError("a face with too few corners")
            yield _Face(b" ".join(words[:before]), corners, b" ".join(words[before + 1 + count :]))
        self.at += element.count

    def written(self, row: _Face, element: _Element) -> bytes:
        """See `_Binary`."""
        return b" ".join([row.before, b"3", *(b"%d" % corner for corner in row.corners), row.after]).strip()

    def joined(self, rows: list[bytes]) -> bytes:
        """See `_Binary`."""
        return b"\n".join([*self.lines[: self.begin], *rows]) + b"\n"

    def rest(self) -> bytes:
        """See `_Binary`."""
        return b"\n".join([*self.lines[self.at :], b""])
