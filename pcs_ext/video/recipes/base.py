"""A motion recipe is a value: which layers train, in which passes, on which losses, and how clips are made of it."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes import Recipe
from pcs_ext.image.sample import SampleConfig
from pcs_ext.image.timesteps import TimestepSampling
from pcs_ext.video.alignment import AlignmentConfig
from pcs_ext.video.backbones.inflated import CrossFrame
from pcs_ext.video.mask_fusion import FusionConfig
from pcs_ext.video.recipes.layers import MOTION, PROTAGONIST, LayersConfig, NetworksConfig, WordConfig
from pcs_ext.video.sample import ClipConfig

Preset = Literal["toybox", "sd"]
"""sd: the paper's values, for models of the size of Stable Diffusion. toybox: fewer, larger steps for the embedded
base; there is no second set for other small models."""
LossName = Literal[
    "denoising",
    "debiased",
    "residual_l2",
    "residual_cosine",
    "residual_absolute_cosine",
    "after_first",
    "appearance_statistics",
    "motion_attention",
]
"""denoising: squared error. debiased: MotionDirector's phi, a random anchor frame. residual_*: VMC's differences of
neighbouring frames. after_first: LAMP's, the first frame clean and out of the loss. appearance_statistics:
MotionCrafter's, held to the model without any adapter. motion_attention: SAVE's, the motion's word looks where its
protagonist moves."""


@config
class MotionPass:
    """One forward and backward pass of a step, with its own set of active adapters."""

    trains: tuple[str, ...]
    """Adapters that get this pass's gradients."""
    beside: tuple[str, ...] = ()
    """Adapters that are in place and frozen. All others are as if they were not there."""
    frames: Literal["one", "all"] = "all"
    """one: a random frame, past every temporal layer."""
    clips: Literal["own", "prior"] = "own"
    """prior: real clips of the same kind of actors that do something else, which the user brings."""
    losses: dict[LossName, float]
    """Weight by loss."""
    skipped: float = 0.0
    """Share of steps without this pass; in those its adapters are not there in the other passes either."""
    untold: float = 0.0
    """Share of steps in which networks are not told what the clip looks like."""
    textless: float = 0.0
    """Share of steps with an empty prompt."""


@config
class MotionPhase:
    """One run of `fit`: in every step all its passes, one after another."""

    name: str
    """Appears in logs and checkpoints; unique within the recipe."""
    passes: tuple[MotionPass, ...]
    """In this order."""
    learning_rates: dict[str, float]
    """By adapter."""
    weight_decay: float = 0.0
    """AdamW's decoupled decay; learned words are never decayed."""
    timesteps: TimestepSampling = dataclasses.field(default_factory=TimestepSampling)
    """Which noise levels are visited; a flow draws its own."""
    noise_offset: float = 0.0
    """Add this times one normal number per channel and frame to the noise of a clip."""
    fit: FitConfig
    """Steps, optimiser, schedule. Its gradient_accumulation is the number of passes; what is given here is not used."""


