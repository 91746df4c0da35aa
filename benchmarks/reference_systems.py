"""`python -m benchmarks.reference_systems [ADAPTER ...]`: what photos beside a prompt give, without learning.

The held-out subjects of `examples/`, the toybox prompts with the class word in them, three seeds: each adapter shown
one photo, and shown all five, against the class word alone. Adapters are folders that `pcs-ext reference learn` wrote,
of any system; without any it is the one that ships. Likeness is to true new views, as in `image_subjects`, whose
figures of dreambooth-lora are printed beside these where they are committed.

Some adapters read pictures with the encoder that measures dino-i, others with the one of clip-i. The oracle's readings
(`subject`: class and pattern) are a judge that none ever met; believe a gain where it sees it, too.

Images are kept in a work folder; an interrupted call goes on.
"""

import dataclasses
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import tyro

from benchmarks.image_subjects import SHOWN, truth_of
from pcs_ext.config_io import file_sha256, to_jsonable, write_json
from pcs_ext.errors import PcsError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.concept import fill
from pcs_ext.image.data import photo_paths
from pcs_ext.image.evaluate import CLASS_WORD, Judges, Report, evaluate_images, prompt_set, result_rows, results_table
from pcs_ext.image.evaluate.generation import Paint, make_images, paint_base
from pcs_ext.image.evaluate.pictures import square_images
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.reference import REFERENCES
from pcs_ext.image.reference.files import read_settings, weights_digest
from pcs_ext.image.reference.reference import generate
from pcs_ext.image.subject import GeneratedImage
from pcs_ext.reporter import ConsoleReporter, Reporter
from pcs_ext.results import as_result, read_results
from pcs_ext.runtime import cache_folder
from pcs_ext.toybox import weights_path
from pcs_ext.toybox.judges import toybox_judges
from pcs_ext.toybox.world.subjects import SUBJECTS, class_noun

ROOT = Path(__file__).parents[1]
PHOTOS = (1, 5)
"""How many are shown."""
_COLUMNS = (*SHOWN, "subject")


def main(
    adapters: tyro.conf.Positional[tuple[Path, ...]] = (),
    subjects: int = len(SUBJECTS),
    seeds: int = 3,
    scale: float = 1.0,
    threads: int = 0,
    work: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: in the cache folder)")] = Path(),
    output: Path = ROOT / "results" / "reference_systems.json",
) -> None:
    """Generate, measure, write.

    Args:
        adapters: folders written by `pcs-ext reference learn --base toybox`; none: the one that ships.
        subjects: the first so many.
        seeds: sampling seeds 0, 1, ...
        scale: strength of the photos.
        threads: of the CPU; 0 leaves torch's choice.
        work: folder of the images.
        output: results file.
    """
    if threads:
        torch.set_num_threads(threads)
    work = work if work != Path() else cache_folder() / "reference_systems"
    reporter, names = ConsoleReporter(), list(SUBJECTS)[:subjects]
    try:
        methods = [method for folder in adapters or (weights_path("reference"),) for method in _methods(folder)]
        backbone, judges = load_backbone("toybox", reporter=reporter), toybox_judges()
        shown = _Shown(backbone, judges, range(seeds), scale, reporter)
        measured = {method: [shown.report(work, name, method) for name in names] for method in (None, *methods)}
    except PcsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    plain = [report for report, _ in measured[None]]
    rows = []
    for method, found in measured.items():
        seconds = round(statistics.fmean(seconds for _, seconds in found), 2)
        against, system = ((), "") if method is None else (plain, REFERENCES[method.kind].system)
        rows += result_rows([report for report, _ in found], system=system, baseline=against, seconds=seconds)
    command = " ".join(["python -m benchmarks.reference_systems", *sys.argv[1:]])
    write_json(output, as_result(rows, command=command, seeds=list(range(seeds)), subjects=names, scale=scale))
    sys.stdout.write(results_table([*rows, *_learned()], _COLUMNS) + f"\n{output}\n")


@dataclasses.dataclass(frozen=True)
class _Method:
    """An adapter and how many photos it is shown."""

    kind: str
    folder: Path
    photos: int

    @property
    def name(self) -> str:
        """As in results: `photomaker`, `photomaker-5`."""
        return self.kind if self.photos == 1 else f"{self.kind}-{self.photos}"


def _methods(folder: Path) -> list[_Method]:
    return [_Method(read_settings(folder).kind, folder, count) for count in PHOTOS]


def _learned() -> list[dict]:
    """dreambooth-lora's rows over the same subjects and prompts, if they are committed."""
    path = ROOT / "results" / "image_subjects.json"
    rows = read_results(path)["rows"] if path.is_file() else []
    return [row for row in rows if row.get("recipe") == "dreambooth-lora"]


@dataclasses.dataclass(frozen=True)
class _Shown:
    """All that does not change from subject to subject."""

    backbone: AbstractBackbone
    judges: Judges
    seeds: range
    scale: float
    reporter: Reporter

    def report(self, work: Path, name: str, method: _Method | None) -> tuple[Report, float]:
        """Figures of one subject by an adapter, or by its class word alone, and seconds per image."""
        photos, prompts = photo_paths(ROOT / "examples" / name), prompt_set("toybox")
        noun, config = class_noun(name), SAMPLING["toybox"]
        facts = {"base": self.backbone.fingerprint, "sampling": to_jsonable(config), "noun": noun}
        paint, called = paint_base(self.backbone, config, noun), CLASS_WORD
        if method is not None:
            given, called = photos[: method.photos], method.name
            paint = self._paint(given, noun, method)
            shown = [file_sha256(path) for path in given]
            facts |= {"photos": shown, "scale": self.scale, "adapter": weights_digest(method.folder)}
        made = make_images(
            work / name / called, [prompt.text for prompt in prompts], self.seeds, paint, facts=facts,
            task=f"{name} {called}", reporter=self.reporter,
        )  # fmt: skip
        side = self.backbone.resolution
        report = evaluate_images(
            square_images(made.paths, side), square_images(photos, side), noun=noun, prompts=prompts, seeds=self.seeds,
            judges=self.judges, recipe=called, subject=name, truth=truth_of(name, side),
        )  # fmt: skip
        return report, made.seconds / len(made.paths)

    def _paint(self, photos: Sequence[Path], noun: str, method: _Method) -> Paint:
        def paint(prompts: Sequence[str], seeds: Sequence[int]) -> list[GeneratedImage]:
            texts = [fill(prompt, noun) for prompt in prompts]
            return generate(
                texts, photos, seeds=seeds, base=self.backbone, scale=self.scale, adapter=str(method.folder),
                nouns=(noun,),
            )  # fmt: skip

        return paint


if __name__ == "__main__":
    tyro.cli(main)
