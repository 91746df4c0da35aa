"""Names for the words of subjects that were learned apart and often under the same placeholder."""

import dataclasses
import re
from collections.abc import Sequence

from pcs_ext.config_io import from_jsonable
from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import (
    AdapterConfig,
    BasisConfig,
    EmbeddingConfig,
    MixtureConfig,
    NetiConfig,
    ResidualConfig,
    SpectrumConfig,
)
from pcs_ext.image.concept import Concept
from pcs_ext.image.subject import Artifact

WORD_ADAPTERS = (EmbeddingConfig, BasisConfig, MixtureConfig, SpectrumConfig, NetiConfig, ResidualConfig)
_NAME = re.compile(r"[a-z][a-z0-9-]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedSubject:
    """A subject under its new name."""

    name: str
    artifact: Artifact
    words: str
    """What prompts say: "<rex> dog"."""
    adapters: dict[str, AdapterConfig]
    """By the artifact's own adapter names, words under their new placeholders."""


def named_subjects(artifacts: Sequence[Artifact], names: Sequence[str]) -> list[NamedSubject]:
    """The subjects with placeholders that differ.

    Raises:
        UsageError: fewer than two subjects, unequal counts, unusable or equal names, rare words that are the same, or
            subjects that cannot stand beside others.
    """
    if len(artifacts) < 2 or len(names) != len(artifacts):
        raise UsageError(f"merge needs two or more subjects and one name each, got {len(artifacts)} and {len(names)}.")
    bad = [name for name in names if not _NAME.fullmatch(name) or list(names).count(name) > 1]
    if bad:
        raise UsageError(f"names must differ and hold small letters, digits and hyphens, got {', '.join(bad)}.")
    subjects = [_named(artifact, name) for artifact, name in zip(artifacts, names, strict=True)]
    words = [subject.words for subject in subjects]
    if len(set(words)) < len(words):
        raise UsageError(
            f"two subjects are both called {max(words, key=words.count)!r} in prompts; learn one of them again with "
            "--token and another rare word."
        )
    return subjects


def _named(artifact: Artifact, name: str) -> NamedSubject:
    concept = artifact.concept
    if concept.parts or concept.negative:
        raise UsageError(f"{name} holds several subjects or a negative word, which merge cannot put beside others.")
    adapters: dict[str, AdapterConfig] = {}
    words, count = concept.name, 0
    renamed: dict[str, str] = {}
    for key, settings in artifact.data.adapters.items():
        config = from_jsonable(AdapterConfig, settings, where=f"adapter {key!r}")  # type: ignore[arg-type]
        if isinstance(config, WORD_ADAPTERS):
            count += 1
            renamed[config.placeholder] = f"<{name}>" if count == 1 else f"<{name}-{count}>"
            words = words.replace(config.placeholder, renamed[config.placeholder])
        adapters[key] = config
    for key, config in adapters.items():  # adapters beside a word may be about it, too (rank_one)
        placeholder = renamed.get(getattr(config, "placeholder", ""))
        if placeholder is not None:
            adapters[key] = dataclasses.replace(config, placeholder=placeholder)  # type: ignore[call-arg]
    return NamedSubject(name=name, artifact=artifact, words=words, adapters=adapters)


def joint_concept(subjects: Sequence[NamedSubject]) -> Concept:
    """`{subject}` is all of them; prompts may say the words of each."""
    parts = tuple(subject.words for subject in subjects)
    nouns = " and a ".join(subject.artifact.concept.class_noun for subject in subjects)
    return Concept(class_noun=nouns, mode="learned", token=parts[0], with_noun=False, parts=parts)
