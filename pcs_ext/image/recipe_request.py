"""A recipe as the user asked for it: its word, its steps, and the subject it goes on from."""

import dataclasses

from pcs_ext.config_io import to_jsonable
from pcs_ext.errors import ArtifactError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.rare_tokens import check_rare_token, pick_rare_tokens
from pcs_ext.image.recipes import Recipe
from pcs_ext.image.subject import Artifact


def with_request(recipe: Recipe, token: str, steps: int | None) -> Recipe:
    """The recipe with another word and another number of steps, where asked.

    Raises:
        UsageError: fewer than one step.
    """
    if steps is not None:
        if steps < 1:
            raise UsageError(f"--steps must be at least 1, got {steps}.")
        recipe = recipe.with_steps(steps)
    return _renamed(recipe, token) if token else recipe


def _renamed(recipe: Recipe, token: str) -> Recipe:
    """The recipe with another word for the subject, also in the adapters that learn it."""
    old, concept = recipe.concept.token, dataclasses.replace(recipe.concept, token=token)
    adapters = {
        name: dataclasses.replace(config, placeholder=token)  # type: ignore[call-arg]
        if old and getattr(config, "placeholder", None) == old
        else config
        for name, config in recipe.adapters.items()
    }
    return dataclasses.replace(recipe, concept=concept, adapters=adapters)


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
