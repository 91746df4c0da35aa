"""`python -m benchmarks.image_subjects`: how faithful every recipe is, over the held-out subjects and several seeds.

Each subject of `examples/` is learned from its five photos with every recipe and seed, asked for the toybox prompts
with the same seed, and measured against the photos, against true new views, and against what the plain class word
gives. Runs are kept in a work folder: an interrupted call goes on, and `--part 0 --parts 2` beside `--part 1 --parts 2`
shares the work between two processes. The last call to finish writes `results/image_subjects.json` and its plot.
"""

import sys
from pathlib import Path
from typing import Annotated

import torch
import tyro

from benchmarks.subjects import EXAMPLES, learned, subject_path, subjects_folder
from pcs_ext.config_io import atomic_write_text, read_json, write_json
from pcs_ext.demo.plots import standalone_scatter
from pcs_ext.demo.sheet import write_rows
from pcs_ext.demo.standing import standing_of_rows
from pcs_ext.errors import PcsError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.data import find_photos, photo_paths
from pcs_ext.image.evaluate import (
    CLASS_WORD,
    UNRELATED_PROMPTS,
    Judges,
    Report,
    Truth,
    evaluate_artifact,
    prompt_set,
    result_rows,
    results_table,
)
from pcs_ext.image.learn_once import learn_seconds
from pcs_ext.image.recipes import RECIPES
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import ConsoleReporter, Reporter
from pcs_ext.results import as_result
from pcs_ext.runtime import generator_for
from pcs_ext.toybox.judges import toybox_judges
from pcs_ext.toybox.world.subjects import SUBJECTS, novel_views
from pcs_ext.toybox.world.subjects import subject as toy_named

ROOT = Path(__file__).parents[1]
RECIPE_IDS = ("dreambooth-lora", "textual-inversion", "custom-diffusion", "dreambooth")
SHOWN = ("dino-i-truth", "clip-i-truth", "clip-t", "attributes", "attributes/context", "attributes/accessory", "drift")
SHEET = ("on the beach", "in the snow", "on the grass", "in the city", "wearing a red hat", "wearing a crown",
         "a blue scarf", "side view")  # fmt: skip
"""How the prompts of the sheet end."""
_TRUE_VIEWS = 64


def main(
    recipes: tuple[str, ...] = RECIPE_IDS,
    subjects: int = len(SUBJECTS),
    seeds: int = 3,
    part: int = 0,
    parts: int = 1,
    threads: int = 0,
    work: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: in the cache folder)")] = Path(),
    output: Path = ROOT / "results" / "image_subjects.json",
    plot: Path = ROOT / "docs" / "images" / "image_subjects.svg",
    sheet: Path = ROOT / "docs" / "images" / "image_subjects.jpg",
) -> None:
    """Measure and write the results once all runs are there.

    Args:
        recipes: which.
        subjects: the first so many.
        seeds: training and sampling seeds 0, 1, ...
        part: which share of the runs this process does.
        parts: number of shares.
        threads: of the CPU; 0 leaves torch's choice.
        work: folder of the runs.
        output: results file.
        plot: SVG of fidelity against editability.
        sheet: picture with a row per subject: two photos and what the first recipe made of `SHEET`, the first seed's.
    """
    if threads:
        torch.set_num_threads(threads)
    work = work if work != Path() else subjects_folder()
    runs = [(name, seed, recipe) for seed in range(seeds) for name in list(SUBJECTS)[:subjects] for recipe in recipes]
    reporter = ConsoleReporter()
    try:
        backbone, judges = load_backbone("toybox", reporter=reporter), toybox_judges()
        for index, (name, seed, recipe) in enumerate(runs):
            # Shares differ in subject, so that the class word's images of a subject have one writer.
            if list(SUBJECTS).index(name) % parts == part:
                learn_and_measure(work, name, seed, recipe, backbone, judges, reporter)
                reporter.event("run", f"{index + 1} of {len(runs)}: {name}, seed {seed}, {recipe}")
    except PcsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    if all(recipe_seconds(work, *run, backbone.fingerprint) is not None for run in runs):
        _write(work, runs, output, plot, backbone.fingerprint)
        _write_sheet(work, runs, sheet)


def _folder(work: Path, name: str, seed: int) -> Path:
    return work / f"{name}-{seed}"


def recipe_seconds(work: Path, name: str, seed: int, recipe: str, fingerprint: str) -> float | None:
    """What learning took in a finished run on the base with this fingerprint; None: it is not finished."""
    path = _folder(work, name, seed) / "times" / f"{recipe}.json"
    known = read_json(path) if path.is_file() else {}
    return known["seconds"] if known.get("base") == fingerprint else None


