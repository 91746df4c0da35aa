"""`python -m benchmarks.defense_systems`: what attackers learn from protected photos, against clean and noisy ones.

Every held-out subject's five photos are protected by every method at every budget; then an attacker trains on the
clean photos, on the protected ones and on ones with random noise of the same budget, as they are and after JPEG 75,
with every seed. Judged are likeness to true new views (never seen by attacker or defender), artefacts and the
attacker's loss. Runs are kept in a work folder: an interrupted call goes on, and `--part 0 --parts 2` beside `--part
1 --parts 2` shares the work. The last call to finish writes `results/defense_systems.json`.
"""

import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from pcs_ext.config_io import config_hash, read_json, write_json
from pcs_ext.defense.attack import Attacker
from pcs_ext.defense.choice import resolve_method
from pcs_ext.defense.evaluation import ARMS, Plan, evaluate_protection, load_judge
from pcs_ext.defense.laundering import JpegFile
from pcs_ext.defense.protect import Options, protect
from pcs_ext.defense.recipes import RECIPES
from pcs_ext.defense.sets import Pair
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.data import photo_paths
from pcs_ext.image.evaluate.encoders import ImageEncoder
from pcs_ext.image.levels import to_pil
from pcs_ext.reporter import ConsoleReporter, Reporter
from pcs_ext.results import as_result
from pcs_ext.runtime import cache_folder, generator_for
from pcs_ext.toybox.world.subjects import SUBJECTS, class_noun, novel_views

ROOT = Path(__file__).parents[1]
_VIEWS = 16
"""True new views that likeness and loss are measured on."""
Key = tuple[str, str, float, int]
"""Subject, method, levels, seed."""


def main(
    methods: tuple[str, ...] = ("aspl", "fsmg"),
    levels: tuple[float, ...] = (8.0,),
    attackers: tuple[str, ...] = ("dreambooth-lora",),
    subjects: int = 4,
    seeds: int = 3,
    part: int = 0,
    parts: int = 1,
    threads: int = 0,
    work: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: in the cache folder)")] = Path(),
    output: Path = ROOT / "results" / "defense_systems.json",
) -> None:
    """Protect, attack, measure; write the results once all runs are there.

    Args:
        methods: recipes of `pcs-ext protect`.
        levels: budgets, in 8-bit levels.
        attackers: recipes of the core that attackers train with.
        subjects: the first so many.
        seeds: of protection and training: 0, 1, ...
        part: which share of the subjects this process does.
        parts: number of shares.
        threads: of the CPU; 0 leaves torch's choice.
        work: folder of the runs.
        output: results file.
    """
    if threads:
        torch.set_num_threads(threads)
    backbone, judge = load_backbone("toybox", device="cpu"), load_judge("toybox", None)
    work = (work if work != Path() else cache_folder() / "defense_systems") / backbone.fingerprint
    names = list(SUBJECTS)[:subjects]
    keys: list[Key] = list(itertools.product(names, methods, levels, range(seeds)))
    bench = Bench(work, backbone, judge, attackers, ConsoleReporter())
    for key in keys:
        if names.index(key[0]) % parts == part:
            bench.run(key)
    if all(bench.path(key).is_file() for key in keys):
        rows = result_rows({key: read_json(bench.path(key)) for key in keys})
        command = " ".join(["python -m benchmarks.defense_systems", *sys.argv[1:]])
        write_json(output, as_result(rows, command=command, seeds=range(seeds), subjects=names))
        for row in rows:
            sys.stdout.write(
                f"{row['method']:10} {row['levels']:3.0f} {row['attacker']:16} {row['laundering']:10} "
                f"{row['metric']:18} {row['value']:+.4f} ± {row['spread']:.4f}  ({row['baseline_value']:+.4f})\n"
            )


