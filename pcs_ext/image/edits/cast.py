"""Who prompts may name beside plain words: a learned subject, a ledger of them, or several that were learned apart."""

import contextlib
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcs_ext.errors import ArtifactError, UsageError
from pcs_ext.image.adapters import AdapterConfig, build_adapter, injected
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import SUBJECT, fill
from pcs_ext.image.ledger import Ledger
from pcs_ext.image.merge.words import WORD_ADAPTERS, NamedSubject, named_subjects
from pcs_ext.image.subject import Artifact


@dataclasses.dataclass(frozen=True)
class Cast:
    """What prompts may name beside plain words."""

    base_name: str
    who: Artifact | Ledger | tuple[NamedSubject, ...] | None
    """None: plain words alone."""

    def words(self, text: str) -> str:
        """The text with the words of subjects in it; texts that name none stay as they are.

        Raises:
            UsageError: a name that nobody has.
        """
        if "{" not in text:
            return text
        if isinstance(self.who, Artifact):
            return self.who.concept.prompt(text) if SUBJECT in text else text
        if isinstance(self.who, Ledger):
            return self.who.prompt(text)
        if self.who is None:
            raise UsageError(f"{text!r} names a learned subject, but none was given; add --subject FOLDER.")
        return name_all(text, {subject.name: subject.words for subject in self.who})

    def negative(self, text: str) -> str:
        """What guidance goes away from: the text, behind a learned subject's own negative word if it has one."""
        return self.who.concept.negative_prompt(text) if isinstance(self.who, Artifact) else text

    def phrase(self, text: str) -> str:
        """Words of a box's phrase, without the article that a prompt puts before a subject."""
        for name, words in self._names().items():
            text = text.replace(f"{{{name}}}", words)
        return text

    def applied(self, backbone: AbstractBackbone) -> contextlib.AbstractContextManager[Any]:
        """The backbone with all subjects in it.

        Raises:
            ArtifactError: one was learned on a base of another family.
            UsageError: more than one changed the base's weights.
        """
        if self.who is None:
            return contextlib.nullcontext()
        if isinstance(self.who, (Artifact, Ledger)):
            return self.who.applied(backbone)
        check_words_alone(self.who)
        return injected(backbone, *(adapter for subject in self.who for adapter in subject_adapters(subject, backbone)))

    def hashes(self) -> list[str]:
        """Content hashes of the subjects."""
        return [artifact.data.content_hash for artifact in self._artifacts()]

    def _artifacts(self) -> list[Artifact]:
        if isinstance(self.who, Ledger):
            return self.who.artifacts()
        if isinstance(self.who, tuple):
            return [subject.artifact for subject in self.who]
        return [] if self.who is None else [self.who]

    def _names(self) -> dict[str, str]:
        """By name, the words without an article."""
        if isinstance(self.who, Ledger):
            return {n: a.concept.name for n, a in zip(self.who.names, self.who.artifacts(), strict=True)}
        if isinstance(self.who, tuple):
            return {subject.name: subject.words for subject in self.who}
        return {} if self.who is None else {SUBJECT.strip("{}"): self.who.concept.name}


def open_cast(subjects: Sequence[Path] = (), base: str = "", names: Sequence[str] = ()) -> Cast:
    """A learned subject, a ledger, several subjects, or without any a base for plain words (empty: toybox).

    Args:
        subjects: folders.
        base: only for plain words.
        names: of several subjects; empty: those of their folders.

    Raises:
        ArtifactError: a folder is neither, or subjects belong to different bases.
        UsageError: a subject and a base, or names that cannot be used.
    """
    if not subjects:
        return Cast(base or "toybox", None)
    if base:
        raise UsageError("--base belongs to prompts without a subject; a learned subject brings its own base.")
    if len(subjects) == 1 and not names:
        if (subjects[0] / "ledger.json").is_file():
            ledger = Ledger(subjects[0])
            return Cast(ledger.artifacts()[0].data.base_name, ledger)
        artifact = Artifact.load(subjects[0])
        return Cast(artifact.data.base_name, artifact)
    artifacts = [Artifact.load(path) for path in subjects]
    return several([*artifacts], names or [folder_name(path) for path in subjects])


