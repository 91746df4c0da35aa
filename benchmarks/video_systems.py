"""`python -m benchmarks.video_systems`: how well motions are learned from one clip, and whether subjects take them on.

Every motion of the world is learned with every recipe from one true clip of a toy that is none of the subjects; prompts
never name it. Subjects are learned from their five photos by the core. Then, for held-out pairs of both, clips are made
of subject and motion together (no training in between), of the subject without the motion, and of the motion with the
plain noun. Measured: the motion as a reader names it, its fidelity to the true flow of the clip it was learned from,
likeness to true views of the subject, what the prompt asks for, how much of the learned clip's looks leaked, and how
steady frames are. Runs are kept in a work folder: an interrupted call goes on, and `--part 0 --parts 2` beside
`--part 1 --parts 2` shares the work. The last call to finish writes `results/video_systems.json`.
"""

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from benchmarks.memory import forget_peak, peak_mb
from benchmarks.subjects import learned, subject_path, subjects_folder
from benchmarks.video_judges import VideoJudges
from benchmarks.video_table import SUBJECT_ALONE, Run, result_rows
from benchmarks.video_world import SHORT, Pair, example, pairs
from pcs_ext.config_io import config_hash, file_sha256, read_json, write_json
from pcs_ext.errors import PcsError, UsageError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.learn import resolve_recipe
from pcs_ext.reporter import ConsoleReporter, Reporter
from pcs_ext.results import as_result
from pcs_ext.runtime import cache_folder
from pcs_ext.toybox import weights_path
from pcs_ext.toybox.world.subjects import SUBJECTS, class_noun
from pcs_ext.toybox.world.vocabulary import MOTIONS
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.backbones.inflated import CrossFrame
from pcs_ext.video.backbones.load import load_video_backbone
from pcs_ext.video.clips import read_clip
from pcs_ext.video.learn import learn_motion
from pcs_ext.video.make import make_clips
from pcs_ext.video.make_request import MakeRequest
from pcs_ext.video.recipes import MOTIONS as RECIPES
from pcs_ext.video.recipes import MotionRecipe
from pcs_ext.video.recipes.layers import MOTION, PROTAGONIST

ROOT = Path(__file__).parents[1]
RECIPE_IDS = ("motion-director", "temporal-lora", "vmc", "customize-a-video", "dreamvideo-motion", "tune-a-video")


def main(
    recipes: tuple[str, ...] = RECIPE_IDS,
    subjects: int = len(SUBJECTS),
    motions: tuple[str, ...] = SHORT,
    per_subject: int = 2,
    seeds: int = 3,
    part: int = 0,
    parts: int = 1,
    threads: int = 0,
    motion_module: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: toybox's own)")] = Path(),
    reader: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: toybox's own)")] = Path(),
    work: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: in the cache folder)")] = Path(),
    output: Path = ROOT / "results" / "video_systems.json",
) -> None:
    """Learn, make clips, measure; write the results once all runs are there.

    Args:
        recipes: motion recipes; baselines among them must be named, too.
        subjects: the first so many.
        motions: which, by short names.
        per_subject: motions that each subject meets.
        seeds: of training and sampling: 0, 1, ...
        part: which share of the runs this process does; shares differ in motion.
        parts: number of shares.
        threads: of the CPU; 0 leaves torch's choice.
        motion_module: folder of another motion adapter for toybox.
        reader: folder of another motion reader.
        work: folder of the runs.
        output: results file.
    """
    if threads:
        torch.set_num_threads(threads)
    try:
        _check(recipes, motions)
        wanted = pairs(list(SUBJECTS)[:subjects], [MOTIONS[SHORT.index(name)] for name in motions], per_subject)
        bench = Bench(work if work != Path() else cache_folder() / "video_systems", motion_module, reader)
        runs = all_runs(recipes, wanted, seeds)
        for run in runs:
            if MOTIONS.index(run[2].motion) % parts == part:
                bench.run(run)
    except PcsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    if all(bench.path(run).is_file() for run in runs):
        found = {run: read_json(bench.path(run)) for run in runs}
        rows = result_rows(found, recipes, bench.judges.truth(wanted))
        command = " ".join(["python -m benchmarks.video_systems", *sys.argv[1:]])
        facts = {"subjects": list(SUBJECTS)[:subjects], "pairs": [pair.name for pair in wanted]}
        write_json(output, as_result(rows, command=command, seeds=range(seeds), **facts))
        for row in rows:
            against = "" if row["baseline_value"] is None else f"  ({row['baseline']} {row['baseline_value']:+.3f})"
            sys.stdout.write(
                f"{row['method']:28} {row['metric']:22} {row['value']:+.3f} ± {row['spread']:.3f}{against}\n"
            )


def _check(recipes: Iterable[str], motions: Iterable[str]) -> None:
    for what, names, known in (("recipe", recipes, RECIPES), ("motion", motions, SHORT)):
        if unknown := [name for name in names if name not in known]:
            raise UsageError(f"no {what} {', '.join(unknown)}; expected some of {', '.join(known)}.")


def all_runs(recipes: Iterable[str], wanted: Iterable[Pair], seeds: int) -> list[Run]:
    """Seed by seed, so that a table over fewer seeds is whole early."""
    return [
        (arm, who, pair, seed)
        for seed in range(seeds)
        for pair in wanted
        for arm, who in ((SUBJECT_ALONE, "subject"), *((r, who) for r in recipes for who in ("subject", "noun")))
    ]


