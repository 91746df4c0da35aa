"""`python -m benchmarks.image_recipes`: what each recipe adds to the one that its paper improves on.

Held-out subjects of `examples/`, learned, asked and measured as in `image_subjects`, whose runs count here too. A
recipe speaks for its row of the survey by one measure alone, the one it exists for (`CLAIMS`), against the recipe its
paper compares it with; differences are taken subject by subject and seed by seed. All other measures are told beside.

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
from benchmarks.subjects import subjects_folder
from pcs_ext.config_io import write_json
from pcs_ext.errors import PcsError, UsageError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.evaluate import CLASS_WORD, Report, result_rows, results_table
from pcs_ext.image.recipes import RECIPES
from pcs_ext.reporter import ConsoleReporter
from pcs_ext.results import as_result
from pcs_ext.toybox.judges import toybox_judges
from pcs_ext.toybox.world.subjects import SUBJECTS

ROOT = Path(__file__).parents[1]
Pair = tuple[str, int]
"""Subject and seed."""
_LIKENESS, _PROMPT, _ASKED = "dino-i-truth", "clip-t", "attributes"
_SHOWN = (_LIKENESS, "clip-i-truth", _PROMPT, _ASKED, "drift")


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
}
"""By hand, before anything was measured: recipe -> what its abstract says it improves, and on what."""


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
    whole = [recipe for recipe in CLAIMS if _is_whole(work, recipe, pairs, backbone.fingerprint)]
    rows = [row for recipe in whole for row in recipe_rows(work, recipe, pairs, backbone.fingerprint)]
    plain = [result_rows([recipe_report(work, *pair, arm) for pair in pairs]) for arm in _plain(whole)]
    sys.stdout.write(results_table([*itertools.chain(*plain), *rows], _SHOWN) + "\n")
    if not trial:
        command = (
            f"python -m benchmarks.image_recipes --subjects {subjects} --seeds {seeds} --recipes {' '.join(whole)}"
        )
        write_json(output, as_result(rows, command=command, seeds=list(range(seeds)), subjects=names[:subjects]))
        sys.stdout.write(f"{output}\n")


def _check(recipes: Sequence[str]) -> None:
    unknown = [recipe for recipe in recipes if recipe not in CLAIMS]
    if unknown:
        raise UsageError(f"nothing is claimed of {', '.join(unknown)}; expected some of {', '.join(CLAIMS)}.")


def _is_whole(work: Path, recipe: str, pairs: Sequence[Pair], base: str) -> bool:
    arms = (recipe, CLAIMS[recipe].baseline)
    return all(recipe_seconds(work, name, seed, arm, base) is not None for name, seed in pairs for arm in arms)


def recipe_rows(work: Path, recipe: str, pairs: Sequence[Pair], base: str) -> list[dict[str, Any]]:
    """One row per measure: the recipe's mean, its baseline's, and half the 95 % interval of their
    difference over subjects."""
    claim = CLAIMS[recipe]
    mine = [recipe_report(work, name, seed, recipe) for name, seed in pairs]
    theirs = [recipe_report(work, name, seed, claim.baseline) for name, seed in pairs]
    seconds = [
        round(statistics.fmean(recipe_seconds(work, name, seed, arm, base) or 0.0 for name, seed in pairs), 1)
        for arm in (recipe, claim.baseline)
    ]
    rows = []
    for metric, figure in mine[0].figures.items():
        apart = zip(_values(mine, metric), _values(theirs, metric), strict=True)
        gains = [one - other for one, other in apart]
        rows.append(
            {
                **({"system": RECIPES[recipe].system} if metric == claim.metric else {}),
                "recipe": recipe,
                "metric": metric,
                "higher_is_better": figure.higher_is_better,
                "value": statistics.fmean(_values(mine, metric)),
                "spread": half_interval(gains, [name for name, _ in pairs]),
                "n": len(gains),
                "encoder": figure.encoder,
                "baseline": claim.baseline,
                "baseline_value": statistics.fmean(_values(theirs, metric)),
                "seconds": seconds[0],
                "baseline_seconds": seconds[1],
            }
        )
    return rows


def _values(reports: Sequence[Report], metric: str) -> list[float]:
    return [report.figures[metric].value for report in reports]


def _plain(recipes: Sequence[str]) -> list[str]:
    """The lines above the recipes': the class word and the baselines."""
    return [CLASS_WORD, *dict.fromkeys(CLAIMS[recipe].baseline for recipe in recipes)]


if __name__ == "__main__":
    tyro.cli(main)
