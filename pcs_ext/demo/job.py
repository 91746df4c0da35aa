"""The demonstration from photos to page. Every part is kept as it is finished; running it again goes on from there."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from pcs_ext.config_io import atomic_write_bytes, read_json, to_jsonable, write_json
from pcs_ext.demo.data import DemoData, ShownPrompt, ShownSystem
from pcs_ext.demo.drawing import drawing_recipe, make_drawing
from pcs_ext.demo.object import METHOD, make_object
from pcs_ext.demo.page import write_page
from pcs_ext.demo.panorama import make_panorama
from pcs_ext.demo.protection import make_protection
from pcs_ext.demo.sheet import write_sheet
from pcs_ext.demo.standing import LABELS, standing
from pcs_ext.demo.video import ClipJudge, make_video, video_recipe
from pcs_ext.errors import Interrupted, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.evaluate import (
    CLASS_WORD,
    UNRELATED_PROMPTS,
    ImageEncoder,
    Judges,
    Prompt,
    Truth,
    evaluate_images,
    prompt_set,
    square_images,
)
from pcs_ext.image.evaluate.generation import ImageSet, make_images, paint_artifact, paint_base, paint_beside
from pcs_ext.image.learn_once import learn_once, learn_seconds
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import generator_for
from pcs_ext.threed.request import MakeOptions
from pcs_ext.toybox import weights_path
from pcs_ext.toybox.judges import toybox_judges
from pcs_ext.toybox.motion_reader import MotionReader
from pcs_ext.toybox.world.export_examples import ROTATED, SIZES, photo_bytes
from pcs_ext.toybox.world.subjects import class_noun, novel_views, reference_photos
from pcs_ext.toybox.world.subjects import subject as toy_named
from pcs_ext.video.backbones.load import load_video_backbone

Part = Literal["panorama", "object", "video", "drawing", "protection"]
"""What the page may show beside the subject, its pictures and their measures."""
_TRUE_VIEWS = 64
_MARK = "photos/of.json"
"""Whose photos they are; there from the beginning, and what tells a demonstration's folder from others."""
_DRIFT_SEEDS = 2
_OWN_ATTRIBUTES = ("class", "pattern")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """What all parts share."""

    output: Path
    subject: str
    noun: str
    seed: int
    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    steps: int | None
    parts: tuple[Part, ...]
    backbone: AbstractBackbone
    reporter: Reporter