def recipe_report(work: Path, name: str, seed: int, recipe: str) -> Report:
    """Figures of a finished run; those of the class word are there beside the first recipe's."""
    return Report.load(_folder(work, name, seed) / "reports" / f"{recipe}.json")


def learn_and_measure(
    work: Path, name: str, seed: int, recipe: str, backbone: AbstractBackbone, judges: Judges, reporter: Reporter
) -> None:
    """Learn a subject of `examples/`, generate, measure, below `work`; a finished run of the same recipe, prompts and
    judges is not done again."""
    folder, photos = _folder(work, name, seed), EXAMPLES / name
    artifact = learned(name, seed, backbone, reporter, recipe=recipe, work=work)
    finished = recipe_seconds(work, name, seed, recipe, backbone.fingerprint) is not None
    if finished and _is_of(folder, recipe, artifact, judges):
        return
    (folder / "times" / f"{recipe}.json").unlink(missing_ok=True)
    evaluate_artifact(
        artifact,
        [photo.path for photo in find_photos(photos)],
        folder,
        name=recipe,
        subject=name,
        prompts=prompt_set("toybox"),
        unrelated=UNRELATED_PROMPTS["toybox"],
        seeds=[seed],
        judges=judges,
        backbone=backbone,
        truth=truth_of(name, backbone.resolution),
        reporter=reporter,
    )
    seconds = learn_seconds(subject_path(work, name, seed, recipe))
    write_json(folder / "times" / f"{recipe}.json", {"seconds": seconds, "base": backbone.fingerprint})


def _is_of(folder: Path, recipe: str, artifact: Artifact, judges: Judges) -> bool:
    """Whether a report was read by these judges off pictures that this subject made of today's prompts."""
    report = Report.load(folder / "reports" / f"{recipe}.json")
    made_from = read_json(folder / "images" / recipe / "made_from.json")
    read_by = {figure.encoder for figure in report.figures.values()}
    return (
        made_from["artifact"] == artifact.data.content_hash
        and report.prompts == tuple(prompt.text for prompt in prompt_set("toybox"))
        and read_by <= {judge.id for judge in (judges.clip, judges.dino, judges.attributes) if judge is not None}
    )


def truth_of(name: str, resolution: int) -> Truth:
    """New views of a subject, and what the oracle should read of it."""
    views = novel_views(name, _TRUE_VIEWS, generator_for("image subjects", name), resolution=resolution)
    toy = toy_named(name)
    return Truth(views=views.images, attributes={"class": toy.class_name, "pattern": toy.pattern})


def _write(work: Path, runs: list[tuple[str, int, str]], output: Path, plot: Path, fingerprint: str) -> None:
    recipes = list(dict.fromkeys(recipe for _, _, recipe in runs))
    pairs = list(dict.fromkeys((name, seed) for name, seed, _ in runs))

    def reports(recipe: str) -> list[Report]:
        return [recipe_report(work, name, seed, recipe) for name, seed in pairs]

    plain = reports(CLASS_WORD)
    rows = result_rows(plain)
    for recipe in recipes:
        times = [recipe_seconds(work, name, seed, recipe, fingerprint) or 0.0 for name, seed in pairs]
        mean = sum(times) / len(times)
        rows += result_rows(reports(recipe), system=RECIPES[recipe].system, baseline=plain, seconds=round(mean, 1))
    seeds = sorted({seed for _, seed in pairs})
    command = f"python -m benchmarks.image_subjects --recipes {' '.join(recipes)} --seeds {len(seeds)}"
    write_json(output, as_result(rows, command=command, seeds=seeds, subjects=sorted({name for name, _ in pairs})))
    place = standing_of_rows(rows)
    atomic_write_text(plot, standalone_scatter(place.points, place.ceiling))
    sys.stdout.write(results_table(rows, SHOWN) + f"\n{output}\n{plot}\n")


def _write_sheet(work: Path, runs: list[tuple[str, int, str]], path: Path) -> None:
    _, seed, recipe = runs[0]
    numbers = [index for index, prompt in enumerate(prompt_set("toybox")) if prompt.text.endswith(SHEET)]
    rows = []
    for name in dict.fromkeys(name for name, _, _ in runs):
        made = _folder(work, name, seed) / "images" / recipe
        rows.append((photo_paths(EXAMPLES / name)[:2], [made / f"{index:02d}-{seed}.png" for index in numbers]))
    write_rows(rows, path)


if __name__ == "__main__":
    tyro.cli(main)
