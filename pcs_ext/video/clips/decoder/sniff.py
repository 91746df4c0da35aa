"""What a file is by its first bytes, never by its name, and whether it is all there.

Only containers whose demuxers open nothing but their own file are let through. Playlists and session descriptions
(HLS, DASH, ffconcat, SDP), and AVI, whose subtitles may hold a playlist, make FFmpeg open other files and addresses.
"""

import os
import stat
from typing import BinaryIO

from .request import UnusableError

_QUICKTIME_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_KNOWN = {
    b"#EXTM3U": "a playlist (HLS)",
    b"ffconcat": "a playlist (ffconcat)",
    b"v=0": "a session description (SDP)",
    b"<?xml": "XML or a playlist (DASH)",
    b"<MPD": "a playlist (DASH)",
    b"[playlist": "a playlist (PLS)",
    b"<": "HTML or XML",
    b"PK\x03\x04": "a zip archive",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"%PDF": "a PDF document",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"#!": "a script",
    b"\xff\xd8\xff": "a JPEG picture",
    b"BM": "a BMP picture",
    b"\x1f\x8b": "a gzip archive",
    b"OggS": "an Ogg file",
    b"ID3": "an MP3 file",
    b"FLV": "a Flash video",
    b"\x00\x00\x01\xba": "an MPEG program stream",
    b"\x47\x40": "an MPEG transport stream",
    b"\x30\x26\xb2\x75": "a Windows Media file",
}


def sniff(path: str) -> str:
    """`mp4`, `matroska`, `gif`, `webp`, `png` or `folder`.

    Raises:
        UnusableError: missing, not a regular file, empty, cut off, or of another kind.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return "folder"
        if not stat.S_ISREG(status.st_mode):
            raise UnusableError("is not a regular file; expected a video file or a folder of pictures.")
        with open(path, "rb") as handle:
            return _kind(handle, status.st_size)
    except OSError as error:
        raise UnusableError(f"cannot be opened ({error.strerror}).") from None


def _kind(handle: BinaryIO, size: int) -> str:
    head = handle.read(64)
    if not head:
        raise UnusableError("is empty (0 bytes).")
    if head[4:8] in _QUICKTIME_BOXES and (head[4:8] != b"ftyp" or head[:2] == b"\0\0"):
        _check_boxes(handle, size)
        return "mp4"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        _check_segment(handle, size)
        return "matroska"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        _check_size(int.from_bytes(head[4:8], "little") + 8, size)
        return "webp"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    raise UnusableError(
        f"is {_describe(head)}, whatever its name says; expected MP4, MOV, WebM, MKV, GIF, WebP, APNG or a folder of "
        "pictures. Convert other videos first: ffmpeg -i INPUT -c:v libx264 -pix_fmt yuv420p OUTPUT.mp4"
    )


def _describe(head: bytes) -> str:
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "an AVI file"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, name in _KNOWN.items():
        if text.startswith(magic) or head.startswith(magic):
            return name
    return "a text file" if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head) else "no video that is known"


def _check_size(declared: int, size: int) -> None:
    if declared > size:
        raise UnusableError(
            f"is cut off: it holds {size} bytes of the {declared} it declares. Copy or export it again."
        )


def _check_boxes(handle: BinaryIO, size: int) -> None:
    """Walk the top-level boxes: each must fit, and an index (moov or moof) must be among them."""
    offset, seen = 0, set()
    for _ in range(100_000):
        handle.seek(offset)
        head = handle.read(16)
        if len(head) < 8:
            break
        length = int.from_bytes(head[:4], "big")
        length = int.from_bytes(head[8:16], "big") if length == 1 else length
        seen.add(head[4:8])
        if length == 0:  # the last box reaches to the end of the file
            break
        if length < 8:
            raise UnusableError(f"is damaged: a box of {length} bytes at byte {offset}. Export it again.")
        _check_size(offset + length, size)
        offset += length
    if b"moov" not in seen:
        raise UnusableError("holds no index (moov box); the recording was cut off before its end. Export it again.")


def _check_segment(handle: BinaryIO, size: int) -> None:
    """The EBML header must name Matroska or WebM, and a segment of known size must be all there."""
    handle.seek(4)
    header = _vint(handle)
    if header is None or header > 4096:
        raise UnusableError("is damaged: its EBML header has no sensible size. Export it again.")
    body = handle.read(header)
    if b"webm" not in body and b"matroska" not in body:
        raise UnusableError("is an EBML file but neither Matroska nor WebM.")
    if handle.read(4) != b"\x18\x53\x80\x67":
        return  # padding may come first; the demuxer knows
    segment = _vint(handle)
    if segment is not None:
        _check_size(handle.tell() + segment, size)


def _vint(handle: BinaryIO) -> int | None:
    """A variable-length integer of EBML; None where all its bits are one (unknown size) or it is no number."""
    first = handle.read(1)
    if not first or first[0] == 0:
        return None
    length = 9 - first[0].bit_length()
    rest = handle.read(length - 1)
    value = int.from_bytes(first + rest, "big") - (1 << (7 * length))
    return None if value == (1 << (7 * length)) - 1 else value