class Bench:
    """One protection and its attacks per key, kept."""

    def __init__(
        self, work: Path, backbone: AbstractBackbone, judge: ImageEncoder, attackers: Sequence[str], reporter: Reporter
    ) -> None:
        self.work, self.backbone, self.judge, self.reporter = work, backbone, judge, reporter
        self.attackers = tuple(Attacker(recipe=recipe) for recipe in attackers)

    def path(self, key: Key) -> Path:
        """The evaluation of one key."""
        name, method, levels, seed = key
        done = config_hash([resolve_method(method, "toybox", levels=levels), self.attackers])
        return self.work / name / f"{method}-{levels:g}-{seed}-{done}" / "evaluation.json"

    def run(self, key: Key) -> None:
        """Protect and attack; what is done is not done again."""
        name, method, levels, seed = key
        folder, photos = self.path(key).parent, photo_paths(ROOT / "examples" / name)
        if self.path(key).is_file():
            return
        self.reporter.event("run", f"{name}, {method} at {levels:g} levels, seed {seed}")
        options = Options(noun=class_noun(name), seed=seed)
        report = protect(photos, output=folder, recipe=method, base=self.backbone, levels=levels, options=options,
                         reporter=self.reporter)  # fmt: skip
        made = {Path(entry["photo"]).name: folder / entry["output"] for entry in report.photos.values()}
        plan = Plan(attackers=self.attackers, launderings=(JpegFile(quality=75),), noise_laundered=True, seeds=(seed,),
                    pictures=8)  # fmt: skip
        evaluate_protection(
            plan,
            [Pair(photo, made[photo.name]) for photo in photos],
            folder,
            backbone=self.backbone,
            encoder=self.judge,
            noun=class_noun(name),
            budget=resolve_method(method, "toybox", levels=levels).budget,
            references=self._views(name),
            attacks=self.work / name / "attacks",
            reporter=self.reporter,
        )

    def _views(self, name: str) -> list[Path]:
        folder = self.work / name / "views"
        paths = [folder / f"{index:03d}.png" for index in range(_VIEWS)]
        if not all(path.is_file() for path in paths):
            folder.mkdir(parents=True, exist_ok=True)
            generator = generator_for("defense systems", name)
            views = novel_views(name, _VIEWS, generator, resolution=self.backbone.resolution).images
            for path, view in zip(paths, views, strict=True):
                to_pil(view).save(path)
        return paths


_METRICS: dict[str, Callable[[dict[str, Any]], float]] = {
    "likeness": lambda row: statistics.fmean(row["likeness"]),
    "artefacts": lambda row: row["artefacts"],
    "loss": lambda row: row["loss"],
}


def result_rows(found: dict[Key, dict[str, Any]]) -> list[dict[str, Any]]:
    """Change of every measure against clean photos laundered alike; the baseline is the change by random noise.

    The spread is half the 95 % interval of the difference between protection and noise, over subjects and seeds.
    """
    rows = []
    sample = next(iter(found.values()))["rows"]
    conditions = list(dict.fromkeys((row["attacker"], row["laundering"]) for row in sample))
    for method, levels in dict.fromkeys(key[1:3] for key in found):
        own = [content for key, content in found.items() if key[1:3] == (method, levels)]
        for (attacker, laundering), metric in itertools.product(conditions, _METRICS):
            changes = {arm: [_change(one, attacker, laundering, arm, metric) for one in own] for arm in ARMS}
            gains = [p - n for p, n in zip(changes["protected"], changes["noise"], strict=True)]
            spread = 1.96 * statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
            # An attacker's loss says how hard it had it, not what it got: no system is better for it alone.
            named = {} if metric == "loss" or not RECIPES[method].system else {"system": RECIPES[method].system}
            rows.append({
                **named, "method": method, "levels": levels, "attacker": attacker,
                "laundering": laundering, "metric": f"{metric} change", "higher_is_better": metric != "likeness",
                "value": statistics.fmean(changes["protected"]), "spread": spread, "n": len(own),
                "baseline": "random noise", "baseline_value": statistics.fmean(changes["noise"]), "seconds": None,
            })  # fmt: skip
    return rows


def _change(content: dict[str, Any], attacker: str, laundering: str, arm: str, metric: str) -> float:
    """Of the mean over trainings, against clean photos laundered alike."""

    def of(which: str) -> float:
        chosen = [
            row
            for row in content["rows"]
            if (row["attacker"], row["laundering"], row["arm"]) == (attacker, laundering, which)
        ]
        return statistics.fmean(_METRICS[metric](row) for row in chosen)

    return of(arm) - of("clean")


if __name__ == "__main__":
    tyro.cli(main)
