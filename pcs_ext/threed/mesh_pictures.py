"""Whether the pictures of a mesh file can be decoded: trimesh drops those that cannot, and the mesh turns grey."""

import base64
import io
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from PIL import Image, UnidentifiedImageError

from pcs_ext.errors import InputError


def check_picture(data: bytes, name: str, path: Path) -> None:
    """See that a picture is whole.

    Args:
        data: bytes of its file.
        name: of the picture, for the message.
        path: of the mesh file that names it.

    Raises:
        InputError: it is damaged, too large, or of a kind that is not read.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "it is of no kind that is known" if isinstance(error, UnidentifiedImageError) else error
        raise InputError(
            f"{path}: the picture {name} of one of its materials cannot be read ({reason}); expected a whole PNG, JPEG "
            "or WebP. Export the mesh again, or give it another picture."
        ) from None


def check_glb_pictures(document: dict[str, Any], binary: bytes, path: Path) -> None:
    """See that the pictures are whole that a GLB's materials take their colours from.

    Args:
        document: its JSON; names of files in it become those that they have on disk.
        binary: its binary chunk.
        path: of the GLB.

    Raises:
        InputError: one of them is missing or cannot be read.
    """
    used = {p["material"] for mesh in document.get("meshes", []) for p in mesh["primitives"] if "material" in p}
    for index in sorted(used):
        surface = document["materials"][index].get("pbrMetallicRoughness", {})
        for key in ("baseColorTexture", "metallicRoughnessTexture"):
            if key in surface:
                number = _source(document["textures"][surface[key]["index"]])
                picture = document["images"][number]
                check_picture(_bytes(picture, document, binary, path), picture.get("name") or f"{number}", path)


def _source(texture: dict[str, Any]) -> int:
    """The number of a texture's picture."""
    if "source" in texture:
        return texture["source"]
    return texture["extensions"]["EXT_texture_webp"]["source"]


def _bytes(picture: dict[str, Any], document: dict[str, Any], binary: bytes, path: Path) -> bytes:
    if "bufferView" in picture:
        view = document["bufferViews"][picture["bufferView"]]
        begin = view.get("byteOffset", 0)
        return binary[begin : begin + view["byteLength"]]
    uri = picture["uri"]
    if uri.startswith("data:"):
        return base64.b64decode(uri.partition(",")[2])
    picture["uri"] = unquote(uri)  # trimesh looks for the name as it is encoded
    file = path.parent / picture["uri"]
    if not file.is_file():
        raise InputError(
            f"{path}: its picture {uri!r} does not lie beside it. Put it there, or export with pictures in."
        )
    return file.read_bytes()
