"""A recipe is a value: how the subject is named, what trains, on which loss and data, in which phases."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, PhotoError, UsageError
from pcs_ext.image.active import ActiveConfig
from pcs_ext.image.adapters import AdapterConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation, Photo
from pcs_ext.image.degradation import DegradeConfig
from pcs_ext.image.early_stopping import DvarConfig
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.guided import GuideShare
from pcs_ext.image.hiding import HideConfig
from pcs_ext.image.mask_estimate import EstimateConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.rewards.config import RewardConfig
from pcs_ext.image.sample import SampleConfig
from pcs_ext.image.selection import SelectConfig

Preset = Literal["toybox", "sd", "sdxl"]
_REACHING = frozenset({"attention", "context", "pair", "invariance"})
"""Kinds of terms that read or change what the denoiser does inside, in ways that are gone in the backward pass."""


@config
class Phase:
    """One run of `fit`: the named adapters train, every other adapter of the recipe stays in place, frozen."""

    name: str
    """Appears in logs and checkpoints; unique within the recipe."""
    learning_rates: dict[str, float]
    """Learning rate by `adapter` or `adapter/group` (group: denoiser, text_encoder, text_encoder_2, embedding,
    image).
    What is not named does not train in this phase."""
    weight_decay: float = 0.0
    """AdamW's decoupled decay of every group; learned token rows are never decayed."""
    batch_size: int = 1
    """Photos per micro-batch; with prior preservation as many class images are stacked on top."""
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    """The loss."""
    fit: FitConfig
    """Steps, optimiser, schedule, precision, checkpoints."""
    dvar: DvarConfig | None = None
    """Deterministic early stopping; None trains all the steps."""
    unconditional: bool = False
    """Photos are shown without words: the subject becomes what is drawn when nothing is asked."""
    degrade: DegradeConfig | None = None
    """Noise on what the masks leave out, fading; None: photos as they are."""
    hide: HideConfig | None = None
    """Random parts of photos are neither shown nor count; None: photos whole."""
    estimate: EstimateConfig | None = None
    """Photos' masks are estimated from the words' attention, again and again; None: they come with the photos."""
    reward: RewardConfig | None = None
    """Pictures that the model makes are judged, beside the loss or in its place; None: photos alone teach."""
    keep_norms: tuple[float, float] | None = None
    """From which to which part of the steps, in [0, 1], learned rows keep their lengths (CoRe); None: in none."""
    guide: GuideShare | None = None
    """How often adapters of kind `guide` are told where the photos' subjects are; None: never."""
    part: int | None = None
    """Learn from the photos that show this one of several subjects, counted from 0; None: from all."""

    def __post_init__(self) -> None:
        if self.keep_norms is not None and not 0 <= self.keep_norms[0] < self.keep_norms[1] <= 1:
            raise ConfigError(
                f"keep_norms of phase {self.name!r} must be two parts of the steps such as [0.4, 0.6], got "
                f"{list(self.keep_norms)}."
            )
        if self.part is not None and self.part < 0:
            raise ConfigError(f"part of phase {self.name!r} counts subjects from 0, got {self.part}.")

    @property
    def keeps_averages(self) -> bool:
        """Whether exponential averages are what it leaves; those of a balance are a teacher, and the pupil is kept."""
        return self.fit.ema_decay is not None and self.objective.balance is None


@config
class PhotoContext:
    """Learned words before the subject's in every photo's caption, each photo its own."""

    words: tuple[str, ...]
    """What each starts at, in order: `("photo", "of")`."""
    learning_rate: float
    """In every phase."""

    def __post_init__(self) -> None:
        if not self.words or self.learning_rate <= 0:
            raise ConfigError("a photo's context has one word or more, and a positive learning_rate.")


