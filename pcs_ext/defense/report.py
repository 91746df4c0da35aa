"""`report.json`: what was done to every photo and what was measured on the decoded files; also the job's memory."""

import dataclasses
from pathlib import Path
from typing import Any

from pcs_ext.config_io import config_hash, file_sha256, read_json, to_jsonable, write_json
from pcs_ext.errors import InputError

NAME = "report.json"
TOYBOX_WARNING = (
    "toybox is a demonstration model: what is computed on it protects nothing against any public model. "
    "For real photos pass --base with the model to protect against."
)
STATEMENTS = (
    "The numbers hold for the named model, method, prompts and budget; other and newer models were not tested.",
    "What counts is what attackers learn after recompression, resizing, blur and a purifier: any can weaken the "
    "protection or remove it. --attack measures that; pcs-ext verify only tells how much of a perturbation is left.",
    "Photos that are public already, face recognition and one-image identity encoders are not affected.",
    "A motivated attacker can remove it: protection is friction.",
    "Protect all photos of a person; a few clean ones undo it.",
    "Keep the originals, share the produced photos unedited, and do not protect a protected file again. Never share "
    "the folder: difference strips, the page and attacks/ show the unprotected photos.",
    "Believe no percentage without its test. Opt-out tags and signed provenance complement protection, they are none.",
)
"""What an honest tool says with every result."""


@dataclasses.dataclass
class Report:
    """The report of one output folder.

    A photo's entry is `pending` from before its file appears until its measurements are in: whatever a kill leaves
    behind is then known to be the job's own.
    """

    folder: Path
    job: dict[str, Any]
    warnings: tuple[str, ...] = ()
    photos: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Entries by file name of the output."""
    jobs: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Jobs of earlier calls by their hash, which photos name as `settings`."""

    @staticmethod
    def load(folder: Path, job: dict[str, Any], warnings: tuple[str, ...]) -> "Report":
        """The folder's report, or a new one; the job's settings are the new ones.

        Raises:
            InputError: there is a report that cannot be read.
        """
        report = Report(folder, job, warnings)
        if (folder / NAME).exists():
            content = read_report(folder / NAME)
            report.photos = {entry["output"]: entry for entry in content["photos"]}
            before = content.get("job")
            report.jobs = {**content.get("jobs", {}), **({config_hash(before): before} if before else {})}
        return report

    @property
    def settings(self) -> str:
        """Hash of everything that decides what a protected photo looks like."""
        return config_hash(self.job)

    def is_done(self, name: str, sha256: str, mask: str | None = None) -> bool:
        """Whether the output exists, unchanged, made from this original (and mask, by its sha256) with these
        settings."""
        entry, path = self.photos.get(name), self.folder / name
        if entry is None or entry["state"] != "done" or not path.is_file():
            return False
        same = entry["sha256"] == sha256 and entry.get("mask_sha256") == mask and entry["settings"] == self.settings
        return same and entry["output_sha256"] == file_sha256(path)

    def check_free(self, name: str) -> None:
        """Make sure that writing the output destroys nothing of the user's.

        Raises:
            InputError: a file of that name is there that this job did not write, or that was changed since.
        """
        entry, path = self.photos.get(name), self.folder / name
        if not path.exists() or (entry is not None and entry["state"] == "pending"):
            return
        if entry is None:
            raise InputError(f"{path} exists and was not written by pcs-ext protect; choose another --output.")
        if entry["output_sha256"] != file_sha256(path):
            raise InputError(f"{path} was changed after it was protected; move it away, or choose another --output.")

    def put(self, entry: dict[str, Any]) -> None:
        """Add or replace a photo's entry and write the report."""
        self.photos[entry["output"]] = {**entry, "settings": self.settings}
        self.save()

    def save(self) -> None:
        """Write `report.json`: warnings first, photos in the order of their names, and the jobs that made them."""
        jobs = {**self.jobs, self.settings: to_jsonable(self.job)}
        made = sorted({entry["settings"] for entry in self.photos.values()})
        content = {
            "warnings": list(self.warnings),
            "job": to_jsonable(self.job),
            "jobs": {name: jobs[name] for name in made if name in jobs},
            "statements": list(STATEMENTS),
            "photos": [self.photos[name] for name in sorted(self.photos)],
        }
        write_json(self.folder / NAME, content)


def read_report(path: Path) -> dict[str, Any]:
    """The content of a report.

    Raises:
        InputError: it is none.
        ConfigError: it is missing or no JSON.
    """
    content = read_json(path)
    needed = {"output", "sha256", "state", "settings"}
    entries = content.get("photos") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(e, dict) and needed <= e.keys() for e in entries):
        raise InputError(f"{path} is not a report of pcs-ext protect; move it away, or choose another folder.")
    return content
