"""Who may stand in a layout, plain words, a learned subject or a ledger of them, and the pictures of it."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.concept import SUBJECT
from pcs_ext.image.edits.boxes import Box, check_boxes
from pcs_ext.image.edits.layout import LayoutConfig, sample_layout
from pcs_ext.image.ledger import Ledger
from pcs_ext.image.subject import Artifact, GeneratedImage, to_pil
from pcs_ext.reporter import Reporter


@dataclasses.dataclass(frozen=True)
class Cast:
    """What prompts may name beside plain words."""

    base_name: str
    who: Artifact | Ledger | None
    """None: plain words alone."""

    def words(self, text: str) -> str:
        """The text with the words of subjects in it; texts that name none stay as they are."""
        if isinstance(self.who, Ledger):
            return self.who.prompt(text) if "{" in text else text
        if SUBJECT in text and self.who is None:
            raise UsageError(f"{text!r} names {SUBJECT}, but no learned subject was given; add --subject FOLDER.")
        return self.who.concept.prompt(text) if self.who is not None and SUBJECT in text else text

    def phrase(self, text: str) -> str:
        """Words of a box's phrase, without the article that a prompt puts before a subject."""
        if isinstance(self.who, Ledger):
            for name, artifact in zip(self.who.names, self.who.artifacts(), strict=True):
                text = text.replace(f"{{{name}}}", artifact.concept.name)
            return text
        return text if self.who is None else text.replace(SUBJECT, self.who.concept.name)

    def applied(self, backbone: AbstractBackbone) -> contextlib.AbstractContextManager[Any]:
        """The backbone with all subjects in it."""
        return contextlib.nullcontext() if self.who is None else self.who.applied(backbone)

    def hashes(self) -> list[str]:
        """Content hashes of the subjects."""
        artifacts = self.who.artifacts() if isinstance(self.who, Ledger) else [self.who] if self.who else []
        return [artifact.data.content_hash for artifact in artifacts]


def open_cast(subject: Path | None, base: str = "") -> Cast:
    """A learned subject, a ledger, or with None a base for plain words (empty: toybox).

    Raises:
        ArtifactError: the folder is neither.
        UsageError: a subject and a base.
    """
    if subject is None:
        return Cast(base or "toybox", None)
    if base:
        raise UsageError("--base belongs to prompts without a subject; a learned subject brings its own base.")
    if (subject / "ledger.json").is_file():
        ledger = Ledger(subject)
        return Cast(ledger.artifacts()[0].data.base_name, ledger)
    artifact = Artifact.load(subject)
    return Cast(artifact.data.base_name, artifact)


def draw_layouts(
    cast: Cast,
    prompts: Sequence[str],
    boxes: Sequence[Box],
    *,
    seeds: Sequence[int],
    config: LayoutConfig,
    negative_prompt: str = "",
    base: AbstractBackbone | None = None,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> list[GeneratedImage]:
    """Images of prompts with their words in boxes: for each prompt, one per seed, in that order.

    Args:
        cast: who may be named.
        prompts: texts, with `{subject}` or a ledger's `{name}` where a subject goes.
        boxes: of phrases that stand in every prompt, likewise.
        seeds, config, negative_prompt: see `sample_layout`.
        base: already loaded.
        device, precision: of a base that is loaded here.
        reporter: hears the progress.

    Raises:
        UsageError: no prompt, no seed, no box, or one whose phrase does not stand in a prompt.
    """
    check_boxes(boxes)
    if not prompts or not seeds:
        raise UsageError("a layout needs at least one prompt and one seed, got none.")
    texts = [cast.words(prompt) for prompt in prompts]
    meant = [dataclasses.replace(box, phrase=cast.phrase(box.phrase)) for box in boxes]
    backbone = base if base is not None else load_backbone(cast.base_name, device=device, precision=precision)
    facts = {
        "edit": config.id, "base": backbone.name, "artifacts": cast.hashes(), **dataclasses.asdict(config.sampling),
        "boxes": [dataclasses.asdict(box) for box in boxes],
    }  # fmt: skip
    made = []
    with cast.applied(backbone):
        for prompt, text in zip(prompts, texts, strict=True):
            images = sample_layout(
                backbone, text, meant, seeds=seeds, config=config, negative_prompt=negative_prompt, reporter=reporter
            )
            made += [
                GeneratedImage(to_pil(image), prompt, {"seed": seed, **facts})
                for image, seed in zip(images, seeds, strict=True)
            ]
    return made
