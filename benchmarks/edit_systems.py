"""`python -m benchmarks.edit_systems`: edits that train nothing against plain sampling, on the embedded world.

Every edit has one measure that speaks for its row of the survey, named before anything was measured (`edit_trials`),
and is compared with what a user would do without it, from the same seeds: StyleAligned by how alike a set is, SAG by
the style it is led to (also against a clean estimate of one step), Portrait Diffusion by the style where the toy stays
itself (also against matched colours), FreeControl by what is asked in the photo's pose, diptych prompting by likeness
to a subject that the base never saw, DCI and FreeCure by what a learned subject still heeds of its prompts, ways to
draw two subjects by the likeness of each in its place. What the measure does not say is told beside it.

Runs are kept in a work folder, an interrupted call goes on. Writes `results/edit_systems.json` and a sheet.
"""

import dataclasses
import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from PIL import Image

from benchmarks.arms import Kept, claim_row, is_kept, kept_arm, plain_row
from benchmarks.cast_trials import Together
from benchmarks.edit_trials import Stage, Trial, single_trials
from pcs_ext.config_io import config_hash, to_jsonable, write_json
from pcs_ext.errors import PcsError, UsageError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.reporter import ConsoleReporter
from pcs_ext.results import as_result
from pcs_ext.runtime import cache_folder
from pcs_ext.toybox.judges import toybox_judges

ROOT = Path(__file__).parents[1]
_SHOWN = 4
"""Runs of each edit on the sheet."""


def main(
    edits: tuple[str, ...] = (),
    pictures: int = 12,
    seeds: int = 3,
    threads: int = 0,
    work: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: in the cache folder)")] = Path(),
    output: Path = ROOT / "results" / "edit_systems.json",
    sheet: Path = ROOT / "docs" / "images" / "edit_systems.jpg",
) -> None:
    """Sample, measure, write.

    Args:
        edits: which to run now; none named: all. The table is of all whose runs are there.
        pictures: runs of each edit and seed.
        seeds: 0, 1, ...
        threads: of the CPU; 0 leaves torch's choice.
        work: folder of the runs.
        output: results file.
        sheet: pictures of the first seed, a row per run, the edit first and then what it is compared with.
    """
    if threads:
        torch.set_num_threads(threads)
    reporter = ConsoleReporter()
    try:
        backbone = load_backbone("toybox", device="cpu", precision="fp32", reporter=reporter)
        trials = all_trials(Stage(backbone, toybox_judges(), reporter))
        if unknown := [edit for edit in edits if edit not in trials]:
            raise UsageError(f"no trial of {', '.join(unknown)}; expected some of {', '.join(trials)}.")
        work = work if work != Path() else cache_folder() / "edit_systems"
        runs = Runs(work / backbone.fingerprint, pictures, seeds)
        for edit in edits or trials:
            runs.arms(trials[edit])
            reporter.event("edit", f"{edit}: {pictures * seeds} runs of each arm are there")
    except PcsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    _publish(trials, runs, output, sheet)


def _publish(trials: Mapping[str, Trial], runs: "Runs", output: Path, sheet: Path) -> None:
    found = {edit: runs.arms(trial) for edit, trial in trials.items() if runs.are_there(trial)}
    rows = [row for edit, arms in found.items() for row in trial_rows(trials[edit], arms, runs.count)]
    for row in rows:
        against = "" if row["baseline"] is None else f"   {row['baseline']} {row['baseline_value']:.3f}"
        sys.stdout.write(f"{row['method']:34} {row['metric']:16} {row['value']:.3f} ± {row['spread']:.3f}{against}\n")
    command = f"python -m benchmarks.edit_systems --pictures {runs.count} --seeds {runs.seeds}"
    command += f" --edits {' '.join(found)}"
    write_json(output, as_result(rows, command=command, seeds=list(range(runs.seeds))))
    sheet.parent.mkdir(parents=True, exist_ok=True)
    _sheet(found).save(sheet, quality=85)
    sys.stdout.write(f"{output}\n{sheet}\n")


def all_trials(stage: Stage) -> dict[str, Trial]:
    """By edit."""
    trials = [
        *single_trials(stage),
        *(Together(stage, edit) for edit in ("omg", "pacgen", "mc2")),
        *(Together(stage, edit, recipe=edit) for edit in ("cones-2", "multibooth")),
    ]
    return {trial.claim.arm: trial for trial in trials}


@dataclasses.dataclass(frozen=True)
class Runs:
    """What is kept of all trials.

    Args:
        folder: of the runs.
        count: runs of each arm and seed.
        seeds: 0 to `seeds` - 1.
    """

    folder: Path
    count: int
    seeds: int

    def arms(self, trial: Trial) -> dict[str, Kept]:
        """By arm, the edit first; what is not there is made."""
        return {
            arm: kept_arm(folder, self.count, range(self.seeds), functools.partial(trial.make, arm))
            for arm, folder in self._folders(trial).items()
        }

    def are_there(self, trial: Trial) -> bool:
        """Whether nothing would have to be made."""
        return all(is_kept(folder, self.count, range(self.seeds)) for folder in self._folders(trial).values())

    def _folders(self, trial: Trial) -> dict[str, Path]:
        claim = trial.claim
        folder = self.folder / f"{claim.arm}-{config_hash(to_jsonable(trial.config))[:12]}"
        return {arm: folder / arm for arm in (claim.arm, *claim.baselines, *claim.beside)}


def trial_rows(trial: Trial, arms: Mapping[str, Kept], count: int) -> list[dict[str, Any]]:
    """The edit's measures beside the better of its baselines', and the baselines' own.

    Args:
        trial: what is compared with what.
        arms: figures of each, seed after seed.
        count: runs of each seed.
    """
    rows = []
    for metric in arms[trial.claim.arm][0][0]:
        values = {arm: [figures[metric] for figures, _ in runs] for arm, runs in arms.items()}
        rows.append(claim_row(trial.claim, metric, True, values, count))
        rows += [plain_row(f"{arm} of {trial.claim.arm}", metric, True, values[arm], count)
                 for arm in arms if arm != trial.claim.arm]  # fmt: skip
    return rows


def _sheet(found: Mapping[str, Mapping[str, Kept]]) -> Image.Image:
    lines = [
        [Image.open(runs[index][1]) for runs in arms.values()]
        for arms in found.values()
        for index in range(min(_SHOWN, *map(len, arms.values())))
    ]
    gap, side = 4, lines[0][0].height
    width = max(sum(image.width + gap for image in line) for line in lines)
    sheet = Image.new("RGB", (width, len(lines) * (side + gap)), "white")
    for row, line in enumerate(lines):
        x = 0
        for image in line:
            sheet.paste(image, (x, row * (side + gap)))
            x += image.width + gap
    return sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST)


if __name__ == "__main__":
    tyro.cli(main)
