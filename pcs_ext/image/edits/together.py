"""Several learned subjects in one picture, each with its own words and weights in its own region."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.edits.boxes import Box
from pcs_ext.image.edits.cast import Cast, name_all, subject_adapters
from pcs_ext.image.edits.cones_2 import Cones2Config, cones_2_hooks
from pcs_ext.image.edits.mc2 import Mc2Config, compose_apart
from pcs_ext.image.edits.members import Composed, Member
from pcs_ext.image.edits.multibooth import MultiBoothConfig, compose_in_boxes
from pcs_ext.image.edits.omg import OmgConfig, compose
from pcs_ext.image.edits.one_by_one import one_by_one
from pcs_ext.image.edits.pacgen import PacgenConfig, compose_regionally
from pcs_ext.image.edits.regions import columns
from pcs_ext.image.levels import to_pil
from pcs_ext.image.merge.words import WORD_ADAPTERS, NamedSubject
from pcs_ext.image.prompt_programs import read_text
from pcs_ext.image.subject import GeneratedImage
from pcs_ext.reporter import Reporter, SilentReporter

Arrangement = Literal["columns", "base"]
TogetherConfig = OmgConfig | Cones2Config | MultiBoothConfig | Mc2Config | PacgenConfig
TOGETHER = get_args(TogetherConfig)
"""Settings of every way to draw several subjects."""
_COMPOSERS = {
    OmgConfig: compose,
    MultiBoothConfig: compose_in_boxes,
    Mc2Config: compose_apart,
    PacgenConfig: compose_regionally,
}
_PLACED = (Cones2Config, MultiBoothConfig, PacgenConfig)
"""Ways in which every subject needs a place."""


def usual_method(cast: Cast) -> str:
    """`cones-2` where all subjects are words alone, which one pass can draw; else `omg`."""
    adapters = [config for subject in _subjects(cast) for config in subject.adapters.values()]
    return "cones-2" if all(isinstance(config, WORD_ADAPTERS) for config in adapters) else "omg"


def draw_together(
    cast: Cast,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    config: TogetherConfig,
    boxes: Sequence[Box] = (),
    arrange: Arrangement = "columns",
    negative_prompt: str = "",
    base: AbstractBackbone | None = None,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> list[GeneratedImage]:
    """Images of prompts that name several subjects: for each prompt, one per seed, in that order.

    Args:
        cast: two or more subjects (`open_cast` or `several`).
        prompts: texts with `{name}` of each subject once, or `{subject}` for all of them.
        seeds: of the noise.
        config: by which method.
        boxes: where subjects shall stand, phrases `{name}` or name.
        arrange: without boxes, where subjects stand: `columns`, side by side in the order of the prompt, or with OMG
            `base`, where the base draws their nouns.
        negative_prompt: what to stay away from.
        base: already loaded; None loads the subjects' own.
        device, precision: of a base that is loaded here.
        reporter: hears the progress, and of subjects for whom the base drew nothing.

    Raises:
        UsageError: no prompt or seed, a subject that a prompt does not name or names twice, a box of nobody, an
            arrangement that the method does not have.
        ArtifactError: subjects of different bases.
    """
    subjects, reporter = _subjects(cast), reporter or SilentReporter()
    if not prompts or not seeds:
        raise UsageError("several subjects need at least one prompt and one seed, got none.")
    named = [_all_named(prompt, subjects) for prompt in prompts]
    given = _placed(boxes, subjects)
    _check_places(config, arrange, given)
    backbone = base if base is not None else load_backbone(cast.base_name, device=device, precision=precision)
    made: list[GeneratedImage] = []
    for prompt, text in zip(prompts, named, strict=True):
        free = arrange == "base" or isinstance(config, Mc2Config)
        placed = given if given or free else _columns(text, subjects)
        facts = {
            "edit": config.id, "base": backbone.name, "negative_prompt": negative_prompt, "artifacts": cast.hashes(),
            "subjects": [subject.name for subject in subjects], **dataclasses.asdict(config.sampling),
        }  # fmt: skip
        if isinstance(config, Cones2Config):
            drawn = _by_layout(backbone, cast, text, placed, seeds, config, negative_prompt, reporter)
        else:
            drawn = _by_members(backbone, subjects, text, placed, seeds, config, negative_prompt, reporter)
        made += [
            GeneratedImage(to_pil(image), prompt, {"seed": seed, **facts, **own})
            for (image, own), seed in zip(drawn, seeds, strict=True)
        ]
    return made


def _by_layout(
    backbone: AbstractBackbone,
    cast: Cast,
    text: str,
    placed: Mapping[str, Box],
    seeds: Sequence[int],
    config: Cones2Config,
    negative_prompt: str,
    reporter: Reporter,
) -> list[tuple[Any, dict[str, Any]]]:
    words = {subject.name: subject.words for subject in _subjects(cast)}
    meant = [dataclasses.replace(box, phrase=words[name]) for name, box in placed.items()]
    with cast.applied(backbone):
        prompt = name_all(text, words)
        images = one_by_one(
            backbone, prompt, cones_2_hooks(backbone, prompt, meant, config), seeds=seeds, sampling=config.sampling,
            negative_prompt=negative_prompt, task="layout", reporter=reporter,
        )  # fmt: skip
    return [(image, {"boxes": _plain(placed)}) for image in images]


def _by_members(
    backbone: AbstractBackbone,
    subjects: Sequence[NamedSubject],
    text: str,
    placed: Mapping[str, Box],
    seeds: Sequence[int],
    config: OmgConfig | MultiBoothConfig | Mc2Config | PacgenConfig,
    negative_prompt: str,
    reporter: Reporter,
) -> list[tuple[Any, dict[str, Any]]]:
    nouns = {subject.name: subject.artifact.concept.class_noun for subject in subjects}
    members = [_member(backbone, subject, text, nouns, placed.get(subject.name)) for subject in subjects]
    drawn = []
    composer: Any = _COMPOSERS[type(config)]
    for index, seed in enumerate(seeds):
        made = composer(
            backbone, name_all(text, nouns), members, seed=seed, config=config, negative_prompt=negative_prompt
        )
        drawn.append((made.picture[0], {"boxes": _plain(placed), "regions": _shares(made, subjects, seed, reporter)}))
        reporter.progress("together", index + 1, len(seeds))
    return drawn


def _shares(made: Composed, subjects: Sequence[NamedSubject], seed: int, reporter: Reporter) -> dict[str, float]:
    """The share of the picture that each subject has; says who has none."""
    shares = {s.name: round(float(region.mean()), 4) for s, region in zip(subjects, made.regions, strict=True)}
    for name in (name for name, share in shares.items() if not share):
        reporter.event(
            "missing", f"seed {seed}: the base drew nothing in {name}'s place; give it a --box", subject=name
        )
    return shares


def _member(
    backbone: AbstractBackbone, subject: NamedSubject, text: str, nouns: Mapping[str, str], box: Box | None
) -> Member:
    adapters, words = subject_adapters(subject, backbone), {**nouns, subject.name: subject.words}
    with injected(backbone, *adapters):  # learned words are tokens of the base only now
        at = {name: _positions(backbone, text, words, name) for name in words}
    return Member(
        adapters=adapters,
        prompt=name_all(text, words),
        own=at.pop(subject.name),
        others=[position for positions in at.values() for position in positions],
        noun=_positions(backbone, text, nouns, subject.name),
        box=box,
    )


def _positions(backbone: AbstractBackbone, text: str, words: Mapping[str, str], name: str) -> tuple[int, ...]:
    """Tokens of one subject's words in the filled text, also where others have the same words.

    Raises:
        UsageError: they lie behind the encoder's limit.
    """
    before = text[: text.index(f"{{{name}}}")]
    skipped = name_all(before, words) if "{" in before else before
    filled = name_all(text, words)
    tokenizer = backbone.tokenizers[0]
    prefix = filled[: filled.index(words[name], len(skipped))]
    count, length = (
        len(tokenizer(read_text(backbone, part), add_special_tokens=False).input_ids) for part in (prefix, words[name])
    )
    if count + length + 2 > tokenizer.model_max_length:
        raise UsageError(
            f"{words[name]!r} stands behind the {tokenizer.model_max_length - 2} tokens that the text encoder reads of "
            f"{filled!r}; put it further to the front."
        )
    return tuple(range(count + 1, count + 1 + length))


def _check_places(config: TogetherConfig, arrange: Arrangement, given: Mapping[str, Box]) -> None:
    if arrange == "base" and isinstance(config, _PLACED) and not given:
        raise UsageError(f"{config.id} needs places for its subjects; give boxes, or leave --arrange at columns.")
    if isinstance(config, Mc2Config) and given:
        raise UsageError("mc2 lets subjects find their places; leave boxes out, or take --method omg or multibooth.")


def _subjects(cast: Cast) -> tuple[NamedSubject, ...]:
    if not isinstance(cast.who, tuple):
        raise UsageError("several subjects in one picture need two or more folders of `learn`, each by itself.")
    return cast.who


def _all_named(prompt: str, subjects: Sequence[NamedSubject]) -> str:
    """The prompt with `{subject}` spelled out, every subject in it once."""
    text = prompt.replace("{subject}", " and ".join(f"{{{subject.name}}}" for subject in subjects))
    name_all(text, {subject.name: subject.name for subject in subjects})
    wrong = [subject.name for subject in subjects if text.count(f"{{{subject.name}}}") != 1]
    if wrong:
        raise UsageError(
            f"prompt {prompt!r} must name every subject once; it has "
            f"{', '.join(f'{{{name}}}' for name in wrong)} never or more than once."
        )
    return text


def _columns(text: str, subjects: Sequence[NamedSubject]) -> dict[str, Box]:
    """Boxes side by side, in the order in which the text names the subjects."""
    names = sorted((subject.name for subject in subjects), key=lambda name: text.index(f"{{{name}}}"))
    return {box.phrase: box for box in columns(names)}


def _plain(placed: Mapping[str, Box]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(box) for box in placed.values()]


def _placed(boxes: Sequence[Box], subjects: Sequence[NamedSubject]) -> dict[str, Box]:
    """Boxes by the subject's name."""
    known = {subject.name for subject in subjects}
    placed: dict[str, Box] = {}
    for box in boxes:
        name = box.phrase.strip("{} ")
        if name not in known or name in placed:
            raise UsageError(f"a box is for {box.phrase!r}; expected one of {', '.join(sorted(known))}, each once.")
        placed[name] = dataclasses.replace(box, phrase=name)
    return placed
