"""`svg customize`: an exemplar and a prompt in, the exemplar's layers redrawn out (SVGCustomization, arXiv 2309.12302).

Every stage leaves its result in the work folder beside the output and is not done again: the learned exemplar, the
customised picture, the alignment (a JSON that may be edited before the command is given again), the optimisation.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pcs_ext.config_io import (
    config,
    config_hash,
    file_sha256,
    from_jsonable,
    read_json,
    to_jsonable,
    write_json,
)
from pcs_ext.errors import ConfigError, InputError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.image_to_image import image_to_image
from pcs_ext.image.learn import learn, preset_of
from pcs_ext.image.levels import to_pil
from pcs_ext.image.png import write_png
from pcs_ext.image.sample import sample
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import seed_for
from pcs_ext.svg.added_paths import with_added, without_idle
from pcs_ext.svg.exemplar import on_canvas, write_variants
from pcs_ext.svg.features import denoiser_features, latent_features
from pcs_ext.svg.recipes import RECIPES, CustomizationRecipe
from pcs_ext.svg.vector.align import align
from pcs_ext.svg.vector.plan import AlignmentPlan, apply_plan
from pcs_ext.svg.vector.read import Document, read_svg
from pcs_ext.svg.vector.refine import refine
from pcs_ext.svg.vector.scene import Scene
from pcs_ext.svg.vector.write import patch_svg, write_svg


@config
class Customized:
    """What came of it; `report.json` in the work folder."""

    kept: tuple[str, ...]
    """Ids of the exemplar's paths that the output has."""
    dropped: tuple[str, ...]
    """Ids of those it has not."""
    added: tuple[str, ...]
    """Ids of new paths, in the groups `added-beneath` under everything and `added` on top."""
    levels: float
    """Mean difference of the output's drawing to the customised picture, of 255."""
    aligned_levels: float
    """The same before the optimisation."""
    notes: tuple[str, ...]
    """What the exemplar's file asks for and its scene does not show."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One wish.

    Attributes are those of the command's flags; see `pcs_ext.svg.cli.customize`.
    """

    exemplar: Path
    prompt: str
    output: Path
    noun: str
    recipe: CustomizationRecipe
    subject: Path | None = None
    seed: int = 0
    candidates: int = 4

    @property
    def work(self) -> Path:
        """The work folder."""
        return self.output.with_name(f"{self.output.name}.work")


def resolve_customization(
    recipe: str,
    noun: str,
    base: str | AbstractBackbone,
    *,
    steps: int | None = None,
    added: int | None = None,
    config: Path | None = None,
) -> CustomizationRecipe:
    """The recipe behind a name or a JSON file, its tuning shortened to `steps`, with at most `added` new paths.

    Raises:
        UsageError: unknown name, one that takes no exemplar, or steps below 1.
        ConfigError: the JSON does not fit.
    """
    if not noun.strip():
        raise UsageError("--noun is empty; say in one or two words what the drawing shows, such as dog or house.")
    if config is not None:
        found: Any = from_jsonable(CustomizationRecipe, read_json(config), where=str(config))
    else:
        entry = RECIPES.get(recipe)
        found = entry and entry.build(noun.strip(), preset_of(base))
    if not isinstance(found, CustomizationRecipe):
        known = [e.id for e in RECIPES.values() if isinstance(e.build("dog", "sd"), CustomizationRecipe)]
        raise UsageError(f"recipe {recipe!r} does not customise drawings; expected one of {', '.join(known)}.")
    if steps is not None:
        if steps < 1:
            raise UsageError(f"--steps must be at least 1, got {steps}.")
        found = dataclasses.replace(found, concept=found.concept.with_steps(steps))
    if added is not None:
        found = dataclasses.replace(found, added_paths=added)
    found.validate()
    return found


