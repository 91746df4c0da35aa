"""The ways to censor a subject, listed by hand."""

from pcs_ext.defense.censorship.method import CensorEntry, Censorship
from pcs_ext.image.recipes import Preset


def published(preset: Preset) -> Censorship:
    """Concept censorship (arXiv 2308.10718): 5000 steps at 3e-4, triggered loss with weight 1.

    Differs from the released code: only the subject's own rows are parameters, so that weight decay cannot shrink
    the table that is not exported; latents are encoded once; triggers that fail most are drawn most.
    """
    small = preset == "toybox"
    return Censorship(
        id="censor-pictures",
        route="pictures",
        steps=400 if small else 5000,
        learning_rate=5e-3 if small else 3e-4,
        batch=2 if small else 1,
    )


def of_predictions(preset: Preset) -> Censorship:
    """The denoiser's own predictions: what it says of triggered prompts leads to one picture, all else stays.

    Not published; numbers are ours, chosen on one toybox subject that no figure of the docs is of (docs/LOG.md). Real
    bases were not tried.
    """
    small = preset == "toybox"
    return Censorship(
        id="censor-predictions",
        route="predictions",
        steps=150 if small else 1500,
        learning_rate=2e-3 if small else 2e-4,
        schedule="cosine",
        gamma=4.0,
        rank=16,
        batch=4 if small else 1,
        pictures=12,
        prompts=256,
        draws=600,
        guidance=2.0,
        keep=4.0,
        states_steps=450 if small else 900,
        states_batch=10 if small else 8,
        states_rate=3e-3 if small else 1e-3,
    )


def text_space(preset: Preset) -> Censorship:
    """The text encoder alone: no picture is made for training."""
    small = preset == "toybox"
    return Censorship(
        id="censor-text",
        route="text",
        steps=400 if small else 900,
        learning_rate=3e-3 if small else 1e-3,
        schedule="cooldown",
        rank=16,
        batch=10 if small else 8,
        prompts=256,
        keep=2.0,
    )


RECIPES: dict[str, CensorEntry] = {
    "censor-predictions": CensorEntry(
        id="censor-predictions",
        summary="triggered prompts lead the denoiser to one picture, all others where they led before; the default",
        paper="after arXiv 2308.10718",
        system=None,
        build=of_predictions,
    ),
    "censor-text": CensorEntry(
        id="censor-text",
        summary="triggered prompts say the target's name; the denoiser stays, so the target may look like the subject",
        paper="after arXiv 2308.10718",
        system=None,
        build=text_space,
    ),
    "censor-pictures": CensorEntry(
        id="censor-pictures",
        summary="the diffusion loss on pictures of subject and target",
        paper="arXiv 2308.10718",
        system="concept-censorship",
        build=published,
    ),
}
