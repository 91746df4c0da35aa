"""Words that take in what is particular to each photo, instead of caption templates (DCI, arXiv 2412.04831)."""

import dataclasses
from collections.abc import Sequence

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import EmbeddingConfig
from pcs_ext.image.concept import SUBJECT
from pcs_ext.image.data import Photo
from pcs_ext.image.recipes import Recipe

_PREFIX = "context_"


def with_contexts(recipe: Recipe, photos: Sequence[Photo]) -> tuple[Recipe, list[Photo]]:
    """The recipe with an adapter for each photo's each context word, and the photos with captions that say them.

    Without `photo_context` both as they are. Photos' own captions give way: what they say the words shall learn.

    Raises:
        ConfigError: an adapter of the recipe has a name that begins with `context_`.
    """
    settings = recipe.photo_context
    if settings is None:
        return recipe, list(photos)
    taken = [name for name in recipe.adapters if is_context(name)]
    if taken:
        raise ConfigError(f"adapter {taken[0]!r} is named like a photo's context; rename it, without {_PREFIX!r}.")
    words = {
        f"{_PREFIX}{photo + 1}_{place + 1}": EmbeddingConfig(
            placeholder=f"<photo-{photo + 1}-{place + 1}>", initializer=word
        )
        for photo in range(len(photos))
        for place, word in enumerate(settings.words)
    }
    rates = dict.fromkeys(words, settings.learning_rate)
    phases = tuple(
        dataclasses.replace(phase, learning_rates={**phase.learning_rates, **rates}) for phase in recipe.phases
    )
    said = [
        " ".join(f"<photo-{photo + 1}-{place + 1}>" for place in range(len(settings.words)))
        for photo in range(len(photos))
    ]
    captioned = [photo.but(caption=f"{context} {SUBJECT}") for photo, context in zip(photos, said, strict=True)]
    return dataclasses.replace(recipe, adapters={**recipe.adapters, **words}, phases=phases), captioned


def is_context(name: str) -> bool:
    """Whether an adapter is a photo's context, which no picture but that photo needs: artifacts leave it out."""
    return name.startswith(_PREFIX)
