"""`python -m benchmarks.token_classes`: do learned words tell their subjects apart (MC-TI, arXiv 2410.22317)?

The twelve held-out subjects are learned as words from their five photos, by textual inversion and by MC-TI, which adds
a classification loss against the other subjects' photos. The words then classify true new views of all of them, and
every word paints its subject: accuracy must not be bought with likeness. Writes `results/token_classes.json`.
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from benchmarks.subjects import learned
from pcs_ext.config_io import config_hash, read_json, write_json
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.classes import clip_for
from pcs_ext.image.classify import TokenClassifier, accuracy
from pcs_ext.image.contrast import Rivals
from pcs_ext.image.data import Photo, find_photos
from pcs_ext.image.learn import learn, resolve_recipe
from pcs_ext.image.sample import sample
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import ConsoleReporter, Reporter
from pcs_ext.results import as_result
from pcs_ext.runtime import cache_folder, generator_for
from pcs_ext.toybox.judges import toybox_judges
from pcs_ext.toybox.world.subjects import SUBJECTS, class_noun, novel_views

ROOT = Path(__file__).parents[1]
RECIPES = ("textual-inversion", "mc-ti")
_VIEWS = 24
"""True new views of every subject, to be classified and to be compared with."""
_PAINTED = 4


def main(
    subjects: int = len(SUBJECTS),
    seeds: int = 3,
    steps: int = 0,
    threads: int = 0,
    work: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: in the cache folder)")] = Path(),
    output: Path = ROOT / "results" / "token_classes.json",
) -> None:
    """Learn, classify, paint, write. Finished words and runs are kept; an interrupted call goes on.

    Args:
        subjects: the first so many.
        seeds: training seeds 0, 1, ...
        steps: per word; 0 takes the recipe's.
        threads: of the CPU; 0 leaves torch's choice.
        work: folder of the runs.
        output: results file.
    """
    if threads:
        torch.set_num_threads(threads)
    backbone, names = load_backbone("toybox", device="cpu"), tuple(SUBJECTS)[:subjects]
    work = (work if work != Path() else cache_folder() / "token_classes") / backbone.fingerprint
    reporter = ConsoleReporter()
    views = {name: _views(name, backbone.resolution) for name in names}
    places = {recipe: work / f"{recipe}-{_key(recipe, names, steps)}" for recipe in RECIPES}
    found = {
        recipe: [_measured(place / str(seed), recipe, seed, steps, backbone, views, reporter) for seed in range(seeds)]
        for recipe, place in places.items()
    }  # fmt: skip
    rows = result_rows(found)
    command = " ".join(["python -m benchmarks.token_classes", *sys.argv[1:]])
    write_json(output, as_result(rows, command=command, seeds=range(seeds), subjects=list(names)))
    for row in rows:
        sys.stdout.write(f"{row['method']:18} {row['metric']:10} {row['value']:.3f} ± {row['spread']:.3f}\n")


def _key(recipe: str, names: Sequence[str], steps: int) -> str:
    """Of all that decides what is measured."""
    recipes = [resolve_recipe(recipe, class_noun(name), "toybox") for name in names]
    return config_hash([[one.with_steps(steps) if steps else one for one in recipes], names])


def _views(name: str, resolution: int) -> list[Photo]:
    pictures = novel_views(name, _VIEWS, generator_for("token classes", name), resolution=resolution).images
    return [Photo(Path(f"{name}-{index}.png"), picture) for index, picture in enumerate(pictures)]


def _measured(
    place: Path, recipe: str, seed: int, steps: int, backbone: AbstractBackbone, views: dict[str, list[Photo]],
    reporter: Reporter,
) -> dict[str, float]:  # fmt: skip
    """Share of the views that the words classify right, and the mean likeness of what they paint."""
    if (place / "measured.json").is_file():
        return read_json(place / "measured.json")
    clip, photos = clip_for("toybox"), {name: find_photos(ROOT / "examples" / name) for name in views}
    words: dict[str, Artifact] = {}
    for name in views:
        if recipe == "textual-inversion" and not steps:
            words[name] = learned(name, seed, backbone, reporter, recipe=recipe)
            continue
        rivals = Rivals(clip, [others for other, others in photos.items() if other != name])
        words[name] = Artifact.load(place / name) if (place / name).is_dir() else learn(
            photos[name], noun=class_noun(name), output=place / name, recipe=recipe, base=backbone, seed=seed,
            steps=steps or None, rivals=rivals if recipe == "mc-ti" else None, reporter=reporter,
        )  # fmt: skip
    right = accuracy(TokenClassifier.of(words, backbone, clip).confusion(views))
    likeness = statistics.fmean(_likeness(words[name], backbone, group, seed) for name, group in views.items())
    found = {"accuracy": right, "likeness": likeness}
    write_json(place / "measured.json", found)
    reporter.event("run", f"{recipe}, seed {seed}: {found}")
    return found


def _likeness(word: Artifact, backbone: AbstractBackbone, views: list[Photo], seed: int) -> float:
    """Mean cosine of painted pictures to true views."""
    encoder = toybox_judges().dino
    assert encoder is not None
    seeds = [1000 * seed + index for index in range(_PAINTED)]
    with word.applied(backbone), torch.inference_mode():
        texts = [word.concept.prompt("a photo of {subject}")] * _PAINTED
        painted = encoder.encode_images(sample(backbone, texts, seeds=seeds, config=word.sampling))
        true = encoder.encode_images(torch.stack([view.image for view in views]))
    return float((painted @ true.T).mean())


def result_rows(found: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Mean and spread over seeds; the baseline of MC-TI is textual inversion."""
    rows = []
    for recipe, runs in found.items():
        for metric in ("accuracy", "likeness"):
            values = [run[metric] for run in runs]
            row = {"method": recipe, "metric": metric, "higher_is_better": True, "value": statistics.fmean(values),
                   "spread": statistics.stdev(values) if len(values) > 1 else 0.0, "n": len(values), "baseline": None,
                   "baseline_value": None, "seconds": None}  # fmt: skip
            if recipe == "mc-ti":
                plain = statistics.fmean(run[metric] for run in found["textual-inversion"])
                row |= {"system": "mc-ti", "baseline": "textual-inversion", "baseline_value": plain}
            rows.append(row)
    return rows


if __name__ == "__main__":
    tyro.cli(main)