def several(artifacts: Sequence[Artifact], names: Sequence[str]) -> Cast:
    """A cast of subjects that were learned apart.

    Raises:
        UsageError: see `named_subjects`.
        ArtifactError: they belong to different bases.
    """
    subjects = tuple(named_subjects(artifacts, names))
    bases = {artifact.data.base_fingerprint for artifact in artifacts}
    if len(bases) > 1:
        known = ", ".join(f"{subject.name} on {subject.artifact.data.base_name}" for subject in subjects)
        raise ArtifactError(f"subjects of one picture must be learned on one base; these were not: {known}.")
    return Cast(artifacts[0].data.base_name, subjects)


def split_subjects(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The folders of learned subjects that arguments begin with, and the prompts behind them.

    Raises:
        UsageError: no prompt, or a text with no subject's name among the folders.
    """
    count = next((i for i, text in enumerate(arguments) if "{" in text), len(arguments))
    folders, prompts = [Path(text) for text in arguments[:count]], list(arguments[count:])
    if not prompts:
        raise UsageError(
            'no prompt names a subject; put one behind the folders: rex pip "a photo of {rex} and {pip} on the beach".'
        )
    return folders, prompts


def folder_name(path: Path) -> str:
    """The name prompts use for a subject's folder: "My Rex/" is {my-rex}."""
    return re.sub(r"[^a-z0-9]+", "-", path.resolve().name.lower()).strip("-")


def name_all(text: str, words: Mapping[str, str]) -> str:
    """`text` with every `{name}` replaced by "a WORDS"; `{subject}` stands for all of them, joined by "and".

    Raises:
        UsageError: a name that nobody has.
    """
    text = text.replace(SUBJECT, " and ".join(f"{{{name}}}" for name in words))
    asked = dict.fromkeys(re.findall(r"{([^{}]*)}", text))
    unknown = [name for name in asked if name not in words]
    if unknown:
        raise UsageError(
            f"prompt {text!r} names {', '.join(unknown)}; expected "
            f"{', '.join(f'{{{name}}}' for name in words)}, or {SUBJECT} for all of them."
        )
    for name in asked:
        text = fill(text.replace(f"{{{name}}}", SUBJECT), words[name])
    return text


def subject_adapters(subject: NamedSubject, backbone: AbstractBackbone) -> list[AbstractAdapter]:
    """A subject's adapters under its new words, with what they learned, not yet injected.

    Raises:
        ArtifactError: it was learned on a base of another family.
    """
    data = subject.artifact.data
    if backbone.family != data.base_family:
        raise ArtifactError(
            f"{subject.name} was learned on a {data.base_family} base ({data.base_name}); {backbone.name} is of family "
            f"{backbone.family}."
        )
    adapters = []
    for key, config in subject.adapters.items():
        adapter = build_adapter(f"{subject.name.replace('-', '_')}_{key}", config)
        adapter.load_state_dict(data.tensors_of(key))
        adapters.append(adapter)
    return adapters


def check_words_alone(subjects: Sequence[NamedSubject]) -> None:
    """See that at most one subject changed weights: others would be drawn with them.

    Raises:
        UsageError: two or more did.
    """
    changed = [subject.name for subject in subjects if not all(_is_word(c) for c in subject.adapters.values())]
    if len(changed) > 1:
        raise UsageError(
            f"{', '.join(changed)} changed the base's weights, each for itself; in one pass they would spoil each "
            "other. Use `image together` with --method omg, or join them first with `merge`."
        )


def _is_word(config: AdapterConfig) -> bool:
    return isinstance(config, WORD_ADAPTERS)
