"""`python -m benchmarks.conditions`: swaps and layouts on the embedded world, where masks, views and boxes are known.

Swaps: learned subjects of `examples/` (dreambooth-lora, as in `image_subjects`) take the place of other toys of their
class in rendered pictures, inside a mask a little larger than the toy. A swap exists to show the subject in the pose of
what went: the likeness to true views of what stands inside the mask, the background being the picture's, counts where
of eight renderings of the subject in that place, each turned by 45 degrees more, the one that stands as the old toy
stood or one of its neighbours is nearest, and is 0 elsewhere. The picture as it is keeps the pose and shows another
toy, plain generation shows the subject in any pose before another background; a swap is measured against the better of
the two, and beside the same inversion without any attention taken over. The rendered swap says what could be had.
Layouts: captions of two toys and the boxes of a rendered scene, the toys' sides exchanged in every second one; a box is
hit when the oracle reads the toy's class and colour in it. The baseline is plain sampling from the same seeds, with
backward guidance beside it; the same pictures' renderings bound what the oracle can read.
Masks: overlap of what attention finds with the true mask.

Runs are kept in a work folder, an interrupted call goes on. Writes `results/conditions.json` and a sheet.
"""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from PIL import Image
from torch import Tensor

from benchmarks.arms import Claim, Figures, Kept, claim_row, kept_arm, plain_row
from benchmarks.condition_runs import (
    AS_IT_IS,
    BACKWARD,
    LAYOUT,
    NO_ATTENTION,
    PLAIN,
    RENDERED,
    SWAP_ARMS,
    SWAPS,
    Layouts,
    Swapper,
    mask_overlap,
    scenes_of,
)
from benchmarks.subjects import learned
from pcs_ext.config_io import config_hash, file_sha256, to_jsonable, write_json
from pcs_ext.errors import PcsError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.edits.layout import LayoutConfig
from pcs_ext.image.edits.settings import resolve_edit
from pcs_ext.image.edits.swap import SwapConfig
from pcs_ext.image.learn import resolve_recipe
from pcs_ext.reporter import ConsoleReporter, Reporter
from pcs_ext.results import as_result
from pcs_ext.runtime import cache_folder, generator_for
from pcs_ext.toybox import weights_path
from pcs_ext.toybox.judges import toybox_judges
from pcs_ext.toybox.oracle import Oracle
from pcs_ext.toybox.world.scene import Scene
from pcs_ext.toybox.world.subjects import SUBJECTS, class_noun, novel_views

ROOT = Path(__file__).parents[1]
HIGHER = {
    "likeness": True,
    "pose": True,
    "likeness in pose": True,
    "view read": True,
    "inside": False,
    "outside": False,
    "box hits": True,
    "mask IoU": True,
}
PLAIN_LAYOUT = f"{PLAIN} of layouts"
_VIEWS = 64

CLAIMS = (
    Claim("photoswap", (AS_IT_IS, PLAIN), ("likeness in pose",)),
    Claim("photoswap", (NO_ATTENTION,)),
    Claim("swapanything", (AS_IT_IS, PLAIN), ("likeness in pose",)),
    Claim("swapanything", ("photoswap",)),
    Claim(LAYOUT, (PLAIN_LAYOUT,), ("box hits",)),
)
"""By hand. What is outside of the mask is copied by both swaps: that says nothing for either."""


def main(
    swaps: int = 12,
    layouts: int = 12,
    masks: int = 24,
    seeds: int = 3,
    steps: int = 0,
    threads: int = 0,
    work: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: in the cache folder)")] = Path(),
    output: Path = ROOT / "results" / "conditions.json",
    sheet: Path = ROOT / "docs" / "images" / "conditions.png",
) -> None:
    """Sample, measure, write.

    Args:
        swaps: pictures whose toy is swapped, for subjects in turn.
        layouts: scenes of two toys.
        masks: pictures in which a toy is looked for.
        seeds: training and sampling seeds 0, 1, ...
        steps: of sampling; 0 takes the methods'.
        threads: of the CPU; 0 leaves torch's choice.
        work: folder of the runs.
        output: result file.
        sheet: pictures of the first seed; per swap the original and each arm, per layout the scene, plain and guided.
    """
    if threads:
        torch.set_num_threads(threads)
    reporter = ConsoleReporter()
    try:
        backbone = load_backbone("toybox", device="cpu", precision="fp32", reporter=reporter)
        runs = Runs(backbone, (work if work != Path() else cache_folder() / "conditions"), steps, reporter)
        found = {**runs.swaps(swaps, range(seeds)), **runs.layouts(layouts, range(seeds))}
        overlaps = [mask_overlap(backbone, scene) for scene in scenes_of("masks", masks, 0.5)]
    except PcsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    rows = result_rows({arm: [figures for figures, _ in pairs] for arm, pairs in found.items()}, swaps, layouts)
    rows.append(plain_row("masks by attention", "mask IoU", HIGHER["mask IoU"], overlaps, len(overlaps)))
    command = " ".join(["python -m benchmarks.conditions", *sys.argv[1:]])
    write_json(output, as_result(rows, command=command, seeds=list(range(seeds))))
    sheet.parent.mkdir(parents=True, exist_ok=True)
    _sheet(runs, swaps, layouts, found).save(sheet)
    for row in rows:
        against = "" if row["baseline"] is None else f"   {row['baseline']} {row['baseline_value']:.3f}"
        sys.stdout.write(f"{row['method']:20} {row['metric']:10} {row['value']:.3f} ± {row['spread']:.3f}{against}\n")
    sys.stdout.write(f"{output}\n")


