"""Clips that a user names, with what they show."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from pcs_ext.errors import InputError, UsageError
from pcs_ext.image.data import photo_paths
from pcs_ext.reporter import Reporter
from pcs_ext.video.clips import Clip, read_clip
from pcs_ext.video.clips.read import FOLDER_RECORD
from pcs_ext.video.stills import is_still

SUFFIXES = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".gif", ".webp", ".apng")
_PREVIEW = ".preview.webp"
SECONDS = 10.0
"""Of each clip its beginning of this length is learned from; longer ones would fill the memory."""


@dataclasses.dataclass(frozen=True)
class ClipFile:
    """A clip on disk."""

    path: Path
    """A video file, an animation, or a folder of frames."""
    prompt: str
    """What it shows."""


def find_clips(sources: Sequence[Path], prompts: Sequence[str] = (), *, captioned: bool = True) -> list[ClipFile]:
    """The clips among files and folders, with their prompts; nothing is decoded.

    A folder of videos stands for them in the order of their names, without the previews that `video make` writes beside
    them; a folder of pictures alone is one clip. Prompts: as
    given, one for all or one each; otherwise `NAME.txt` beside a clip.

    Args:
        sources: files and folders.
        prompts: what they show.
        captioned: every clip needs a prompt; else those without one have an empty one.

    Raises:
        InputError: a path is not there, or a folder holds no clip.
        UsageError: no sources, a clip without a prompt, or counts that do not match.
    """
    if not sources:
        raise UsageError("no clips were given; expected video files, or a folder of them or of frames.")
    paths = [path for source in sources for path in _clips_of(Path(source))]
    if prompts and len(prompts) not in (1, len(paths)):
        raise UsageError(f"got {len(prompts)} prompts for {len(paths)} clips; give one for all, or one for each.")
    said = list(prompts) * (len(paths) // len(prompts)) if prompts else [_caption(path, captioned) for path in paths]
    return [ClipFile(path, text) for path, text in zip(paths, said, strict=True)]


def _clips_of(source: Path) -> list[Path]:
    if not source.exists():
        raise InputError(f"{source} does not exist; expected a video file, or a folder of clips or of frames.")
    if not source.is_dir() or (source / FOLDER_RECORD).is_file():
        return [source]
    files = sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    found = [path for path in files if not is_still(path, damaged=False) and not _is_preview(path)]
    if found:
        return found
    photo_paths(source)  # says what is wrong with a folder of neither
    return [source]


def _is_preview(path: Path) -> bool:
    """Whether it is the small copy that `video make` writes beside a clip: it would be learned twice."""
    name = path.name.removesuffix(_PREVIEW)
    return name != path.name and any(path.with_name(f"{name}{suffix}.json").is_file() for suffix in SUFFIXES)


def _caption(path: Path, needed: bool) -> str:
    file = path.with_suffix(".txt")
    text = file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""
    if not text and needed:
        raise UsageError(
            f'{path} needs a prompt that says what it shows: --prompts "a toy dog spins", or the text file {file}.'
        )
    return text


def read_training_clips(
    files: Sequence[ClipFile], *, size: tuple[int, int], multiple_of: int, reporter: Reporter
) -> list[Tensor]:
    """Clips `3 f h w` uint8, each covering `size` and cropped at the centre.

    As they were decoded, in a quarter of the memory of floats: who learns takes `in_unit_range` of one at a time.

    Args:
        files: see `find_clips`.
        size: height and width in pixels.
        multiple_of: sides are rounded down to multiples of this.
        reporter: told what the reader did.

    Raises:
        InputError: a clip cannot be used.
    """
    opened = open_training_clips(files, size=size, multiple_of=multiple_of, reporter=reporter)
    return [clip.frames.transpose(0, 1) for clip in opened]


def open_training_clips(
    files: Sequence[ClipFile], *, size: tuple[int, int], multiple_of: int, reporter: Reporter
) -> list[Clip]:
    """The same with their frame rates; see `read_training_clips`."""
    clips = []
    for file in files:
        clip = read_clip(file.path, seconds=SECONDS, stride=1, size=size, multiple_of=multiple_of)
        notes = f" ({'; '.join(clip.notes)})" if clip.notes else ""
        reporter.event("clip", f"{file.path}: {len(clip)} frames at {clip.fps:g} per second{notes}", frames=len(clip))
        clips.append(clip)
    return clips
