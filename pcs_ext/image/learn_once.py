"""A subject that many jobs need is learned once: taken from disk where an equal run finished it, else learned now."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pcs_ext.config_io import file_sha256, from_jsonable
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import LEARNED_SIDE, find_photos
from pcs_ext.image.evaluate.stopwatch import Stopwatch, seconds_in
from pcs_ext.image.learn import as_learned, learn, preset_of, resolve_recipe
from pcs_ext.image.recipes import Recipe
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter


def learn_once(
    photos: Sequence[Path],
    *,
    noun: str,
    recipe: str | Recipe,
    base: AbstractBackbone,
    output: Path,
    steps: int | None = None,
    seed: int = 0,
    reporter: Reporter,
) -> Artifact:
    """The subject in `output`, if it came of this recipe, base, noun, seed and these photos with what lies beside them;
    else it is replaced.

    An interrupted run goes on. For the arguments and errors see `learn`.
    """
    if output.exists():
        artifact = Artifact.load(output)
        if _is_of(artifact, photos, noun, recipe, base, steps, seed):
            reporter.event("kept", f"{artifact.data.recipe['id']}: learned already, in {output}")
            return artifact
        _time_file(output).unlink(missing_ok=True)
    watch = Stopwatch(_time_file(output), reporter)
    artifact = learn(
        photos,
        noun=noun,
        recipe=recipe,
        base=base,
        output=output,
        steps=steps,
        seed=seed,
        overwrite=True,
        reporter=watch,
    )
    watch.save()
    return artifact


def learn_seconds(output: Path) -> float:
    """Wall time that `learn_once` took for what lies in `output`, over all its attempts; 0 where it is not known."""
    return seconds_in(_time_file(output))


def _time_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.time.json")


def _is_of(
    artifact: Artifact,
    photos: Sequence[Path],
    noun: str,
    recipe: str | Recipe,
    base: AbstractBackbone,
    steps: int | None,
    seed: int,
) -> bool:
    resolved = resolve_recipe(recipe, noun, preset_of(base))
    wanted = resolved if steps is None else resolved.with_steps(steps)
    wanted, found = as_learned(wanted, find_photos(photos, short_side=LEARNED_SIDE))
    digests = [photo.digest for photo in found]
    return (
        _followed(artifact, wanted)
        and artifact.concept.class_noun == wanted.concept.class_noun
        and artifact.data.base_fingerprint == base.fingerprint
        and artifact.data.training["seed"] == seed
        and artifact.data.training["photos"] == {path.name: file_sha256(path) for path in photos}
        # Masks and captions, too; subjects of before did not say.
        and artifact.data.training.get("photo_digests", digests) == digests
    )


def _followed(artifact: Artifact, wanted: Recipe) -> bool:
    """Whether a subject came of a recipe; settings that were added since it was learned had their defaults then."""
    try:
        found = from_jsonable(Recipe, artifact.data.recipe)
    except ConfigError:
        return False
    # The rare word is chosen when the base is known, after the recipe is resolved.
    return dataclasses.replace(found, concept=wanted.concept) == wanted
