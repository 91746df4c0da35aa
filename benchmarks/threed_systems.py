"""`python -m benchmarks.threed_systems`: objects made of learned subjects, against the truth and against baselines.

Every subject of `examples/` is learned from its five photos (DreamBooth, low rank), then made into an object by
DreamBooth3D and by the naive way, score distillation by the fully tuned model in as many field steps; of the first
`--others` subjects also by the other systems, each against what its paper improves on (`CLAIMS`). Measured against the
toy itself from 24 cameras (`threed_measures`). The recipe's own claim about its teachers is measured too: which of
partial and full model draws the views asked for, and how alike its pictures are to true ones. Runs are kept in a work
folder: an interrupted call goes on, and `--part 0 --parts 2` beside `--part 1 --parts 2` shares the work. The last call
to finish writes `results/threed_systems.json`.

What it takes on one busy core: the pair with `--effort fast` 2.7 minutes per subject and seed (mean of six), so 1.6
hours for twelve subjects and three seeds. Extrapolated from older seconds per step, not measured as a whole: with the
balanced preset about 18 minutes for the pair and 40 more for the others, with the fast one 13 more.
"""

import dataclasses
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from benchmarks.subjects import learned, subject_path, subjects_folder
from benchmarks.threed_measures import HIGHER
from benchmarks.threed_ways import ROOT, WAYS, Made, Measures, Setting
from pcs_ext.config_io import config_hash, read_json, write_json
from pcs_ext.errors import PcsError, UsageError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.learn import resolve_recipe
from pcs_ext.reporter import ConsoleReporter
from pcs_ext.results import as_result
from pcs_ext.runtime import cache_folder
from pcs_ext.threed.multiview import own_adapter
from pcs_ext.threed.recipes import RECIPES, Effort
from pcs_ext.toybox.judges import toybox_judges
from pcs_ext.toybox.world.subjects import SUBJECTS, class_noun

_PAIR = ("naive", "dreambooth3d")
_QUICK_STEPS = 8
"""Of learning, in a quick run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """What a system is compared with."""

    column: str
    """What is claimed to be better."""
    baseline: str
    """Than what."""
    system: str = ""
    """Row of the survey; empty: none."""
    exists_for: tuple[str, ...] = ()
    """The measures that count for the system; the others are told beside them."""


CLAIMS = (
    # Not PSNR: before white, an emptier picture has more of it.
    Claim(column="dreambooth3d", baseline="DreamBooth + SDS", system="dreambooth3d",
          exists_for=("likeness", "janus-rate")),
    Claim(column="partial model", baseline="full model"),
    Claim(column="prolificdreamer", baseline="DreamBooth + SDS"),
    Claim(column="mvdream", baseline="DreamBooth + SDS", system=RECIPES["mvdream"].system,
          exists_for=("janus-rate", "views-right", "likeness")),
    Claim(column="magic3d", baseline="its coarse field", system="magic3d", exists_for=("psnr", "likeness")),
    Claim(column="consist3d", baseline="SJC by one token", system="consist3d", exists_for=("likeness", "views-right")),
    Claim(column="tip-editor", baseline="score of the whole scene alone", system=RECIPES["tip-editor"].system,
          exists_for=("likeness", "class-right")),
    Claim(column="texturedreamer", baseline="SDS of the subject's model", system="texturedreamer",
          exists_for=("clip-likeness", "likeness")),
)  # fmt: skip
"""By hand: every system's row, and what its paper compares it with."""


def main(
    effort: Effort = "balanced",
    learner: str = "dreambooth-lora",
    subjects: int = len(SUBJECTS),
    others: int = 4,
    seeds: int = 3,
    part: int = 0,
    parts: int = 1,
    threads: int = 0,
    quick: bool = False,
    ways: tuple[str, ...] = tuple(WAYS),
    work: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: in the cache folder)")] = Path(),
    output: Path = ROOT / "results" / "threed_systems.json",
) -> None:
    """Make, measure; write the results once all runs are there.

    Args:
        effort: preset of the 3D recipes.
        learner: recipe of the core that learns the subjects; the default's preset for toybox is measured.
        subjects: the first so many, by DreamBooth3D and the naive way.
        others: the first so many of them, by the other systems.
        seeds: of learning and making: 0, 1, ...
        part: which share of the subjects this process does.
        parts: number of shares.
        threads: of the CPU; 0 leaves torch's choice.
        ways: only these; the results are written where all of them are done.
        quick: a few steps of everything, one subject, one seed: shows that it runs and says nothing; needs --work.
        work: folder of the runs.
        output: results file.
    """
    if threads:
        torch.set_num_threads(threads)
    if quick:
        if work == Path():
            sys.exit("--quick needs --work FOLDER, for its runs and its results.")
        effort, learner, subjects, others, seeds, output = "fast", "textual-inversion", 1, 1, 1, work / "quick.json"
    work = work if work != Path() else cache_folder() / "threed_systems"
    names = list(SUBJECTS)[:subjects]
    try:
        backbone = load_backbone("toybox", device="cpu")
        assert isinstance(backbone, AbstractUnetBackbone)
        setting = Setting(backbone=backbone, judges=toybox_judges(), effort=effort, quick=quick,
                          reporter=ConsoleReporter())  # fmt: skip
        folder = f"{backbone.fingerprint}-{learner}-{effort}" + ("-quick" if quick else "")
        bench = Bench(work / folder, learner, setting)
        runs = [(name, seed, way) for seed in range(seeds) for name in names for way in _possible(ways)
                if way in _PAIR or names.index(name) < others]  # fmt: skip
        for name, seed, way in runs:
            if names.index(name) % parts == part:
                bench.run(name, seed, way)
    except PcsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    if all(bench.path(*run).is_file() for run in runs):
        rows = result_rows([bench.read(name, seed) for seed in range(seeds) for name in names])
        command = " ".join(["python -m benchmarks.threed_systems", *sys.argv[1:]])
        write_json(output, as_result(rows, command=command, seeds=range(seeds), subjects=names, effort=effort,
                                     learner=learner))  # fmt: skip
        for row in rows:
            against = "" if row["baseline"] is None else f"  ({row['baseline']}: {row['baseline_value']:.4f})"
            sys.stdout.write(
                f"{row['method']:16} {row['metric']:17} {row['value']:8.4f} ± {row['spread']:.4f}{against}\n"
            )
        sys.stdout.write(f"{output}\n")