@config
class MotionRecipe:
    """A system of the survey that learns a motion from clips."""

    id: str
    """Key in `RECIPES`."""
    adapters: dict[str, LayersConfig | WordConfig | NetworksConfig]
    """What is added to the backbone, by name."""
    phases: tuple[MotionPhase, ...]
    """Run one after another; adapters carry over."""
    plays: tuple[str, ...]
    """Adapters that make clips afterwards: those that hold the motion."""
    fusion: FusionConfig = dataclasses.field(default_factory=FusionConfig)
    """How clips change inside a mask alone, where one is given."""
    alignment: AlignmentConfig | None = None
    """Tune motion and subject to each other before a clip is made of both; None: they meet as they are."""
    inflation: CrossFrame | None = None
    """Learn on an image model that is inflated to clips so; None: on a model that makes clips."""
    frames: int = 16
    """Frames of a training clip."""
    stride: int = 1
    """Frames of the source from one to the next."""
    sampling: SampleConfig = dataclasses.field(default_factory=SampleConfig)
    """How clips are sampled unless told otherwise."""
    clip: ClipConfig = dataclasses.field(default_factory=ClipConfig)
    """Starting noise of clips."""
    reference_share: float = 0.3
    """Share of a reference clip's inverted noise where one is given; MotionDirector: 0.1 to 0.5 for one clip."""

    def validate(self) -> None:
        """Check what types cannot say.

        Raises:
            ConfigError: a pass, a learning rate or `plays` names an adapter that is not there, or nothing trains.
        """
        for phase in self.phases:
            for step in phase.passes:
                self._known(f"a pass of phase {phase.name!r}", {*step.trains, *step.beside})
                if not step.trains or not step.losses:
                    raise ConfigError(f"a pass of phase {phase.name!r} trains nothing or has no loss.")
            self._known(f"phase {phase.name!r}", set(phase.learning_rates))
            without = {name for step in phase.passes for name in step.trains} - phase.learning_rates.keys()
            if without:
                raise ConfigError(f"phase {phase.name!r} trains {sorted(without)} without a learning rate.")
        self._known("plays", set(self.plays))

    @property
    def words(self) -> dict[str, WordConfig]:
        """What is learned as a word, by what prompts write for it."""
        return {layers.stands_for: layers for layers in self.adapters.values() if isinstance(layers, WordConfig)}

    @property
    def word(self) -> str:
        """What prompts say for the motion; empty where no word is learned."""
        return self.words[MOTION].placeholder if MOTION in self.words else ""

    def with_protagonist(self, noun: str) -> "MotionRecipe":
        """The same recipe, the protagonist's word starting at a noun.

        Raises:
            UsageError: there is such a word and no noun, or the other way round.
        """
        if (PROTAGONIST in self.words) != bool(noun.strip()):
            raise UsageError(
                f"{self.id} learns a word for who does the motion; say with --noun what it is: dog, toy robot."
                if PROTAGONIST in self.words
                else f"--noun is for recipes that learn a subject from photos; {self.id} learns a motion."
            )
        return self._with(
            lambda layers: (
                dataclasses.replace(layers, initializer=noun.split()[-1])
                if isinstance(layers, WordConfig) and layers.stands_for == PROTAGONIST
                else layers
            )
        )

    def settled(self, *, width_told: int = 0) -> "MotionRecipe":
        """The same recipe with what only learning knows: the width of looks, and frames for words by frame."""

        def known(layers: LayersConfig | WordConfig | NetworksConfig) -> LayersConfig | WordConfig | NetworksConfig:
            if isinstance(layers, NetworksConfig) and layers.told:
                return dataclasses.replace(layers, width_told=width_told)
            if isinstance(layers, WordConfig) and layers.per_frame:
                return dataclasses.replace(layers, frames=self.frames)
            return layers

        return self._with(known)

    def _with(self, change: Callable[..., LayersConfig | WordConfig | NetworksConfig]) -> "MotionRecipe":
        return dataclasses.replace(self, adapters={name: change(layers) for name, layers in self.adapters.items()})

    @property
    def chooses_blocks(self) -> bool:
        """Whether learning has to choose blocks for a share of the layers."""
        layers = [layers for layers in self.adapters.values() if isinstance(layers, LayersConfig)]
        return any(chosen.share < 1 and not chosen.blocks for chosen in layers)

    @property
    def told(self) -> bool:
        """Whether networks are told what a clip looks like, for which an image encoder is needed."""
        return any(isinstance(layers, NetworksConfig) and layers.told for layers in self.adapters.values())

    @property
    def needs_prior(self) -> bool:
        """Whether clips of something else are learned from beside the motion's own."""
        return any(step.clips == "prior" for phase in self.phases for step in phase.passes)

    @property
    def keeps_clip(self) -> bool:
        """Whether its clips start from nothing but the inverted noise of the clip that it learned from.

        The motion then keeps that clip's beginning, which is also all that it learns from.
        """
        return self.reference_share >= 1

    @property
    def span(self) -> int:
        """Frames of the source that a training clip reaches over."""
        return (self.frames - 1) * self.stride + 1

    @property
    def reads_attention(self) -> bool:
        """Whether a loss looks at attention maps, which are not kept where activations are computed again."""
        return any("motion_attention" in step.losses for phase in self.phases for step in phase.passes)

    def fill(self, text: str, *, learning: bool = False) -> str:
        """A prompt with learned words in place of `{motion}` and `{protagonist}`.

        Args:
            text: what a clip shows, or should show.
            learning: every learned word must be in it; in making another may stand for the protagonist.

        Raises:
            UsageError: a word is learned and the prompt has no place for it, or the other way round.
        """
        for mark, what in ((MOTION, "the motion"), (PROTAGONIST, "who does it")):
            needed = mark in self.words and (learning or mark == MOTION)
            if needed and mark not in text:
                example = "".join(f" {part}" for part in ("a", PROTAGONIST, MOTION) if part in (*self.words, "a"))
                raise UsageError(f'{self.id} learns a word for {what}; say where it goes: "{example.strip()}".')
            if mark not in self.words and mark in text:
                raise UsageError(f"prompt {text!r} has a {mark}, but {self.id} learns no word; say what moves and how.")
        for mark, word in self.words.items():
            text = text.replace(mark, word.placeholder)
        return text

    def _known(self, where: str, names: set[str]) -> None:
        unknown = names - self.adapters.keys()
        if unknown:
            raise ConfigError(f"{where} names {sorted(unknown)}; the recipe's adapters are {sorted(self.adapters)}.")

    @property
    def steps(self) -> int:
        """Optimiser steps of all phases."""
        return sum(phase.fit.steps for phase in self.phases)

    def with_steps(self, steps: int) -> "MotionRecipe":
        """The same recipe, its phases shortened or lengthened in proportion to `steps` in all."""
        scale = steps / self.steps
        phases = tuple(
            dataclasses.replace(phase, fit=dataclasses.replace(phase.fit, steps=max(1, round(phase.fit.steps * scale))))
            for phase in self.phases
        )
        return dataclasses.replace(self, phases=phases)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Entry:
    """What every entry of `RECIPES` says."""

    id: str
    summary: str
    """One line for lists."""
    paper: str
    """Where it is described (arXiv id)."""
    system: str
    """Row of the survey: an id of `systems.json`; empty: none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MotionEntry(_Entry):
    """A way to learn a motion from clips."""

    build: Callable[[Preset], MotionRecipe]
    """The recipe with the published hyperparameters, or small ones for toybox."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubjectEntry(_Entry):
    """A way to learn a subject from photos, made for clips."""

    build: Callable[[str, Preset], Recipe]
    """`(class noun, preset)`: a recipe of the core, whose `learn` runs it."""
    clip: ClipConfig = dataclasses.field(default_factory=ClipConfig)
    """How clips of such a subject are sampled, where no motion says otherwise."""
    masks: bool = False
    """Whether photos without a mask get one from the base's attention to the noun."""
    several: bool = False
    """Whether it learns several subjects at once: one source of photos and one noun each."""
    inflation: CrossFrame | None = None
    """Clips can be made on an image model that is inflated so, where no motion is given."""
    window: float = 1.0
    """Share of the denoising, at its end, in which the subject is there; 1: always."""
    learns: Literal["photos", "clips", "mixture"] = "photos"
    """photos: as the core learns subjects. clips: in clips of the model's own making (PersonalVideo). mixture: of
    subjects alone and together, apart from what is only in one photo (VideoDreamer)."""


VideoEntry = MotionEntry | SubjectEntry
