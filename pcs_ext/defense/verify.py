"""Whether files still carry the perturbation that was put into them."""

import collections
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import file_sha256, from_jsonable
from pcs_ext.defense.budget import Budget, BudgetCheck
from pcs_ext.defense.photos import read_own_photo
from pcs_ext.defense.report import NAME, read_report
from pcs_ext.errors import InputError, PcsError, UsageError
from pcs_ext.image.data import photo_paths
from pcs_ext.reporter import Reporter, SilentReporter

Verdict = Literal["intact", "carried", "weakened", "lost", "unprotected"]
ALARMING: tuple[Verdict, ...] = ("weakened", "lost", "unprotected")
CARRIED, WEAKENED = 0.8, 0.3
"""Least shares of the perturbation for these verdicts: conventions of this tool, not measured thresholds of effect."""
_THUMB = 32
_ALIKE = 12.0
"""Largest root mean square difference of two thumbnails, in levels, that passes for the same photo."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found out about a file."""

    file: Path
    verdict: Verdict
    """intact: the very samples. carried, weakened, lost: at least 0.8, at least 0.3, less of the perturbation.
    unprotected: there never was one, nothing was changed in the photo."""
    kept: float
    """Projection of the file's change onto the perturbation, 1 = all of it. A share of the perturbation, not of the
    protection's effect."""
    bytes_equal: bool
    """The file is byte for byte what was written."""
    budget: BudgetCheck | None
    """Against the original; None for a file of another size, and where the original is gone and the bytes the same."""
    original: Path
    output: Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verifications:
    """What was found out about several files, or all of a folder."""

    photos: tuple[Verification, ...]
    not_compared: dict[Path, str]
    """File -> why it could not be compared."""
    missing: tuple[Path, ...]
    """Photos of the reports of given folders that none of the files is."""

    @property
    def verdicts(self) -> dict[str, int]:
        """Verdict -> how many photos, those that were found."""
        return dict(collections.Counter(found.verdict for found in self.photos))

    @property
    def alarming(self) -> bool:
        """Whether a photo lost its perturbation, much of it, or itself, or never was protected."""
        return bool(self.missing) or any(found.verdict in ALARMING for found in self.photos)


def verify_all(
    places: Sequence[Path],
    *,
    report: Path | None = None,
    original: Path | None = None,
    reporter: Reporter | None = None,
) -> Verifications:
    """`verify` for files and for all photos of folders; what cannot be compared does not stop the others.

    Args:
        places: files, or folders that `protect` wrote (or copies of them, with `report`).
        report: `report.json` or its folder; None: beside each file.
        original: the folder where the originals lie now; None: where they lay.
        reporter: hears the progress.

    Raises:
        UsageError: `original` is a file and there are several photos.
        PhotoError: a place does not exist, or is a folder without photos.
    """
    files, reporter = photo_paths(places), reporter or SilentReporter()
    if original is not None and not original.is_dir() and len(files) > 1:
        raise UsageError(f"--original {original} is one file, for {len(files)} photos; give the originals' folder.")
    found: list[Verification] = []
    reasons: dict[Path, str] = {}
    for index, file in enumerate(files):
        try:
            found.append(verify(file, report=report, original=original))
        except PcsError as error:
            reasons[file] = str(error)
        reporter.progress("verify", index + 1, len(files))
    seen = {one.output.resolve() for one in found} | {file.resolve() for file in reasons}
    folders = [] if report is not None else [place for place in places if (place / NAME).is_file()]
    written = [folder / entry["output"] for folder in folders for entry in read_report(folder / NAME)["photos"]]
    missing = tuple(path for path in written if path.resolve() not in seen)
    return Verifications(photos=tuple(found), not_compared=reasons, missing=missing)


