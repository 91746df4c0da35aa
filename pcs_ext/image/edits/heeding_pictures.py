"""Pictures of a learned subject in which the base helps to keep what the prompt says."""

import dataclasses
from collections.abc import Sequence
from typing import get_args

from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import SUBJECT
from pcs_ext.image.edits.concept_centric import ConceptCentricConfig, sample_guided_twice
from pcs_ext.image.edits.dci import DciConfig, sample_integrated
from pcs_ext.image.edits.freecure import FreeCureConfig, sample_cured
from pcs_ext.image.levels import to_pil
from pcs_ext.image.phrases import phrase_positions
from pcs_ext.image.subject import Artifact, GeneratedImage
from pcs_ext.reporter import Reporter, SilentReporter

HeedingConfig = DciConfig | FreeCureConfig | ConceptCentricConfig
HEEDING = get_args(HeedingConfig)
"""Settings of every way to heed a prompt."""


def draw_heeding(
    artifact: Artifact,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    config: HeedingConfig,
    words: str = "",
    negative_prompt: str = "",
    base: AbstractBackbone | None = None,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> list[GeneratedImage]:
    """Images of prompts: for each prompt, one per seed, in that order.

    Args:
        artifact: the subject.
        prompts: texts with `{subject}`.
        seeds: of the noise.
        config: by which method.
        words: what of every prompt FreeCure brings back.
        negative_prompt: what to stay away from.
        base: already loaded; None loads the subject's own.
        device, precision: of a base that is loaded here.
        reporter: hears the progress.

    Raises:
        UsageError: no prompt or seed, a prompt without `{subject}`, words that do not stand in one, or words for DCI.
        ArtifactError: the subject belongs to a base of another family.
    """
    if not prompts or not seeds:
        raise UsageError("pictures of a subject need at least one prompt and one seed, got none.")
    if isinstance(config, FreeCureConfig) != bool(words.strip()):
        raise UsageError('--words are what freecure, and only it, brings back: --method freecure --words "a red hat".')
    concept, reporter = artifact.concept, reporter or SilentReporter()
    for prompt in prompts if not isinstance(config, ConceptCentricConfig) else ():
        concept.prompt(prompt)  # says who is missing before anything is loaded
    backbone = base if base is not None else artifact.backbone(device=device, precision=precision)
    facts = {"edit": config.id, "base": backbone.name, "artifact": artifact.data.content_hash, "words": words.strip(),
             "negative_prompt": negative_prompt,
             **dataclasses.asdict(config.sampling)}  # fmt: skip
    made: list[GeneratedImage] = []
    with artifact.inside(backbone) as adapters:
        for prompt in prompts:
            for seed in seeds:
                picture = _drawn(backbone, adapters, artifact, prompt, words, seed, config, negative_prompt)
                made.append(GeneratedImage(to_pil(picture[0]), prompt, {"seed": seed, **facts}))
                reporter.progress("heed", len(made), len(prompts) * len(seeds))
    return made


def _drawn(
    backbone: AbstractBackbone,
    adapters: Sequence[AbstractAdapter],
    artifact: Artifact,
    prompt: str,
    words: str,
    seed: int,
    config: HeedingConfig,
    negative_prompt: str,
) -> Tensor:
    concept = artifact.concept
    negative_prompt = concept.negative_prompt(negative_prompt)
    plain = concept.class_prompt(prompt) if SUBJECT in prompt else prompt
    if isinstance(config, ConceptCentricConfig):
        return sample_guided_twice(backbone, adapters, plain, seed=seed, config=config, negative_prompt=negative_prompt)
    text = concept.prompt(prompt)
    if isinstance(config, FreeCureConfig):
        asked = phrase_positions(backbone, plain, words)
        return sample_cured(
            backbone, adapters, text, plain, asked, seed=seed, config=config, negative_prompt=negative_prompt
        )[0]
    own = phrase_positions(backbone, text, concept.name)
    noun = phrase_positions(backbone, plain, concept.class_noun, behind=prompt.partition(SUBJECT)[0])
    return sample_integrated(
        backbone, adapters, text, plain, own, noun, seed=seed, config=config, negative_prompt=negative_prompt
    )
