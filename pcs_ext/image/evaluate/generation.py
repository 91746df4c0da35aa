"""Images of many prompts and seeds as PNG files; what is there already is not made again."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pcs_ext.config_io import read_json, to_jsonable, write_json
from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import fill
from pcs_ext.image.evaluate.stopwatch import Stopwatch, seconds_in
from pcs_ext.image.levels import to_pil
from pcs_ext.image.sample import SampleConfig, sample
from pcs_ext.image.subject import Artifact, GeneratedImage
from pcs_ext.reporter import Reporter

Paint = Callable[[Sequence[str], Sequence[int]], list[GeneratedImage]]
"""`(prompts, seeds) -> images`, prompts outermost."""

_FACTS, _TIME = "made_from.json", "time.json"
_NAME = re.compile(r"\d{2,3}--?\d+\.png")
"""Of an image: number of the prompt, seed."""
_IMAGES_AT_ONCE = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images on disk, prompts outermost, seeds within."""

    paths: tuple[Path, ...]
    seconds: float
    """Wall time that making them took, over all attempts."""


def make_images(
    folder: Path,
    prompts: Sequence[str],
    seeds: Sequence[int],
    paint: Paint,
    *,
    facts: dict[str, Any],
    task: str,
    reporter: Reporter,
) -> ImageSet:
    """Fill a folder with `PROMPT-SEED.png`.

    Args:
        folder: of these images alone.
        prompts: texts.
        seeds: one image of each prompt per seed.
        paint: makes images.
        facts: everything they depend on; where the folder was made from others, its images are made anew.
        task: for progress.
        reporter: hears progress in images.

    Raises:
        UsageError: the folder holds somebody's pictures that have such names.
    """
    facts = to_jsonable({**facts, "prompts": list(prompts), "seeds": list(seeds)})
    if not (folder / _FACTS).is_file() or read_json(folder / _FACTS) != facts:
        _make_room(folder)
        write_json(folder / _FACTS, facts)
    paths = {(p, s): folder / f"{p:02d}-{seed}.png" for p in range(len(prompts)) for s, seed in enumerate(seeds)}
    missing = [p for p in range(len(prompts)) if not all(paths[p, s].is_file() for s in range(len(seeds)))]
    watch, at_once = Stopwatch(folder / _TIME, reporter), max(1, _IMAGES_AT_ONCE // len(seeds))
    for first in range(0, len(missing), at_once):
        chunk = missing[first : first + at_once]
        images = iter(paint([prompts[p] for p in chunk], seeds))
        for p in chunk:
            for s in range(len(seeds)):
                next(images).save(paths[p, s])
        watch.save()
        done = len(prompts) - len(missing) + first + len(chunk)
        watch.progress(task, done * len(seeds), len(prompts) * len(seeds))
    return ImageSet(paths=tuple(paths.values()), seconds=seconds_in(folder / _TIME))


def _make_room(folder: Path) -> None:
    """Take away the images that were made from other facts.

    Raises:
        UsageError: images of such names lie there that were not made here.
    """
    old = [path for path in folder.glob("*.png") if _NAME.fullmatch(path.name)]
    if old and not (folder / _FACTS).is_file():
        raise UsageError(f"{folder} holds {old[0].name} and others that were not made here; choose another --output.")
    for path in (*old, folder / _TIME):
        path.unlink(missing_ok=True)


def paint_artifact(artifact: Artifact, backbone: AbstractBackbone) -> Paint:
    """Paint prompts with `{subject}` by a learned subject."""
    return lambda prompts, seeds: artifact.generate(prompts, seeds=seeds, base=backbone)


def paint_base(backbone: AbstractBackbone, config: SampleConfig, noun: str) -> Paint:
    """Paint by the plain base, a class noun in place of `{subject}`."""

    def paint(prompts: Sequence[str], seeds: Sequence[int]) -> list[GeneratedImage]:
        pairs = [(prompt, seed) for prompt in prompts for seed in seeds]
        texts = [fill(prompt, noun) if "{subject}" in prompt else prompt for prompt, _ in pairs]
        with torch.inference_mode():
            images = sample(backbone, texts, seeds=[seed for _, seed in pairs], config=config)
        facts = {"base": backbone.name, **dataclasses.asdict(config)}
        return [
            GeneratedImage(to_pil(image), prompt, {"seed": seed, **facts})
            for image, (prompt, seed) in zip(images, pairs, strict=True)
        ]

    return paint


def paint_beside(artifact: Artifact, backbone: AbstractBackbone) -> Paint:
    """Paint prompts that do not name the subject, with the subject's adapters in place: for drift."""
    plain = paint_base(backbone, artifact.sampling, noun="")

    def paint(prompts: Sequence[str], seeds: Sequence[int]) -> list[GeneratedImage]:
        with artifact.applied(backbone):
            return plain(prompts, seeds)

    return paint