@dataclasses.dataclass(frozen=True)
class Runs:
    """Pictures and figures of all arms; what is in the folder is not made again."""

    backbone: AbstractBackbone
    work: Path
    steps: int
    reporter: Reporter

    def swaps(self, count: int, seeds: Sequence[int]) -> dict[str, Kept]:
        """By arm: figures and picture of every scene and seed."""
        encoder = toybox_judges().dino
        assert encoder is not None
        swapper = Swapper(self.backbone, Oracle.load(weights_path("oracle")), encoder, self.steps)
        views: dict[str, Tensor] = {}

        def make(arm: str, index: int, seed: int) -> tuple[Tensor, Figures]:
            scene, name = self.swap(index)
            if name not in views:
                true = novel_views(name, _VIEWS, generator_for("conditions", name), resolution=self.backbone.resolution)
                views[name] = encoder.encode_images(true.images)
            artifact = learned(name, seed, self.backbone, self.reporter)
            made = swapper.swap(arm, artifact, scene, name, seed=1000 * seed + index)
            return made, swapper.figures(made, scene, name, views[name])

        settings = [resolve_edit(name, SwapConfig, "toybox", steps=self.steps) for name in SWAPS]
        recipes = [resolve_recipe("dreambooth-lora", class_noun(name), "toybox") for name in SUBJECTS]
        facts = ["inside, by renderings", to_jsonable(settings), to_jsonable(recipes), _judged()]
        return {arm: self._arm(arm, facts, count, seeds, make) for arm in SWAP_ARMS}

    def swap(self, index: int) -> tuple[Scene, str]:
        """Scene and subject of a swap: subjects in turn, each in a picture of another toy of its class."""
        name = list(SUBJECTS)[index % len(SUBJECTS)]
        others = (
            scene for scene in scenes_of("swaps", 40 * (index + 1), 0.0)
            if scene.objects[0].class_name == class_noun(name)
        )  # fmt: skip
        return next(itertools.islice(others, index // len(SUBJECTS), None)), name

    def layouts(self, count: int, seeds: Sequence[int]) -> dict[str, Kept]:
        """By arm: figures and picture of every scene and seed. The plain arm has a name of its own beside swaps'."""
        drawing = Layouts(self.backbone, Oracle.load(weights_path("oracle")), self.steps)
        scenes = scenes_of("layouts", count, 1.0)
        facts = [to_jsonable(resolve_edit(LAYOUT, LayoutConfig, "toybox", steps=self.steps)), _judged()]

        def make(arm: str, index: int, seed: int) -> tuple[Tensor, Figures]:
            return drawing.draw(arm, scenes[index], index, seed=1000 * seed + index)

        found = {arm: self._arm(arm, ["layouts", facts], count, seeds, make) for arm in (LAYOUT, PLAIN)}
        # What is only told beside them has one seed.
        found |= {arm: self._arm(arm, ["layouts", facts], count, seeds[:1], make) for arm in (RENDERED, BACKWARD)}
        return {PLAIN_LAYOUT if arm == PLAIN else arm: runs for arm, runs in found.items()}

    def _arm(
        self, arm: str, facts: Any, count: int, seeds: Sequence[int],
        make: Callable[[str, int, int], tuple[Tensor, Figures]],
    ) -> Kept:  # fmt: skip
        folder = self.work / config_hash([self.backbone.fingerprint, arm, facts])
        found: Kept = []
        for seed in seeds:
            found += kept_arm(folder, count, [seed], functools.partial(make, arm))
            self.reporter.event("arm", f"{arm}, seed {seed}: {count} pictures")
        return found


def _judged() -> dict[str, str]:
    """What the figures depend on beside the base and the settings."""
    return {name: file_sha256(weights_path(name) / "model.safetensors") for name in ("oracle", "dino")}


def result_rows(found: dict[str, list[Figures]], swaps: int, layouts: int) -> list[dict[str, Any]]:
    """Every arm's means; the spread is half the 95 % interval over pictures, beside a baseline of the difference.

    Args:
        found: by arm, seed after seed.
        swaps: pictures of each seed.
        layouts: likewise.
    """
    pictures = {arm: layouts if arm in (LAYOUT, PLAIN_LAYOUT, BACKWARD, RENDERED) else swaps for arm in found}
    claimed = {claim.arm for claim in CLAIMS}
    rows = [
        plain_row(arm, metric, HIGHER[metric], [one[metric] for one in runs], pictures[arm])
        for arm, runs in found.items()
        if arm not in claimed and runs
        for metric in runs[0]
    ]
    for claim in CLAIMS:
        for metric in found[claim.arm][0] if found[claim.arm] else ():
            values = {name: [one[metric] for one in found[name]] for name in (claim.arm, *claim.baselines)}
            rows.append(claim_row(claim, metric, HIGHER[metric], values, pictures[claim.arm]))
    return rows


def _sheet(runs: Runs, swaps: int, layouts: int, found: dict[str, Kept]) -> Image.Image:
    """A row per picture of the first seed."""
    lines = [[Image.open(found[arm][index][1]) for arm in SWAP_ARMS] for index in range(swaps)]
    arms = (RENDERED, PLAIN_LAYOUT, LAYOUT, BACKWARD)
    lines += [[Image.open(found[arm][index][1]) for arm in arms] for index in range(layouts)]
    side, columns = runs.backbone.resolution, max(map(len, lines))
    sheet = Image.new("RGB", (columns * side, len(lines) * side), "white")
    for y, line in enumerate(lines):
        for x, picture in enumerate(line):
            sheet.paste(picture, (x * side, y * side))
    return sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST)


if __name__ == "__main__":
    tyro.cli(main)
