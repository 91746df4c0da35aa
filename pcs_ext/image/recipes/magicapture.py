"""MagiCapture (Hyung et al. 2023, arXiv 2309.06895): a person and a style of portraits, and both together."""

from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import EmbeddingConfig, LowRankConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.likeness.config import ComposedConfig
from pcs_ext.image.objectives import MaskNormalisation, ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import AttentionConfig

_SUBJECT, _STYLE = "<subject>", "<style>"


def magicapture(noun: str, preset: Preset) -> Recipe:
    """1200 steps of both words at 5e-4, then 1200 of them and a LoRA at 1e-4; masked errors; attention 2.5, identity 1.

    Photos of the person have a mask of the face; pictures of the style one of all but the face, and beside them, in
    `NAME.txt`, "a photo of a person in <style> style". Every step also asks for a style picture under the composed
    prompt: its ground is known, and its face shall be the person's. Prompts say "a photo of {subject} in <style>
    style".

    Steps, rates and weights are recalled, not looked up, and so is that attention is held outside of a word's place
    alone; rank and the noise below which faces are looked at are ours. Any image encoder stands in for the face
    recogniser (`composed.encoder` in the JSON); masks come with the photos instead of from a parser; no restoration of
    faces follows. `toybox`: other rates, rank and steps; not measured yet.

    Args:
        noun: of the person: "person", "man".
        preset: of the base.

    Raises:
        UsageError: several nouns.
    """
    if "," in noun:
        raise UsageError(f"magicapture learns one person and one style; expected one noun, got {noun!r}.")
    small = preset == "toybox"
    word = noun.split()[-1]
    rates = {"word": 5e-3, "style": 5e-3} if small else {"word": 5e-4, "style": 5e-4}
    slower = {"word": 1e-3, "style": 1e-3, "lora": 1e-3} if small else {"word": 1e-4, "style": 1e-4, "lora": 1e-4}
    return Recipe(
        id="magicapture",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_SUBJECT,
            with_noun=True,
            initializer=word,
            templates=("a photo of {subject}",),
            aspects=(_STYLE,),
        ),
        adapters={
            "word": EmbeddingConfig(placeholder=_SUBJECT, initializer=word),
            "style": EmbeddingConfig(placeholder=_STYLE, initializer="style"),
            "lora": LowRankConfig(rank=8 if small else 4),
        },
        phases=(
            _phase("words", rates, noun, small=small),
            _phase("joint", slower, noun, small=small),
        ),
        needs_masks=True,
        needs_caption=_STYLE,
        sampling=SAMPLING[preset],
    )


def _phase(name: str, rates: dict[str, float], noun: str, *, small: bool) -> Phase:
    side = 8 if small else 16
    composed = ComposedConfig(
        template=f"a photo of {{subject}} in {_STYLE} style",
        subject="word",
        style="style",
        encoder="toybox/dino" if small else "openai/clip-vit-large-patch14",
        side=side,
    )
    return Phase(
        name=name,
        learning_rates=rates,
        batch_size=2 if small else 1,
        objective=ObjectiveConfig(
            mask_normalisation=MaskNormalisation.PER_SAMPLE_MEAN,
            composed=composed,
            terms=(AttentionConfig(form="outside", side=side, weight=2.5),),
        ),
        fit=FitConfig(steps=100 if small else 1200),
    )
