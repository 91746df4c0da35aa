"""`python -m benchmarks.image_recipes`: what each recipe adds to the one that its paper improves on.

Held-out subjects of `examples/`, learned, asked and measured as in `image_subjects`, whose runs count here too. A
recipe speaks for its row of the survey by one measure alone, the one it exists for (`CLAIMS`), against the recipe its
paper compares it with; differences are taken subject by subject and seed by seed. All other measures are told beside.
Rows are of as many of the first subjects as have all their runs.

An interrupted call goes on. `--trial` learns the last subject, which no figure contains, to look at what a preset does.
"""

import dataclasses
import itertools
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from benchmarks.image_subjects import learn_and_measure, recipe_report, recipe_seconds
from benchmarks.spread import half_interval
from benchmarks.subjects import subject_path, subjects_folder
from pcs_ext.config_io import read_json, write_json
from pcs_ext.errors import PcsError, UsageError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.evaluate import CLASS_WORD, Figure, result_rows, results_table
from pcs_ext.image.recipes import RECIPES
from pcs_ext.reporter import ConsoleReporter
from pcs_ext.results import as_result
from pcs_ext.toybox.judges import toybox_judges
from pcs_ext.toybox.world.subjects import SUBJECTS

ROOT = Path(__file__).parents[1]
Pair = tuple[str, int]
"""Subject and seed."""
_LIKENESS, _PROMPT, _ASKED, _STEPS = "dino-i-truth", "clip-t", "attributes", "steps"
_LEAST = 3
"""Subjects of which a table is worth reading."""
_SHOWN = (_LIKENESS, "clip-i-truth", _PROMPT, _ASKED, "drift", _STEPS)


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a recipe exists for."""

    metric: str
    """The one measure that speaks for it."""
    baseline: str
    """Recipe that its paper improves on there."""


CLAIMS: Mapping[str, Claim] = {
    "p-plus": Claim(_LIKENESS, "textual-inversion"),
    "neti": Claim(_LIKENESS, "textual-inversion"),
    "catversion": Claim(_LIKENESS, "textual-inversion"),
    "vico": Claim(_LIKENESS, "textual-inversion"),
    "prospect": Claim(_LIKENESS, "textual-inversion"),
    "cross-initialization": Claim(_PROMPT, "textual-inversion"),
    "core": Claim(_PROMPT, "textual-inversion"),
    "celeb-basis": Claim(_PROMPT, "textual-inversion"),
    "perfusion": Claim(_PROMPT, "custom-diffusion"),
    "infusion": Claim(_PROMPT, "custom-diffusion"),
    "svdiff": Claim(_PROMPT, "dreambooth"),
    "disenbooth": Claim(_PROMPT, "dreambooth"),
    "dreambooth-plus-plus": Claim(_LIKENESS, "dreambooth"),
    "oft": Claim(_LIKENESS, "dreambooth-lora"),
    "lycoris-loha": Claim(_LIKENESS, "dreambooth-lora"),
    "lycoris-lokr": Claim(_LIKENESS, "dreambooth-lora"),
    "comcat": Claim(_LIKENESS, "custom-diffusion"),
    "dvar": Claim(_STEPS, "textual-inversion"),
    "hiper": Claim(_LIKENESS, "textual-inversion"),
    "personamagic": Claim(_LIKENESS, "textual-inversion"),
    "dreamartist": Claim(_LIKENESS, "textual-inversion"),
    "compositional-inversion": Claim(_PROMPT, "textual-inversion"),
    "coti": Claim(_PROMPT, "textual-inversion"),
    "he-data-perspective": Claim(_LIKENESS, "dreambooth"),
    "instructbooth": Claim(_PROMPT, "dreambooth"),
    "id-aligner": Claim(_LIKENESS, "dreambooth-lora"),
    "disendreamer": Claim(_LIKENESS, "disenbooth"),
}
"""By hand, before anything was measured: recipe -> what its abstract says it improves, and on what (from memory where
the research notes have no number)."""


def main(
    recipes: tuple[str, ...] = tuple(CLAIMS),
    subjects: int = 4,
    seeds: int = 3,
    trial: bool = False,
    threads: int = 0,
    work: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: image_subjects' in the cache folder)")] = Path(),
    output: Path = ROOT / "results" / "image_recipes.json",
) -> None:
    """Measure, and write the table of all recipes whose runs are there.

    Args:
        recipes: which to run now.
        subjects: the first so many.
        seeds: training and sampling seeds 0, 1, ...
        trial: one run of each recipe on the last subject; nothing is written to `output`.
        threads: of the CPU; 0 leaves torch's choice.
        work: folder of the runs.
        output: results file.
    """
    if threads:
        torch.set_num_threads(threads)
    work = work if work != Path() else subjects_folder()
    reporter, names = ConsoleReporter(), list(SUBJECTS)
    pairs = [(names[-1], 0)] if trial else [(name, seed) for name in names[:subjects] for seed in range(seeds)]
    try:
        _check(recipes)
        backbone, judges = load_backbone("toybox", reporter=reporter), toybox_judges()
        for recipe in recipes:
            for arm in (CLAIMS[recipe].baseline, recipe):
                for name, seed in pairs:
                    learn_and_measure(work, name, seed, arm, backbone, judges, reporter)
            reporter.event("recipe", f"{recipe}: {len(pairs)} runs are there")
    except PcsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    whole = {recipe: found for recipe in CLAIMS if (found := _whole(work, recipe, pairs, backbone.fingerprint))}
    rows = [row for recipe, found in whole.items() for row in recipe_rows(work, recipe, found, backbone.fingerprint)]
    plain = [result_rows([recipe_report(work, *pair, arm) for pair in found]) for arm, found in _plain(whole).items()]
    sys.stdout.write(results_table([*itertools.chain(*plain), *rows], _SHOWN) + "\n")
    if not trial:
        command = f"python -m benchmarks.image_recipes --subjects {subjects} --seeds {seeds}"
        command += f" --recipes {' '.join(whole)}"
        write_json(output, as_result(rows, command=command, seeds=list(range(seeds)), subjects=names[:subjects]))
        sys.stdout.write(f"{output}\n")


def _check(recipes: Sequence[str]) -> None:
    unknown = [recipe for recipe in recipes if recipe not in CLAIMS]
    if unknown:
        raise UsageError(f"nothing is claimed of {', '.join(unknown)}; expected some of {', '.join(CLAIMS)}.")


def _whole(work: Path, recipe: str, pairs: Sequence[Pair], base: str) -> list[Pair]:
    """The pairs of as many of the first subjects as have all their runs, of the recipe and of its baseline; none of
    fewer than `_LEAST`."""
    arms = (recipe, CLAIMS[recipe].baseline)
    whole: list[Pair] = []
    for _, runs in itertools.groupby(pairs, key=lambda pair: pair[0]):
        of_one = list(runs)
        if any(recipe_seconds(work, *pair, arm, base) is None for pair in of_one for arm in arms):
            break
        whole += of_one
    least = min(_LEAST, len({name for name, _ in pairs}))
    return whole if len({name for name, _ in whole}) >= least else []


def recipe_rows(work: Path, recipe: str, pairs: Sequence[Pair], base: str) -> list[dict[str, Any]]:
    """One row per measure: the recipe's mean, its baseline's, and half the 95 % interval of their
    difference over subjects."""
    claim, subjects = CLAIMS[recipe], [name for name, _ in pairs]
    mine, theirs = (_measured(work, arm, pairs) for arm in (recipe, claim.baseline))
    seconds, baseline_seconds = (_mean_seconds(work, arm, pairs, base) for arm in (recipe, claim.baseline))
    rows = []
    for metric, (values, figure) in mine.items():
        others = theirs[metric][0]
        rows.append(
            {
                **({"system": RECIPES[recipe].system} if metric == claim.metric else {}),
                "recipe": recipe,
                "metric": metric,
                "higher_is_better": figure.higher_is_better if figure else False,
                "value": statistics.fmean(values),
                "spread": half_interval([one - other for one, other in zip(values, others, strict=True)], subjects),
                "paired": True,
                "n": len(values),
                "encoder": figure.encoder if figure else None,
                "baseline": claim.baseline,
                "baseline_value": statistics.fmean(others),
                "seconds": seconds,
                "baseline_seconds": baseline_seconds,
            }
        )
    return rows


def _measured(work: Path, recipe: str, pairs: Sequence[Pair]) -> dict[str, tuple[list[float], Figure | None]]:
    """Measure -> its value in each run, and what it is; the steps that were learned are one more."""
    reports = [recipe_report(work, name, seed, recipe) for name, seed in pairs]
    found: dict[str, tuple[list[float], Figure | None]] = {
        metric: ([report.figures[metric].value for report in reports], figure)
        for metric, figure in reports[0].figures.items()
    }
    subjects = [subject_path(work, name, seed, recipe) for name, seed in pairs]
    found[_STEPS] = ([float(read_json(path / "config.json")["training"]["steps"]) for path in subjects], None)
    return found


def _mean_seconds(work: Path, recipe: str, pairs: Sequence[Pair], base: str) -> float:
    seconds = [recipe_seconds(work, name, seed, recipe, base) or 0.0 for name, seed in pairs]
    return round(statistics.fmean(seconds), 1)


def _plain(whole: Mapping[str, list[Pair]]) -> dict[str, list[Pair]]:
    """The lines above the recipes', the class word and the baselines, each over as many runs as any of its recipes."""
    found: dict[str, list[Pair]] = {}
    for recipe, pairs in whole.items():
        for arm in (CLASS_WORD, CLAIMS[recipe].baseline):
            found[arm] = max(found.get(arm, []), pairs, key=len)
    return found


if __name__ == "__main__":
    tyro.cli(main)
