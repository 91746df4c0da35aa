"""A recipe as the user asked for it: its name or file, its word, its steps, and the subject it goes on from."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from pcs_ext.config_io import from_jsonable, read_json, to_jsonable
from pcs_ext.errors import ArtifactError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.rare_tokens import check_rare_token, pick_rare_tokens
from pcs_ext.image.recipes import RECIPES, Preset, Recipe
from pcs_ext.image.subject import Artifact

RecipeLike: TypeAlias = str | Recipe | Callable[[str, Preset], Recipe]
"""A name in `RECIPES`, a value, or a function `(class noun, preset) -> Recipe` as those in `RECIPES` are."""


def resolve_recipe(recipe: RecipeLike, noun: str, preset: Preset, *, config: Path | None = None) -> Recipe:
    """The recipe value behind a name, a value, a function or a JSON file.

    Raises:
        UsageError: unknown name, an empty noun, or one with braces.
        ConfigError: the JSON does not fit, or the recipe contradicts itself.
    """
    if not noun.strip():
        raise UsageError("--noun is empty; say in one or two words what the subject is, such as dog or toy robot.")
    if "{" in noun or "}" in noun:
        raise UsageError(f"--noun {noun} has braces, which stand for subjects in prompts; say a plain word: dog.")
    if config is not None:
        resolved = from_jsonable(Recipe, recipe_part(read_json(config)), where=str(config))
    elif isinstance(recipe, Recipe):
        resolved = recipe
    elif callable(recipe):
        resolved = recipe(noun.strip(), preset)
    elif recipe in RECIPES:
        resolved = RECIPES[recipe].build(noun.strip(), preset)
    else:
        raise UsageError(f"recipe {recipe!r} is unknown; expected one of {', '.join(RECIPES)}.")
    resolved.validate()
    return resolved


def recipe_part(data: Any) -> Any:
    """The recipe of what `--dry-run` printed, or of a file that holds nothing else."""
    planned = isinstance(data, dict) and "recipe" in data and ("photos" in data or "clips" in data)
    return data["recipe"] if planned else data


def check_plan(config: Path | None, noun: str, base: str) -> None:
    """See that a file from `--dry-run` is for the same base, and for the same noun.

    A file of the recipe alone names no base; nouns of several subjects ("robot, mug") are not compared.

    Raises:
        UsageError: it is for another one.
        ConfigError: it is missing or no JSON.
    """
    plan = None if config is None else read_json(config)
    if not isinstance(plan, dict):
        return
    made_for = str(plan.get("base", base))
    if made_for != base:
        raise UsageError(
            f"{config} was printed for --base {made_for}, and this is {base}, for which its settings may be wrong; "
            f'give --base {made_for}, or take "base" out of the file.'
        )
    recipe = recipe_part(plan)
    concept = recipe.get("concept") if isinstance(recipe, dict) else None
    entry = RECIPES.get(str(recipe.get("id"))) if isinstance(recipe, dict) else None
    if entry is None or not isinstance(concept, dict) or "," in noun or not noun.strip():
        return
    said, wanted = concept.get("class_noun"), entry.build(noun.strip(), "sd").concept.class_noun
    if said != wanted:
        raise UsageError(f"{config} is about a {said}, and --noun {noun} about a {wanted}; make them the same.")


def with_request(recipe: Recipe, token: str, steps: int | None) -> Recipe:
    """The recipe with another word and another number of steps, where asked.

    Raises:
        UsageError: fewer than one step, or a word for a recipe that has none of its own, or several.
    """
    if steps is not None:
        if steps < 1:
            raise UsageError(f"--steps must be at least 1, got {steps}.")
        recipe = recipe.with_steps(steps)
    return _renamed(recipe, token) if token else recipe


def _renamed(recipe: Recipe, token: str) -> Recipe:
    """The recipe with another word for the subject, wherever it names the old one.

    Raises:
        UsageError: it has no word of its own, or several.
    """
    concept = recipe.concept
    if concept.mode == "plain":
        raise UsageError(f"{recipe.id} learns under the plain words {concept.class_noun!r}; leave --token out.")
    if concept.mode == "rare":
        return dataclasses.replace(recipe, concept=dataclasses.replace(concept, token=token))
    if len(words := concept.own_words) > 1:
        raise UsageError(
            f"{recipe.id} learns several words ({', '.join(words)}), and --token names one; print the settings with "
            "--dry-run, change the words there and give the file back with --config."
        )
    renamed = _replaced(to_jsonable(recipe), concept.token, token)
    return from_jsonable(Recipe, renamed, where=f"--token {token}")


def _replaced(data: Any, old: str, new: str) -> Any:
    """JSON values with one text in place of another in all strings."""
    if isinstance(data, str):
        return data.replace(old, new)
    if isinstance(data, list):
        return [_replaced(item, old, new) for item in data]
    return {key: _replaced(value, old, new) for key, value in data.items()} if isinstance(data, dict) else data


def with_start(recipe: Recipe, start: Artifact | None, backbone: AbstractBackbone) -> Recipe:
    """The recipe under the words of the subject it goes on from.

    Raises:
        ArtifactError: that one has other adapters, or another base.
    """
    if start is None:
        return recipe
    if start.data.adapters != to_jsonable(recipe.adapters) or start.data.base_fingerprint != backbone.fingerprint:
        raise ArtifactError(
            f"the subject to go on from has adapters {sorted(start.data.adapters)} on {start.data.base_name}; expected "
            f"those of recipe {recipe.id} on {backbone.name}, with the same settings. Learn it with this recipe."
        )
    return dataclasses.replace(recipe, concept=start.concept)


def with_token(recipe: Recipe, backbone: AbstractBackbone) -> Recipe:
    """Settle the rare word: the asked one is checked against the base's tokenizer, an empty one is picked from it."""
    concept = recipe.concept
    if concept.mode != "rare":
        return recipe
    if concept.token:
        check_rare_token(backbone.tokenizers[0], concept.token)
        return recipe
    word = pick_rare_tokens(backbone.tokenizers[0], count=1)[0].word
    return dataclasses.replace(recipe, concept=dataclasses.replace(concept, token=word))


def check_rounds(recipe: Recipe, previews: int, start: Artifact | None) -> None:
    """See that nothing is asked of a recipe of rounds that it cannot do.

    Raises:
        UsageError: previews, or a subject to go on from.
    """
    if previews:
        raise UsageError(f"{recipe.id} learns in rounds and writes no previews; leave --previews out.")
    if start is not None:
        raise UsageError(f"{recipe.id} begins its rounds at the base and cannot go on from a subject.")