def verify(file: Path, *, report: Path | None = None, original: Path | None = None) -> Verification:
    """Compare a file with the photo it was made from and with what `protect` wrote.

    Args:
        file: the protected photo as it is now: renamed, recompressed or resized, but not cropped.
        report: `report.json` or its folder; None: beside the file.
        original: where the original lies now, or the folder it lies in; None: where it lay. Where it is not given and
            gone, a file whose bytes are those that were written is intact all the same.

    Raises:
        PhotoError, ConfigError, InputError: a file is missing or unreadable, is of no photo in the report, or was
            cropped; the original or the protected photo changed.
    """
    if not file.is_file():
        raise InputError(f"{file} does not exist; expected a protected photo.")
    place = _report_path(file, report)
    entries = [entry for entry in read_report(place)["photos"] if entry["state"] == "done"]
    digest, now = file_sha256(file), read_own_photo(file).pixels
    entry = _entry(file, digest, now, entries, place)
    output = place.parent / entry["output"]
    source = original or Path(os.path.normpath(place.parent / entry["photo"]))
    source = source / Path(entry["photo"]).name if source.is_dir() else source
    if original is None and not source.is_file() and digest == entry["output_sha256"]:
        changed = entry.get("changed", True)
        verdict, kept = ("intact", 1.0) if changed else ("unprotected", 0.0)
        return Verification(
            file=file, verdict=verdict, kept=kept, bytes_equal=True, budget=None, original=source, output=output
        )
    if file.resolve() == output.resolve() and digest != entry["output_sha256"]:
        raise InputError(
            f"{file} was changed after it was protected, and what was written is nowhere to compare it with; protect "
            "the original again."
        )
    before = _unchanged(source, entry["sha256"], "original", "--original")
    written = _unchanged(output, entry["output_sha256"], "protected photo", "--report")
    delta = written.float() - before.float()
    found = _changed(now, before, file)
    kept = float((found * delta).sum() / delta.square().sum().clamp_min(1e-12))
    same = now.shape == written.shape and torch.equal(now, written)
    budget = from_jsonable(Budget, entry["budget"]["allowed"], where=str(place))
    return Verification(
        file=file,
        verdict=_verdict(kept, same) if entry.get("changed", bool(delta.any())) else "unprotected",
        kept=kept,
        bytes_equal=digest == entry["output_sha256"],
        budget=budget.check(now, before) if now.shape == before.shape else None,
        original=source,
        output=output,
    )


def _verdict(kept: float, same: bool) -> Verdict:
    if same:
        return "intact"
    return "carried" if kept >= CARRIED else "weakened" if kept >= WEAKENED else "lost"


def _report_path(file: Path, report: Path | None) -> Path:
    place = file.parent if report is None else report
    place = place / NAME if place.is_dir() else place
    if not place.is_file():
        raise InputError(f"{place} is not there; give --report with the report.json that pcs-ext protect wrote.")
    return place


def _unchanged(path: Path, sha256: str, what: str, flag: str) -> Tensor:
    if not path.is_file():
        raise InputError(f"the {what} {path} is not there any more; give its place with {flag}.")
    if file_sha256(path) != sha256:
        raise InputError(f"{path} is not the {what} of the report: its bytes changed. Give the right one with {flag}.")
    return read_own_photo(path).pixels


def _changed(now: Tensor, before: Tensor, file: Path) -> Tensor:
    """The file minus the original, `c h w` in levels; a resized file is first brought back to the photo's size."""
    height, width = before.shape[1:]
    now = now.float().expand(before.shape[0], -1, -1) if now.shape[0] == 1 else now.float()[: before.shape[0]]
    if now.shape[1:] == before.shape[1:]:
        return now - before.float()
    # One pixel of rounding per side is no crop.
    if abs(now.shape[1] * width - now.shape[2] * height) > max(height, width) + max(now.shape[1:]):
        raise InputError(
            f"{file} is {now.shape[2]} x {now.shape[1]}, the photo {width} x {height}: another shape, so it was "
            "cropped or turned. Only whole photos can be compared."
        )
    back = F.interpolate(now[None], size=(height, width), mode="bicubic", antialias=True, align_corners=False)[0]
    return back.clamp(0, 255) - before.float()


def _entry(file: Path, digest: str, now: Tensor, entries: list[dict[str, Any]], place: Path) -> dict[str, Any]:
    """By content, else by name, else by look."""
    for key, value in (("output_sha256", digest), ("output", file.name)):
        for entry in entries:
            if entry[key] == value:
                return entry
    here = _thumbnail(now)
    differences = []
    for entry in entries:
        path = place.parent / entry["output"]
        there = _thumbnail(read_own_photo(path).pixels) if path.is_file() else here + 255
        differences.append(float((here - there).square().mean().sqrt()))
    if not differences or min(differences) > _ALIKE:
        raise InputError(f"{file} is of no photo in {place}; give --report with the report of its own job.")
    return entries[differences.index(min(differences))]


def _thumbnail(pixels: Tensor) -> Tensor:
    gray = pixels.float().mean(0)[None, None]
    return F.interpolate(gray, size=(_THUMB, _THUMB), mode="bilinear", antialias=True, align_corners=False)