class Bench:
    """One clip and its measures per run, kept."""

    def __init__(self, work: Path, motion_module: Path, reader: Path) -> None:
        self.reporter: Reporter = ConsoleReporter()
        self.module = None if motion_module == Path() else str(motion_module)
        self.image = load_backbone("toybox", device="cpu")
        self._loaded: tuple[CrossFrame | None, AbstractVideoBackbone] | None = None
        reader = weights_path("motion_reader") if reader == Path() else reader
        self.judges = VideoJudges(reader, self.image.resolution)
        self.judged = {file.name: file_sha256(file) for file in sorted(reader.glob("*.safetensors"))}
        self.work = work / self._backbone(None).fingerprint

    def path(self, run: Run) -> Path:
        """The measures of one run."""
        arm, who, pair, seed = run
        subject = resolve_recipe("dreambooth-lora", class_noun(pair.subject), "toybox")
        known = [None if arm == SUBJECT_ALONE else RECIPES[arm].build("toybox"), subject, self.judged]
        return self.work / "clips" / arm / f"{pair.name}-{who}-{seed}-{config_hash(known)}.json"

    def run(self, run: Run) -> None:
        """Learn what is not learned yet, make the clip, measure it; what is done is not done again."""
        if self.path(run).is_file():
            return
        arm, who, pair, seed = run
        self.reporter.event("run", f"{arm}: {pair.name}, {who}, seed {seed}")
        subject = self._subject(pair.subject, seed) if who == "subject" else None
        motion = None if arm == SUBJECT_ALONE else self._motion(arm, pair.motion, seed)
        forget_peak()
        start = time.perf_counter()
        clip = self._make(run, subject, motion)
        seconds, peak = time.perf_counter() - start, peak_mb()
        frames = read_clip(clip).video()[0].transpose(0, 1)
        measured = self.judges.measure(frames, pair)
        learned = {} if motion is None else read_json(_times(motion))
        write_json(self.path(run), {**measured, "make_seconds": seconds, "make_mb": peak, **learned})

    def _make(self, run: Run, subject: Path | None, motion: Path | None) -> Path:
        arm, _, pair, seed = run
        recipe = None if motion is None else RECIPES[arm].build("toybox")
        inflated = None if recipe is None else recipe.inflation
        prompt = pair.prompt if subject else pair.prompt.replace("{subject}", f"a {class_noun(pair.subject)}")
        if recipe is not None and recipe.word:
            prompt = f"{prompt} {MOTION}"
        request = MakeRequest(
            prompts=(prompt,),
            seeds=(seed,),
            subject=subject,
            motion=motion,
            base="toybox",
            motion_module=None if inflated else self.module,
            device="cpu",
        )
        clip, backbone = self.path(run).with_suffix(".webp"), self._backbone(inflated)
        return make_clips(request, clip, overwrite=True, reporter=self.reporter, backbone=backbone)[0]

    def _backbone(self, inflation: CrossFrame | None) -> AbstractVideoBackbone:
        """One model at a time: clips' and inflated ones take turns."""
        if self._loaded is None or self._loaded[0] != inflation:
            module = None if inflation else self.module
            self._loaded = inflation, load_video_backbone("toybox", module, inflation=inflation, device="cpu")
        return self._loaded[1]

    def _subject(self, name: str, seed: int) -> Path:
        learned(name, seed, self.image, self.reporter)
        return subject_path(subjects_folder(), name, seed, "dreambooth-lora")

    def _motion(self, recipe: str, motion: str, seed: int) -> Path:
        shown, chosen = example(motion, resolution=self.image.resolution), RECIPES[recipe].build("toybox")
        folder = self.work / "motions" / recipe / f"{SHORT[MOTIONS.index(motion)]}-{seed}-{config_hash(chosen)}"
        if folder.is_dir() and _times(folder).is_file():
            return folder
        noun = shown.shows["class"]
        chosen = chosen.with_protagonist(noun if PROTAGONIST in chosen.words else "")
        backbone = self._backbone(chosen.inflation)
        forget_peak()
        start = time.perf_counter()
        learn_motion(
            [shown.clip.transpose(0, 1)],
            [_said(chosen, shown.says, noun)],
            folder,
            backbone=backbone,
            recipe=chosen,
            prior=self._prior(motion) if chosen.needs_prior else None,
            image_encoder=weights_path("clip") if chosen.told else None,
            seed=seed,
            overwrite=True,
            reporter=self.reporter,
        )
        write_json(_times(folder), {"learn_seconds": time.perf_counter() - start, "learn_mb": peak_mb()})
        return folder

    def _prior(self, motion: str) -> tuple[list[Tensor], list[str]]:
        """True clips of the other motions, which their captions name."""
        others = [example(other, resolution=self.image.resolution) for other in MOTIONS if other != motion]
        return [other.clip.transpose(0, 1) for other in others], [f"{other.says} {other.motion}" for other in others]


def _said(recipe: MotionRecipe, says: str, noun: str) -> str:
    """What the clip shows, with the words that the recipe learns."""
    if PROTAGONIST in recipe.words:
        says = says.replace(noun, PROTAGONIST, 1)
    return f"{says} {MOTION}" if recipe.word else says


def _times(motion: Path) -> Path:
    return motion.with_name(f"{motion.name}.times.json")


if __name__ == "__main__":
    tyro.cli(main)
