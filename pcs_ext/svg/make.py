"""`svg make`: a learned subject and a prompt in, an SVG of new paths out (VectorFusion, arXiv 2211.11319)."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch

from pcs_ext.config_io import config_hash, from_jsonable, read_json
from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.learn import preset_of
from pcs_ext.image.sample import sample
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.svg.recipes import RECIPES, TextToVectorRecipe
from pcs_ext.svg.vector.distill import distill
from pcs_ext.svg.vector.read import read_svg
from pcs_ext.svg.vector.scene import Scene
from pcs_ext.svg.vector.vectorize import vectorize
from pcs_ext.svg.vector.write import new_svg, write_svg


def resolve_text_to_vector(
    base: str | AbstractBackbone, *, paths: int | None = None, steps: int | None = None, config: Path | None = None
) -> TextToVectorRecipe:
    """The recipe of VectorFusion for a base, or that of a JSON file, with other numbers of paths and steps.

    Raises:
        ConfigError, UsageError: the JSON does not fit, or a number is out of range.
    """
    if config is not None:
        recipe: Any = from_jsonable(TextToVectorRecipe, read_json(config), where=str(config))
    else:
        recipe = RECIPES["vectorfusion"].build("", preset_of(base))
    if paths is not None:
        recipe = dataclasses.replace(recipe, vectorization=dataclasses.replace(recipe.vectorization, paths=paths))
    if steps is not None:
        recipe = dataclasses.replace(recipe, distillation=dataclasses.replace(recipe.distillation, steps=steps))
    recipe.validate()
    return recipe


def text_to_vector(
    backbone: AbstractBackbone,
    prompt: str,
    recipe: TextToVectorRecipe,
    *,
    seed: int = 0,
    folder: Path | None = None,
    reporter: Reporter | None = None,
) -> Scene:
    """Paths for a prompt: a sampled picture is vectorised, then the base teaches the paths.

    Args:
        backbone: adapters already injected.
        prompt: with the subject's words in place; the recipe's template is put around it.
        recipe: how.
        seed: of everything random.
        folder: keeps the start and checkpoints: the same call goes on from them. None keeps nothing.
        reporter: hears the progress.

    Raises:
        UsageError, DivergedError, Interrupted: as `vectorize` and `distill`.
    """
    text = recipe.prompt_template.replace("{prompt}", prompt)
    start = None if folder is None else folder / "start.svg"
    if start is None or not start.exists():
        with torch.no_grad():
            image = sample(backbone, [text], seeds=[seed], config=recipe.sampling, reporter=reporter)[0]
        side = min(recipe.vectorization.side, image.shape[1])
        picture = torch.nn.functional.interpolate(image[None], (side, side), mode="bilinear", antialias=True)[0]
        scene = vectorize((picture + 1) / 2, recipe.vectorization, reporter=reporter)
        if start is None:
            return distill(scene, backbone, text, recipe.distillation, seed=seed, reporter=reporter)
        write_svg(start, new_svg(scene))
    scene = _ground_locked(read_svg(start).scene)
    return distill(
        scene, backbone, text, recipe.distillation, seed=seed, folder=start.parent / "sds", reporter=reporter
    )


def _ground_locked(scene: Scene) -> Scene:
    """The rectangle behind everything does not move."""
    paths = tuple(dataclasses.replace(path, locked=path.id == "ground") for path in scene.paths)
    return dataclasses.replace(scene, paths=paths)


def make_svg(
    subject: Path,
    prompt: str,
    output: Path,
    *,
    base: str = "",
    paths: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    config: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> Scene:
    """A learned subject as an SVG; what was done so far lies in `OUTPUT.work` until it is finished.

    Raises:
        UsageError: an output that is not called .svg, or a prompt without `{subject}`.
        ArtifactError, ModelError: the subject or its base cannot be used.
        Interrupted: Ctrl-C; the same call goes on.
    """
    reporter = reporter or SilentReporter()
    if output.suffix.lower() != ".svg" or output.is_dir():
        raise UsageError(f"The output is {output}; expected a file name that ends in .svg.")
    artifact = Artifact.load(subject)
    text = artifact.concept.prompt(prompt)
    recipe = resolve_text_to_vector(base or artifact.data.base_name, paths=paths, steps=steps, config=config)
    backbone = artifact.backbone(base or None, device=device, precision=precision)
    key = config_hash([recipe.id, config_hash(recipe), text, seed, artifact.data.content_hash, backbone.fingerprint])
    work = output.with_name(f"{output.name}.work")
    with artifact.applied(backbone):
        scene = text_to_vector(backbone, text, recipe, seed=seed, folder=work / key, reporter=reporter)
    write_svg(output, new_svg(dataclasses.replace(scene, size=(512.0, 512.0))))
    shutil.rmtree(work / key, ignore_errors=True)
    if work.is_dir() and not any(work.iterdir()):
        work.rmdir()
    return scene