def run_demo(
    output: Path,
    *,
    subject: str = "rex",
    recipes: Sequence[str] = ("dreambooth-lora", "textual-inversion"),
    prompts: int = 20,
    seeds: int = 4,
    seed: int = 0,
    steps: int | None = None,
    parts: Sequence[Part] = (),
    base: str | AbstractBackbone = "toybox",
    judges: Judges | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Learn a bundled toy, generate, measure, and write `index.html`, with images, numbers and `sheet.png` beside.

    Args:
        output: folder; parts that are there already from an earlier, interrupted run are used.
        subject: name of a bundled toy.
        recipes: how to learn it; the first is the one the page is about.
        prompts: how many of the toybox prompts, spread over the set.
        seeds: images per prompt.
        seed: of training, and the first of sampling.
        steps: optimiser steps of everything that learns; None takes what each part is made for.
        parts: what else to show; asked for later, they are added to what is there.
        base: toybox, or a loaded backbone.
        judges: who measures; None takes toybox's.
        reporter: hears events and progress.

    Returns:
        Path of the page.

    Raises:
        UsageError: unknown subject, recipe or part, no prompt, no seed, or a folder with something else in it.
        ModelError: a model that is needed is not there.
        Interrupted: Ctrl-C; what was done is kept.
    """
    reporter = reporter or SilentReporter()
    noun = class_noun(subject)
    chosen = _spread(prompt_set("toybox"), prompts)
    if not recipes or seeds < 1:
        raise UsageError(f"the demo needs at least one recipe and one seed, got {len(recipes)} and {seeds}.")
    if unknown := set(parts) - set(get_args(Part)):
        raise UsageError(f"the demo has no part {', '.join(sorted(unknown))}; expected {', '.join(get_args(Part))}.")
    _check_folder(output)
    backbone = base if isinstance(base, AbstractBackbone) else load_backbone(base, reporter=reporter)
    judges = judges or toybox_judges()
    job = _Job(
        output=output,
        subject=subject,
        noun=noun,
        seed=seed,
        prompts=chosen,
        seeds=tuple(range(seed, seed + seeds)),
        steps=steps,
        parts=tuple(parts),
        backbone=backbone,
        reporter=reporter,
    )
    try:
        photos = _write_photos(job)
        artifacts = {recipe: _learned(job, recipe, photos) for recipe in recipes}
        return _write(job, photos, artifacts, judges, _made_parts(job, photos, artifacts, judges))
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; what is done is kept in {output}. The same command goes on from there."
        ) from None


def _spread(prompts: Sequence[Prompt], count: int) -> tuple[Prompt, ...]:
    if not 1 <= count <= len(prompts):
        raise UsageError(f"the demo has 1 to {len(prompts)} prompts, got {count}.")
    return tuple(prompts[round(index * (len(prompts) - 1) / max(count - 1, 1))] for index in range(count))


def _check_folder(output: Path) -> None:
    """See that nobody's files lie where the demonstration writes and takes away: photos, images, parts by their names.

    Raises:
        UsageError: the folder holds something, and no demonstration.
    """
    if (output / _MARK).is_file() or not output.is_dir():
        return
    if others := sorted(path.name for path in output.iterdir() if not path.name.startswith(".")):
        raise UsageError(
            f"{output} holds {', '.join(others[:3])}{' and more' if len(others) > 3 else ''} and no demonstration; "
            "choose a folder of its own with --output."
        )


def _write_photos(job: _Job) -> list[Path]:
    """The subject's five photos as a user's camera would leave them: sizes, JPEG, one on its side with an EXIF flag."""
    folder = job.output / "photos"
    paths, mark, subject = [folder / f"{index + 1}.jpg" for index in range(len(SIZES))], job.output / _MARK, job.subject
    whose = read_json(mark)["subject"] if mark.is_file() else ""
    if whose != subject or not all(path.is_file() for path in paths):
        write_json(mark, {"subject": ""})
        shots = reference_photos(job.subject, resolution=512)
        for index, path in enumerate(paths):
            rotated = index + 1 == ROTATED
            atomic_write_bytes(
                path, photo_bytes(shots.images[index], shots.masks[index, 0], SIZES[index], rotated=rotated)
            )
        write_json(mark, {"subject": subject})
    return paths


def _learned(job: _Job, recipe: str, photos: Sequence[Path]) -> Artifact:
    return learn_once(
        photos,
        noun=job.noun,
        recipe=recipe,
        base=job.backbone,
        output=job.output / "subjects" / recipe,
        steps=job.steps,
        seed=job.seed,
        reporter=job.reporter,
    )


def _made_parts(job: _Job, photos: Sequence[Path], artifacts: dict[str, Artifact], judges: Judges) -> dict[str, Any]:
    """The parts that were asked for, as fields of `DemoData`."""
    shared: dict[str, Any] = {"seed": job.seed, "reporter": job.reporter}
    recipe, first = next(iter(artifacts.items()))
    makers = {
        "panorama": lambda: make_panorama(job.output, first, job.backbone, name=job.subject.capitalize(), **shared),
        "object": lambda: make_object(
            job.output,
            job.output / "subjects" / recipe,
            photos,
            toy=toy_named(job.subject),
            encoder=_image_judge(judges),
            resolution=job.backbone.resolution,
            options=MakeOptions(
                method=METHOD,
                effort="fast",
                base=job.backbone.name,
                device=str(job.backbone.device),
                steps=job.steps,
                seed=job.seed,
                colors="vertex",
                viewer=True,
            ),
            reporter=job.reporter,
        ),
        "video": lambda: make_video(
            job.output,
            job.output / "subjects" / recipe,
            photos,
            lambda inflation: load_video_backbone(
                job.backbone.name, inflation=inflation, device=str(job.backbone.device)
            ),
            judge=_clip_judge(judges),
            recipe=video_recipe(job.steps),
            name=job.subject.capitalize(),
            **shared,
        ),
        "drawing": lambda: make_drawing(
            job.output, job.backbone, recipe=drawing_recipe(job.backbone, job.steps), **shared
        ),
        "protection": lambda: make_protection(
            job.output, photos, job.backbone, noun=job.noun, steps=job.steps, **shared
        ),
    }
    return {name: make() for name, make in makers.items() if name in job.parts}


def _image_judge(judges: Judges) -> ImageEncoder:
    if judges.dino is None:
        raise UsageError("clips and objects are judged by an image encoder; give the demo one, or leave them out.")
    return judges.dino


def _clip_judge(judges: Judges) -> ClipJudge:
    return ClipJudge(_image_judge(judges), MotionReader.load(weights_path("motion_reader")))


def _write(
    job: _Job, photos: list[Path], artifacts: dict[str, Artifact], judges: Judges, parts: dict[str, Any]
) -> Path:
    images, drifts = _generate(job, artifacts)
    started = time.monotonic()
    job.reporter.event("measure", "measuring")
    references = square_images(photos, job.backbone.resolution)
    truth = _truth(job)
    systems = []
    for recipe, made in images.items():
        drift = None if recipe == CLASS_WORD else (_tensor(job, drifts[CLASS_WORD]), _tensor(job, drifts[recipe]))
        systems.append(_measured(job, recipe, made, references, truth, drift, judges, artifacts.get(recipe)))
    place = standing(systems)
    data = DemoData(
        subject=job.subject,
        noun=job.noun,
        photos=tuple(_relative(job, path) for path in photos),
        prompts=tuple(ShownPrompt(text=p.text, kind=p.kind, asked=_asked(p)) for p in job.prompts),
        seeds=job.seeds,
        systems=tuple(systems),
        points=place.points,
        points_over=place.over,
        ceiling=place.ceiling,
        base=job.backbone.name,
        resolution=job.backbone.resolution,
        measure_seconds=time.monotonic() - started,
        cores=torch.get_num_threads(),
        device=str(job.backbone.device),
        **parts,
    )
    write_json(job.output / "numbers.json", data)
    write_sheet(data, job.output, job.output / "sheet.png")
    page = write_page(data, job.output / "index.html")
    job.reporter.event("demo", f"wrote {page}", page=str(page))
    return page


def _generate(job: _Job, artifacts: dict[str, Artifact]) -> tuple[dict[str, ImageSet], dict[str, ImageSet]]:
    """Images of the gallery and of unrelated prompts, by recipe; the class word comes last."""
    sampling = next(iter(artifacts.values())).sampling
    texts = [prompt.text for prompt in job.prompts]
    unrelated = UNRELATED_PROMPTS["toybox"]
    base_facts = {"base": job.backbone.fingerprint, "sampling": to_jsonable(sampling)}
    images, drifts = {}, {}

    def make(kind: str, recipe: str, prompts: Sequence[str], seeds: Sequence[int], paint, facts: dict) -> ImageSet:
        folder = job.output / kind / recipe
        return make_images(folder, prompts, seeds, paint, facts=facts, task=f"{kind} {recipe}", reporter=job.reporter)

    for recipe, artifact in artifacts.items():
        facts = {"artifact": artifact.data.content_hash, "sampling": to_jsonable(artifact.sampling)}
        images[recipe] = make("images", recipe, texts, job.seeds, paint_artifact(artifact, job.backbone), facts)
        beside = paint_beside(artifact, job.backbone)
        drifts[recipe] = make("unrelated", recipe, unrelated, range(_DRIFT_SEEDS), beside, facts)
    plain = paint_base(job.backbone, sampling, job.noun)
    images[CLASS_WORD] = make("images", CLASS_WORD, texts, job.seeds, plain, {**base_facts, "noun": job.noun})
    drifts[CLASS_WORD] = make("unrelated", CLASS_WORD, unrelated, range(_DRIFT_SEEDS), plain, base_facts)
    return images, drifts


def _truth(job: _Job) -> Truth:
    generator = generator_for("demo", "true views", job.subject)
    views = novel_views(job.subject, _TRUE_VIEWS, generator, resolution=job.backbone.resolution)
    toy = toy_named(job.subject)
    own = {"class": toy.class_name, "pattern": toy.pattern}
    return Truth(views=views.images, attributes={name: own[name] for name in _OWN_ATTRIBUTES})


def _measured(
    job: _Job,
    recipe: str,
    made: ImageSet,
    references: torch.Tensor,
    truth: Truth,
    drift: tuple[torch.Tensor, torch.Tensor] | None,
    judges: Judges,
    artifact: Artifact | None,
) -> ShownSystem:
    images = _tensor(job, made)
    report = evaluate_images(
        images,
        references,
        noun=job.noun,
        prompts=job.prompts,
        seeds=job.seeds,
        judges=judges,
        recipe=recipe,
        subject=job.subject,
        truth=truth,
        drift=drift,
    )
    report.save(job.output / "reports" / f"{recipe}.json")
    return ShownSystem(
        id=recipe,
        label=f"The word “{job.noun}”" if artifact is None else LABELS.get(recipe, recipe),
        images=tuple(_relative(job, path) for path in made.paths),
        hits=_hits(job, images, judges),
        report=report,
        losses=() if artifact is None else tuple(artifact.data.training["losses"]),
        learn_seconds=0.0 if artifact is None else learn_seconds(job.output / "subjects" / recipe),
        sample_seconds=made.seconds,
    )


def _hits(job: _Job, images: torch.Tensor, judges: Judges) -> tuple[int, ...]:
    """Per prompt, images that show all it asks for."""
    if judges.attributes is None:
        return ()
    read, per = judges.attributes(images), len(job.seeds)
    return tuple(
        sum(all(facts.get(k) == v for k, v in prompt.expected.items()) for facts in read[p * per : (p + 1) * per])
        for p, prompt in enumerate(job.prompts)
    )


def _tensor(job: _Job, made: ImageSet) -> torch.Tensor:
    return square_images(made.paths, job.backbone.resolution)


def _relative(job: _Job, path: Path) -> str:
    return path.relative_to(job.output).as_posix()


def _asked(prompt: Prompt) -> str:
    """What a card is titled with: "on the beach", "a pencil sketch"."""
    return ", ".join(prompt.expected.values()).removesuffix(" of")