@config
class Recipe:
    """A system of the survey made runnable. Saved in every artifact; `learn` takes nothing else as configuration."""

    id: str
    """Key in `RECIPES`."""
    concept: Concept
    """How prompts name the subject."""
    adapters: dict[str, AdapterConfig]
    """What is added to the backbone, by name."""
    phases: tuple[Phase, ...]
    """Run one after another; adapters carry over."""
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    """How photos are varied."""
    class_images: int = 0
    """Class images for prior preservation, generated by the base once and cached; 0 when no phase uses them."""
    class_template: str = "a photo of {subject}"
    """Prompt of the class images, with the class noun in place of `{subject}`."""
    class_templates: tuple[str, ...] = ()
    """Several prompts instead, each for an equal share of the class images and their caption; empty: the one above."""
    class_caption: str = ""
    """What class images are learned with instead of the prompt that made them; empty: that prompt."""
    photo_context: PhotoContext | None = None
    """Words that take in what is particular to each photo, instead of templates and captions; None: those count."""
    active: ActiveConfig | None = None
    """Learn in rounds, beside pictures of the subject that the rounds before made; None: once."""
    select: SelectConfig | None = None
    """Learn in rounds from the best of many photos, each round from more of them; None: from all, once."""
    concept_crops: bool = False
    """Photos with numbered masks become several: the whole, and a square around each thing with its own caption."""
    needs_masks: bool = False
    """Whether every photo must have a mask; without it the recipe would be another method."""
    needs_caption: str = ""
    """A word that the caption of some photos must say and of others must not; empty: captions are free."""
    needs_cameras: bool = False
    """Whether a `transforms.json` must say what camera took every photo."""
    needs_before: bool = False
    """Whether every photo must have a picture of how it was before."""
    sampling: SampleConfig = dataclasses.field(default_factory=SampleConfig)
    """How previews, class images and later generations are sampled unless told otherwise."""

    def validate(self) -> None:
        """Check what types cannot say.

        Raises:
            ConfigError: a phase trains an adapter that is not there, or asks for prior preservation without images.
        """
        if self.augmentation.pack > 1 and self.class_images:
            raise ConfigError("packed photos have no class images beside them; set class_images to 0, or pack to 1.")
        if self.active is not None and self.select is not None:
            raise ConfigError("a recipe learns in rounds of its own pictures or of chosen photos; set one to null.")
        for phase in self.phases:
            unknown = {key.split("/")[0] for key in phase.learning_rates} - self.adapters.keys()
            if unknown:
                raise ConfigError(
                    f"phase {phase.name!r} sets learning rates for {sorted(unknown)}; "
                    f"the recipe's adapters are {sorted(self.adapters)}."
                )
            composed = phase.objective.composed
            words = set() if composed is None else {composed.subject, composed.style}
            if not words <= self.adapters.keys():
                raise ConfigError(
                    f"phase {phase.name!r} composes the words of {sorted(words)}; the recipe's adapters are "
                    f"{sorted(self.adapters)}."
                )
            if phase.objective.train_guidance != 1 and not self.concept.negative:
                raise ConfigError(
                    f"phase {phase.name!r} guides in training by {phase.objective.train_guidance}, which needs a "
                    "negative word; set the concept's `negative` to a placeholder, or train_guidance to 1."
                )
            if phase.part is not None and phase.part >= len(self.concept.parts):
                raise ConfigError(
                    f"phase {phase.name!r} learns subject {phase.part}, counted from 0; there are "
                    f"{len(self.concept.parts)} ({', '.join(self.concept.parts) or 'one, without a number'})."
                )
            if phase.objective.balance is not None and phase.fit.ema_decay is None:
                raise ConfigError(
                    f"phase {phase.name!r} balances subjects against averaged weights; set ema_decay of its fit (0.99)."
                )
            if phase.objective.prior_loss_weight > 0 and self.class_images == 0:
                raise ConfigError(
                    f"phase {phase.name!r} has prior_loss_weight {phase.objective.prior_loss_weight} but the recipe "
                    "makes no class images; set class_images to 100 or more, or prior_loss_weight to 0."
                )

    def check_photos(self, photos: Sequence[Photo]) -> None:
        """See that each photo has beside it what this recipe needs.

        Raises:
            PhotoError: one has no mask, or no picture of how it was before, or none has things in it.
        """
        if self.concept_crops and all(photo.parts is None for photo in photos):
            raise PhotoError(
                f"{self.id} learns every thing in a picture and needs to know where they are; put black and white "
                f"{photos[0].path.stem}_mask1.png, {photos[0].path.stem}_mask2.png and so on beside "
                f"{photos[0].path.name}, and {photos[0].path.stem}.txt with a line for it and one for each."
            )
        bare = [photo.path for photo in photos if photo.mask is None]
        if self.needs_masks and bare:
            raise PhotoError(
                f"{self.id} looks at the subject alone and needs a mask beside every photo; none was found for "
                f"{_names(bare)}. Put a black and white {bare[0].stem}_mask.png there, or an alpha channel into the "
                "photo."
            )
        compares = any(term.kind == "invariance" for phase in self.phases for term in phase.objective.terms)
        if compares and len(photos) < 2:
            raise PhotoError(
                f"{self.id} learns what photos have in common and needs two or more, got one; add another."
            )
        single = [photo.path for photo in photos if photo.before is None]
        if self.needs_before and single:
            raise PhotoError(
                f"{self.id} learns what was done to pictures and needs each as it was before; none was found for "
                f"{_names(single)}. Put {single[0].stem}_before.png there, of the same shape."
            )

        said = [self.needs_caption in (photo.caption or "") for photo in photos]
        if self.needs_caption and (not any(said) or all(said)):
            raise PhotoError(
                f"{self.id} learns from photos of two kinds and tells them apart by {self.needs_caption} in the text "
                f"beside them; it stands beside {'all' if all(said) else 'none'}. Put NAME.txt beside those that it "
                f'is about, for example "a photo of a {self.concept.class_noun} in {self.needs_caption} style", and '
                "none beside the others."
            )

    def check_recomputable(self) -> None:
        """See that activations can be computed again in the backward pass, when all that stood around the forward pass
        is gone.

        Raises:
            UsageError: a term, or packed photos, reach into the denoiser meanwhile.
        """
        reaching = {term.kind for phase in self.phases for term in phase.objective.terms} & _REACHING
        if reaching or self.augmentation.pack > 1:
            what = ", ".join([*sorted(reaching), *(["packed photos"] if self.augmentation.pack > 1 else [])])
            raise UsageError(
                f"{self.id} reaches into the denoiser while it learns ({what}), which cannot be repeated where "
                "activations are computed again; leave out --checkpoint-activations."
            )

    @property
    def steps(self) -> int:
        """Optimiser steps of all phases."""
        return sum(phase.fit.steps for phase in self.phases)

    def with_steps(self, steps: int) -> "Recipe":
        """The same recipe, its phases shortened or lengthened in proportion to `steps` in all."""
        scale = steps / self.steps
        phases = tuple(
            dataclasses.replace(phase, fit=dataclasses.replace(phase.fit, steps=max(1, round(phase.fit.steps * scale))))
            for phase in self.phases
        )
        return dataclasses.replace(self, phases=phases)


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:5])


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeEntry:
    """What `RECIPES` holds: enough to list a recipe without building it."""

    id: str
    summary: str
    """One line for lists."""
    paper: str
    """Where it is described: arXiv id, DOI or journal."""
    system: str
    """Row of the survey this recipe implements: an id of `systems.json`."""
    scope: str
    """What it is for, and where it keeps it: the heading in lists."""
    build: Callable[[str, Preset], Recipe]
    """`(class noun, preset) -> Recipe`: the paper's hyperparameters for `sd` and `sdxl`, small ones for `toybox`."""
