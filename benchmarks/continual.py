"""`python -m benchmarks.continual`: what ten subjects learned one after another remember (C-LoRA, arXiv 2304.06027).

Three ways on the same photos, words and seeds: `c-lora`; `sequential`, the same without its penalty; and `joint`, one
low-rank update and all words trained on all photos at once, which has nothing to forget. Every subject is painted right
after it was learned and again at the end; likeness is the mean cosine to its true new views. Runs are kept in a work
folder and go on after an interruption. Writes `results/continual.json`.
"""

import dataclasses
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from pcs_ext.config_io import config_hash, read_json, write_json
from pcs_ext.image.adapters import LowRankConfig, build_adapter
from pcs_ext.image.adapters.base import AbstractAdapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.data import SubjectDataset, find_photos
from pcs_ext.image.evaluate.encoders import ImageEncoder
from pcs_ext.image.fit import fit
from pcs_ext.image.ledger import Ledger
from pcs_ext.image.recipes.base import Recipe
from pcs_ext.image.recipes.c_lora import c_lora
from pcs_ext.image.sample import sample
from pcs_ext.image.training import LatentCache, PhaseLoss, only_trainable, parameter_groups
from pcs_ext.image.types import LossTerms
from pcs_ext.reporter import ConsoleReporter, Reporter
from pcs_ext.results import as_result
from pcs_ext.runtime import cache_folder, generator_for
from pcs_ext.toybox.judges import toybox_judges
from pcs_ext.toybox.world.subjects import SUBJECTS, class_noun, novel_views

ROOT = Path(__file__).parents[1]
METHODS = ("c-lora", "sequential", "joint")
PROMPTS = ("a photo of {}", "a photo of {} on the beach", "a photo of {} in the snow", "a photo of {} in a room")
_IMAGES = 2
"""Per prompt."""
_VIEWS = 64
_JOINT_RANK = 64
"""Of the one update that holds all subjects; each of the others has 16."""


def main(
    subjects: int = 10,
    seeds: int = 3,
    steps: int = 0,
    threads: int = 0,
    work: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: in the cache folder)")] = Path(),
    output: Path = ROOT / "results" / "continual.json",
) -> None:
    """Learn, paint, measure, write.

    Args:
        subjects: the first so many, in their order.
        seeds: training and sampling seeds 0, 1, ...
        steps: per subject; 0 takes the recipe's.
        threads: of the CPU; 0 leaves torch's choice.
        work: folder of the runs.
        output: results file.
    """
    if threads:
        torch.set_num_threads(threads)
    backbone, encoder, names = load_backbone("toybox", device="cpu"), toybox_judges().dino, tuple(SUBJECTS)[:subjects]
    assert encoder is not None
    work = (work if work != Path() else cache_folder() / "continual") / backbone.fingerprint
    run = Run(backbone, encoder, names, steps, ConsoleReporter())
    found = {method: [run.measured(work, method, seed) for seed in range(seeds)] for method in METHODS}
    command = " ".join(["python -m benchmarks.continual", *sys.argv[1:]])
    rows = result_rows(found)
    write_json(output, as_result(rows, command=command, seeds=range(seeds), subjects=list(names)))
    for row in rows:
        sys.stdout.write(f"{row['method']:12} {row['metric']:24} {row['value']:.3f} ± {row['spread']:.3f}\n")


