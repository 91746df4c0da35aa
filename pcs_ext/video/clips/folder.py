"""Where made clips go: one file, or a folder of numbered ones, each with a preview, a sheet of frames and a record."""

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from pcs_ext.errors import InputError, UsageError
from pcs_ext.image.png import write_png
from pcs_ext.video.clips.clip import Clip, to_frames
from pcs_ext.video.clips.sheet import contact_sheet
from pcs_ext.video.clips.write import SUFFIXES, sidecar, write_clip

_PREVIEWS = (".gif", ".webp")


class ClipFolder:
    """`NAME.mp4` with `NAME.preview.webp`, `NAME.sheet.png` and `NAME.mp4.json`; the record is written last.

    Args:
        output: the clip to write; or a folder, without a suffix, where clips are `00000.mp4`, `00001.mp4`, ...
        count: how many clips will be asked for.
        fps: frames per second of what is written.
        overwrite: replace what lies at the one clip's names. Clips in a folder are never replaced.

    Raises:
        UsageError: several clips for one file, an unknown suffix, or an impossible rate.
        InputError: something is there already.
    """

    def __init__(self, output: Path, count: int, *, fps: float, overwrite: bool = False) -> None:
        self.output, self.fps, self.overwrite = output, fps, overwrite
        self.single = output.suffix != ""
        if not 0 < fps <= 240:
            raise UsageError(f"--fps must be above 0 and up to 240, got {fps:g}.")
        if self.single:
            self._check_file(count)
        elif output.exists() and not output.is_dir():
            raise InputError(f"{output} is a file; expected a folder, or a name that ends in {', '.join(SUFFIXES)}.")

    def _check_file(self, count: int) -> None:
        if self.output.suffix.lower() not in SUFFIXES:
            raise UsageError(
                f"{self.output} ends in {self.output.suffix}; expected {', '.join(SUFFIXES)}, or a folder without one."
            )
        if count > 1:
            raise UsageError(
                f"{self.output} is one clip, {count} were asked for; give a folder: -o {self.output.stem}."
            )
        taken = [path for path in _files(self.output) if path is not None and os.path.lexists(path)]
        if taken and not self.overwrite:
            raise InputError(f"{taken[0]} is there already; choose another name, or pass --overwrite.")

    def made(self, made_by: dict[str, Any]) -> Path | None:
        """The clip of a folder that was made just so and plays at this rate, if there is one."""
        if self.single or not self.output.is_dir():
            return None
        wanted = json.loads(json.dumps(made_by))
        for record in sorted(self.output.glob("*.mp4.json")):
            path, known = record.with_suffix(""), _record(record)
            if path.is_file() and known.get("made_by") == wanted and known.get("fps") == self.fps:
                return path
        return None

    def write(self, frames: Tensor, made_by: dict[str, Any]) -> Path:
        """Write a clip, `3 f h w` in [-1, 1], and what goes with it.

        Raises:
            ResourceError: it cannot be written.
        """
        path = self.output if self.single else self.output / f"{self._next():05d}.mp4"
        clip = Clip(to_frames(frames), self.fps)
        _, preview, sheet, _ = _files(path)
        if preview is not None:
            write_clip(clip, preview, overwrite=self.overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(sheet, contact_sheet([clip]))
        return write_clip(clip, path, overwrite=self.overwrite, made_by=made_by)

    def _next(self) -> int:
        taken = [int(path.name[:5]) for path in self.output.glob("[0-9][0-9][0-9][0-9][0-9].*")]
        return max(taken, default=-1) + 1


def _files(path: Path) -> tuple[Path, Path | None, Path, Path]:
    """The clip, its preview (animations are their own), its sheet and its record."""
    preview = None if path.suffix.lower() in _PREVIEWS else path.with_suffix(".preview.webp")
    return path, preview, path.with_suffix(".sheet.png"), sidecar(path)


def _record(path: Path) -> dict[str, Any]:
    """What a record says; nothing where it is not one of ours."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