def _possible(ways: Sequence[str]) -> list[str]:
    """Those that are known and have what they need.

    Raises:
        UsageError: one is not known.
    """
    if unknown := set(ways) - WAYS.keys():
        raise UsageError(f"--ways {', '.join(sorted(unknown))} is unknown; expected some of {', '.join(WAYS)}.")
    return [way for way in ways if way != "mvdream" or own_adapter("toybox") is not None]


class Bench:
    """One learned subject per name and seed, and what every way makes of it, kept."""

    def __init__(self, work: Path, learner: str, setting: Setting) -> None:
        self.work, self.learner, self.setting = work, learner, setting

    def path(self, name: str, seed: int, way: str) -> Path:
        """What was measured, by these recipes of the subject and of the object."""
        own = ("dreamfusion", "dreambooth3d") if way == "naive" else (way,)
        recipes = [RECIPES[one].build("toybox", self.setting.effort) for one in own]
        known = config_hash([recipes, resolve_recipe(self.learner, class_noun(name), "toybox")])
        return self.work / f"{name}-{seed}" / f"{way}-{known}.json"

    def read(self, name: str, seed: int) -> Measures:
        """Everything measured of one subject and seed."""
        found = [self.path(name, seed, way) for way in WAYS]
        return {column: values for path in found if path.is_file() for column, values in read_json(path).items()}

    def run(self, name: str, seed: int, way: str) -> None:
        """Make and measure; what is done is not done again."""
        path = self.path(name, seed, way)
        if path.is_file():
            return
        self.setting.reporter.event("run", f"{name}, seed {seed}: {way}")
        folder = path.with_suffix("")
        write_json(path, WAYS[way](Made(self.setting, name, seed, folder, self._learned(name, seed))))
        for model in ("partial", "multiview"):  # large where `--learner` trains whole models, and measured by now
            shutil.rmtree(folder / "made.ply.work" / model, ignore_errors=True)

    def _learned(self, name: str, seed: int) -> Path:
        quick = self.setting.quick
        # A quick run's subject is of no use to other benchmarks.
        work = self.work if quick else subjects_folder()
        learned(name, seed, self.setting.backbone, self.setting.reporter, recipe=self.learner,
                steps=_QUICK_STEPS if quick else None, work=work)  # fmt: skip
        return subject_path(work, name, seed, self.learner)


def result_rows(runs: Sequence[Measures]) -> list[dict[str, Any]]:
    """A row per claim and measure that both columns have, and the toys' own readings by the oracle.

    `spread` is half the 95 % interval of the difference to the baseline over subjects and seeds. A row names its system
    only where the measure is one that the system exists for.
    """
    rows = []
    for claim in CLAIMS:
        both = [run for run in runs if claim.column in run and claim.baseline in run]
        for metric in HIGHER:
            if both and all(metric in run[column] for run in both for column in (claim.column, claim.baseline)):
                rows.append(_row(both, claim, metric))
    own = [run["the toy itself"] for run in runs if "the toy itself" in run]
    for metric in own[0] if own else ():
        values = [one[metric] for one in own]
        rows.append({"method": "the toy itself", "metric": metric, "higher_is_better": None,
                     "value": statistics.fmean(values), "spread": _interval(values), "n": len(own), "baseline": None,
                     "baseline_value": None, "seconds": None})  # fmt: skip
    return rows


def _row(runs: Sequence[Measures], claim: Claim, metric: str) -> dict[str, Any]:
    values, before = ([run[column][metric] for run in runs] for column in (claim.column, claim.baseline))
    times, base_times = ([run[column].get("seconds") for run in runs] for column in (claim.column, claim.baseline))
    gains = [one - other for one, other in zip(values, before, strict=True)]
    return {
        **({"system": claim.system} if claim.system and metric in claim.exists_for else {}),
        "method": claim.column,
        "metric": metric,
        "higher_is_better": HIGHER[metric],
        "value": statistics.fmean(values),
        "spread": _interval(gains),
        "n": len(runs),
        "baseline": claim.baseline,
        "baseline_value": statistics.fmean(before),
        "seconds": _mean_of(times),
        "baseline_seconds": _mean_of(base_times),
    }


def _interval(values: Sequence[float]) -> float:
    return 1.96 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def _mean_of(times: Sequence[float | None]) -> float | None:
    known = [value for value in times if value is not None]
    return round(statistics.fmean(known), 1) if len(known) == len(times) else None


if __name__ == "__main__":
    tyro.cli(main)