@dataclasses.dataclass(frozen=True)
class Run:
    """What all methods share."""

    backbone: AbstractBackbone
    encoder: ImageEncoder
    names: tuple[str, ...]
    steps: int
    reporter: Reporter

    def measured(self, work: Path, method: str, seed: int) -> dict[str, list[float]]:
        """Likeness of every subject right after it was learned (`first`) and in the end (`last`), sizes of updates."""
        known = [[self._recipe(name, method) for name in self.names], _JOINT_RANK]
        place = work / f"{method}-{seed}-{config_hash(known)}"
        if (place / "measured.json").is_file():
            return read_json(place / "measured.json")
        found = self._joint(place, seed) if method == "joint" else self._one_by_one(place, method, seed)
        write_json(place / "measured.json", found)
        self.reporter.event("run", f"{method}, seed {seed}: {found}")
        return found

    def _recipe(self, name: str, method: str) -> Recipe:
        recipe = c_lora(class_noun(name), "toybox", token=f"<{name}>")
        if method != "c-lora":
            (phase,) = recipe.phases
            objective = dataclasses.replace(phase.objective, forgetting_weight=0.0)
            recipe = dataclasses.replace(recipe, phases=(dataclasses.replace(phase, objective=objective),))
        return recipe.with_steps(self.steps) if self.steps else recipe

    def _one_by_one(self, place: Path, method: str, seed: int) -> dict[str, list[float]]:
        book, first = Ledger(place / "ledger"), []
        for index, name in enumerate(self.names):
            seen = place / f"{name}.json"
            if index >= len(book.names):
                book.add(ROOT / "examples" / name, name=name, noun=class_noun(name), base=self.backbone, seed=seed,
                         recipe=self._recipe(name, method), reporter=self.reporter)  # fmt: skip
            if not seen.is_file():
                # Before the next one is learned, also when this call goes on after a kill.
                with book.applied(self.backbone):
                    write_json(seen, {"likeness": self._likeness(name, book.prompt, seed)})
            first.append(read_json(seen)["likeness"])
        with book.applied(self.backbone):
            last = [self._likeness(name, book.prompt, seed) for name in self.names]
        return {"first": first, "last": last, "update": [row.update for row in book.plasticity(self.backbone)]}

    def _joint(self, place: Path, seed: int) -> dict[str, list[float]]:
        recipes = {name: self._recipe(name, "joint") for name in self.names}
        config = LowRankConfig(method="lora", rank=_JOINT_RANK, targets=_targets(recipes[self.names[0]]))
        shared = build_adapter("keys_values", config)
        torch.manual_seed(seed)
        words = {name: build_adapter(f"word_{name}", recipe.adapters["word"]) for name, recipe in recipes.items()}
        with injected(self.backbone, *words.values(), shared):
            self._fit_joint(recipes, words, shared, place, seed)
            likeness = [
                self._likeness(name, lambda text, own=name: text.replace(f"{{{own}}}", f"<{own}>"), seed)
                for name in self.names
            ]
        return {"first": likeness, "last": likeness, "update": []}

    def _fit_joint(
        self, recipes: dict[str, Recipe], words: dict[str, AbstractAdapter], shared: AbstractAdapter, place: Path,
        seed: int,
    ) -> None:  # fmt: skip
        (phase,) = recipes[self.names[0]].phases
        latents, losses, groups = LatentCache(self.backbone), [], []
        for name, recipe in recipes.items():
            own = {"word": words[name], "keys_values": shared}
            parts = parameter_groups(recipe.phases[0], own)
            photos = find_photos(ROOT / "examples" / name)
            data = SubjectDataset(
                photos, recipe.concept, resolution=self.backbone.resolution, augmentation=recipe.augmentation
            )
            losses.append(PhaseLoss(recipe.phases[0], self.backbone, data, None, parts, latents))
            for part in parts:
                if part.name.startswith("word"):
                    groups.append(dataclasses.replace(part, name=f"{name} {part.name}"))
                elif name == self.names[0]:
                    groups.append(part)

        def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
            return losses[step % len(losses)](step, micro_step, generator)

        settings = dataclasses.replace(phase.fit, steps=phase.fit.steps * len(self.names), seed=seed)
        checkpoints = CheckpointFolder(place / "joint", config_hash=f"{self.backbone.fingerprint}-{seed}")
        with only_trainable(groups, [*words.values(), shared]):
            for state in fit(loss, groups, settings, checkpoints=checkpoints):
                self.reporter.progress("joint", state.step, state.total_steps, loss=state.losses["total"])

    def _likeness(self, name: str, prompt: Callable[[str], str], seed: int) -> float:
        """Mean cosine of painted pictures to true new views; the base has its subjects in it."""
        texts = [prompt(text.format(f"{{{name}}}")) for text in PROMPTS for _ in range(_IMAGES)]
        seeds = [1000 * seed + index for _ in PROMPTS for index in range(_IMAGES)]
        sampling = c_lora("toy", "toybox").sampling
        with torch.inference_mode():
            images = sample(self.backbone, texts, seeds=seeds, config=sampling)
            views = novel_views(name, _VIEWS, generator_for("continual", name), resolution=self.backbone.resolution)
            painted, true = self.encoder.encode_images(images), self.encoder.encode_images(views.images)
        return float((painted @ true.T).mean())


def _targets(recipe: Recipe) -> Any:
    adapter = recipe.adapters["keys_values"]
    assert isinstance(adapter, LowRankConfig)
    return adapter.targets


def result_rows(found: dict[str, list[dict[str, list[float]]]]) -> list[dict[str, Any]]:
    """Likeness at the end, likeness when new, and what was lost, by method; C-LoRA's baseline is `sequential`."""
    rows = []
    for method, runs in found.items():
        figures: dict[str, tuple[bool, list[float]]] = {
            "likeness at the end": (True, [statistics.fmean(run["last"]) for run in runs]),
            "likeness when new": (True, [statistics.fmean(run["first"]) for run in runs]),
        }
        if method != "joint":
            figures["forgetting"] = (False, [_lost(run) for run in runs])
            figures["last update to first"] = (True, [run["update"][-1] / run["update"][0] for run in runs])
        for metric, (higher, values) in figures.items():
            row = {"method": method, "metric": metric, "higher_is_better": higher, "value": statistics.fmean(values),
                   "spread": statistics.stdev(values) if len(values) > 1 else 0.0, "n": len(values), "baseline": None,
                   "baseline_value": None, "seconds": None}  # fmt: skip
            rows.append(row)
    plain = {row["metric"]: row["value"] for row in rows if row["method"] == "sequential"}
    for row in rows:
        if row["method"] == "c-lora":
            row |= {"system": "continual-diffusion", "baseline": "sequential", "baseline_value": plain[row["metric"]]}
    return rows


def _lost(run: dict[str, Sequence[float] | Any]) -> float:
    """Mean drop of likeness from when a subject was new to the end, over all but the last one."""
    drops = [first - last for first, last in zip(run["first"], run["last"], strict=True)]
    return statistics.fmean(drops[:-1])


if __name__ == "__main__":
    tyro.cli(main)
