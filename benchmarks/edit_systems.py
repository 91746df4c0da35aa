"""`python -m benchmarks.edit_systems`: edits that train nothing against plain sampling, on the embedded world.

Every edit has one measure that speaks for its row of the survey, named before anything was measured (`edit_trials`),
and is compared with what a user would do without it, from the same seeds: StyleAligned by how alike a set is, SAG by
the style it is led to (also against a clean estimate of one step), Portrait Diffusion by the style where the toy stays
itself (also against matched colours), FreeControl by what is asked in the photo's pose, diptych prompting by likeness
to a subject that the base never saw, DCI and FreeCure by what a learned subject still heeds of its prompts, ways to
draw two subjects by the likeness of each in its place. What the measure does not say is told beside it.

Runs are kept in a work folder, an interrupted call goes on. Writes `results/edit_systems.json` and a sheet.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from PIL import Image

from benchmarks.arms import Kept, claim_row, kept_arm, plain_row
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
    sheet: Path = ROOT / "docs" / "images" / "edit_systems.png",
) -> None:
    """Sample, measure, write.

    Args:
        edits: which; none named: all. The tables are written only then.
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
        found: dict[str, dict[str, Kept]] = {}
        for edit in edits or trials:
            found[edit] = _arms(trials[edit], work / backbone.fingerprint, pictures, range(seeds))
            reporter.event("edit", f"{edit}: {pictures * seeds} runs of each arm are there")
    except PcsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    rows = [row for edit, arms in found.items() for row in trial_rows(trials[edit], arms, pictures)]
    for row in rows:
        against = "" if row["baseline"] is None else f"   {row['baseline']} {row['baseline_value']:.3f}"
        sys.stdout.write(f"{row['method']:24} {row['metric']:16} {row['value']:.3f} ± {row['spread']:.3f}{against}\n")
    if not edits:
        command = f"python -m benchmarks.edit_systems --pictures {pictures} --seeds {seeds}"
        write_json(output, as_result(rows, command=command, seeds=list(range(seeds))))
        sheet.parent.mkdir(parents=True, exist_ok=True)
        _sheet(found).save(sheet)
        sys.stdout.write(f"{output}\n{sheet}\n")


def all_trials(stage: Stage) -> dict[str, Trial]:
    """By edit."""
    trials = [*single_trials(stage), *(Together(stage, edit) for edit in ("omg", "pacgen", "mc2"))]
    return {trial.claim.arm: trial for trial in trials}


def _arms(trial: Trial, work: Path, count: int, seeds: Sequence[int]) -> dict[str, Kept]:
    """By arm, the edit first."""
    edit = trial.claim.arm
    folder = work / f"{edit}-{config_hash(to_jsonable(trial.config))[:12]}"
    return {
        arm: kept_arm(folder / arm, count, seeds, functools.partial(trial.make, arm))
        for arm in (edit, *trial.claim.baselines, *trial.claim.beside)
    }


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