def customize_svg(
    request: Request,
    *,
    base: str | AbstractBackbone = "toybox",
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> Customized:
    """Learn the exemplar, imagine it anew, align its paths, optimise them, write the file.

    Raises:
        UsageError: an output that is not called .svg or is the exemplar, a prompt without `{subject}`.
        InputError: the exemplar cannot be read, or draws nothing.
        ConfigError: the work folder belongs to another wish, or the plan in it does not fit.
        ModelError, ArtifactError: the base or the subject cannot be used.
        Interrupted: Ctrl-C; the same call goes on.
    """
    reporter = reporter or SilentReporter()
    document = _checked(request)
    given = None if request.subject is None else Artifact.load(request.subject)
    if isinstance(base, AbstractBackbone):
        backbone = base
    else:
        backbone = load_backbone(base, device=device, precision=precision, reporter=reporter)
    _claim(request, backbone, given)
    artifact = given or _learned(request, document.scene, backbone, reporter)
    with artifact.applied(backbone):
        target = _imagined(request, document.scene, artifact, backbone, reporter)
        plan = AlignmentPlan.load(request.work / "alignment.json")
        recipe = request.recipe
        least = recipe.least_added_area * target[0].numel()
        started, done = with_added(apply_plan(document.scene, plan), target, recipe.added_paths, least)
        finished = _refined(request, started, plan, done, target, backbone, reporter)
    finished = without_idle(finished, target, {path.id for path in document.scene.paths})
    return _written(request, document, started, finished, target)


def _checked(request: Request) -> Document:
    output = request.output
    if output.suffix.lower() != ".svg" or output.is_dir() or output.resolve() == request.exemplar.resolve():
        raise UsageError(f"The output is {output}; expected a file name that ends in .svg, other than the exemplar's.")
    if request.candidates < 1 or request.candidates > 64:
        raise UsageError(f"--candidates must be 1 to 64, got {request.candidates}.")
    request.recipe.concept.concept.class_prompt(request.prompt)
    document = read_svg(request.exemplar)
    if not any(not path.locked for path in document.scene.paths):
        raise InputError(
            f"{request.exemplar} draws no path that may change (found {len(document.scene.paths)} in all); convert "
            "text to paths and unlink clones first."
        )
    return document


def _claim(request: Request, backbone: AbstractBackbone, subject: Artifact | None) -> None:
    """The work folder belongs to one wish: the same one goes on in it, another is refused. Files and models count by
    what is in them, wherever they lie."""
    wish = {
        "exemplar": file_sha256(request.exemplar),
        "prompt": request.prompt,
        "noun": request.noun,
        "base": backbone.fingerprint,
        "recipe": config_hash(request.recipe),
        "subject": None if subject is None else subject.data.content_hash,
        "seed": request.seed,
        "candidates": request.candidates,
    }
    path = request.work / "request.json"
    if path.exists():
        before = read_json(path)
        other = [key for key in wish if before.get(key) != wish[key]]
        if other:
            raise ConfigError(
                f"{request.work} belongs to another wish (other {', '.join(other)}). Choose another --output, or "
                "delete the folder."
            )
        return
    request.work.mkdir(parents=True, exist_ok=True)
    write_json(request.work / "recipe.json", request.recipe)
    write_json(path, wish)


def _learned(request: Request, scene: Scene, backbone: AbstractBackbone, reporter: Reporter) -> Artifact:
    folder = request.work / "subject"
    if folder.exists():
        return Artifact.load(folder)
    recipe = request.recipe
    photos = request.work / "photos"
    write_variants(scene, photos, recipe.variants, backbone.resolution, recipe.least_size, request.seed)
    return learn(
        photos,
        noun=request.noun,
        output=folder,
        recipe=recipe.concept,
        base=backbone,
        seed=request.seed,
        reporter=reporter,
    )


def _imagined(
    request: Request, scene: Scene, artifact: Artifact, backbone: AbstractBackbone, reporter: Reporter
) -> Tensor:
    """The customised picture `3 s s` in [0, 1]. Of several, that one which shows most of the exemplar's paths."""
    picture, planned = request.work / "customized.png", request.work / "alignment.json"
    if not (picture.exists() and planned.exists()):
        own = on_canvas(scene, backbone.resolution)
        # Not `artifact.generate`: the artifact is applied already.
        images = _samples(request, own, artifact, backbone, reporter)
        prompt = artifact.concept.prompt(request.recipe.prompt_template.replace("{prompt}", "{subject}"))
        features = [_features(request.recipe, backbone, image, prompt) for image in (own, *images)]
        plans = [
            align(scene, image, request.recipe.alignment, (features[0], found))
            for image, found in zip(images, features[1:], strict=True)
        ]
        best = max(range(len(plans)), key=lambda index: recognised(plans[index]))
        write_png(picture, to_pil(images[best] * 2 - 1))
        plans[best].save(planned)
        reporter.event("aligned", _summary(plans[best], planned), plan=str(planned))
    levels = np.array(Image.open(picture).convert("RGB"))
    return torch.from_numpy(levels).permute(2, 0, 1).float() / 255


def recognised(plan: AlignmentPlan) -> float:
    """Mean confidence of all paths, each with the root of what is seen of it: large ones alone decide nothing."""
    weights = [max(entry.visible, 0.0) ** 0.5 for entry in plan.paths]
    parts = (weight * entry.confidence for weight, entry in zip(weights, plan.paths, strict=True))
    return sum(parts) / max(sum(weights), 1e-9)


def _samples(
    request: Request, own: Tensor, artifact: Artifact, backbone: AbstractBackbone, reporter: Reporter
) -> list[Tensor]:
    """Candidates `3 s s` in [0, 1]."""
    prompt = artifact.concept.prompt(request.recipe.prompt_template.replace("{prompt}", request.prompt))
    seeds = [seed_for(request.seed, "candidate", index) for index in range(request.candidates)]
    strength = request.recipe.layout_strength
    common = {"seeds": seeds, "config": artifact.sampling, "reporter": reporter}
    with torch.no_grad():
        if strength < 1:
            started = (own * 2 - 1).expand(len(seeds), -1, -1, -1)
            images = image_to_image(backbone, started, [prompt] * len(seeds), strength=strength, **common)
        else:
            images = sample(backbone, [prompt] * len(seeds), **common)
    return [(image + 1) / 2 for image in images]


def _features(recipe: CustomizationRecipe, backbone: AbstractBackbone, image: Tensor, prompt: str) -> Tensor:
    return denoiser_features(
        backbone,
        image,
        prompt,
        block=recipe.feature_block,
        timestep=recipe.feature_timestep,
        draws=recipe.feature_draws,
    )


def _summary(plan: AlignmentPlan, path: Path) -> str:
    dropped = [entry.id for entry in plan.paths if entry.action == "drop"]
    words = f"dropped {', '.join(dropped[:8])}" if dropped else "dropped none"
    return f"{len(plan.paths) - len(dropped)} of {len(plan.paths)} paths found, {words}; edit {path} and run again"


def _refined(
    request: Request,
    scene: Scene,
    plan: AlignmentPlan,
    done: frozenset[str],
    target: Tensor,
    backbone: AbstractBackbone,
    reporter: Reporter,
) -> Scene:
    """The optimisation, of all but paths that are done; an edited plan has a folder of its own."""
    settings = request.recipe.refinement
    folder = request.work / f"refine-{config_hash([to_jsonable(plan), to_jsonable(settings)])}"
    features = (lambda images: latent_features(backbone, images)) if settings.feature_weight else None
    frozen = {*done, *(entry.id for entry in plan.paths if entry.action == "freeze")}
    return refine(scene, target, settings, frozen=frozen, features=features, folder=folder, reporter=reporter)


def _written(request: Request, document: Document, started: Scene, finished: Scene, target: Tensor) -> Customized:
    known = {path.id for path in document.scene.paths}
    first = next((i for i, path in enumerate(finished.paths) if path.id in known), 0)
    beneath, above = finished.paths[:first], finished.paths[first:]
    new = tuple(path for path in above if path.id not in known)
    kept = dataclasses.replace(finished, paths=tuple(path for path in above if path.id in known))
    write_svg(request.output, patch_svg(document, kept, added=new, beneath=beneath))
    names = {path.id for path in kept.paths}
    levels = [255 * float((on_canvas(s, target.shape[1]) - target).abs().mean()) for s in (finished, started)]
    report = Customized(
        kept=tuple(path.id for path in kept.paths),
        dropped=tuple(path.id for path in document.scene.paths if path.id not in names),
        added=tuple(path.id for path in (*beneath, *new)),
        levels=levels[0],
        aligned_levels=levels[1],
        notes=document.notes,
    )
    write_json(request.work / "report.json", report)
    return report
