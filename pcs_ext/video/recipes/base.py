"""A motion recipe is a value: which layers train, in which passes, on which losses, and how clips are made of it."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.adapters import AdapterConfig, EmbeddingConfig, FullConfig, LowRankConfig, SideNetworkConfig
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes import Recipe
from pcs_ext.image.sample import SampleConfig
from pcs_ext.image.timesteps import TimestepSampling
from pcs_ext.video.backbone import AbstractVideoBackbone, LayerKind
from pcs_ext.video.backbones.inflated import CrossFrame
from pcs_ext.video.sample import ClipConfig

Preset = Literal["toybox", "sd"]
"""sd: the paper's values, for models of the size of Stable Diffusion. toybox: fewer, larger steps for the embedded
base; there is no second set for other small models."""
MOTION = "{motion}"
LossName = Literal["denoising", "debiased", "residual_l2", "residual_cosine", "residual_absolute_cosine", "after_first"]
"""denoising: squared error. debiased: MotionDirector's phi, a random anchor frame. residual_*: VMC's differences of
neighbouring frames. after_first: LAMP's, the first frame clean and out of the loss."""


@config
class LayersConfig:
    """What trains: an adapter on one kind of layers, whatever they are called in the backbone at hand."""

    layers: LayerKind
    """Which layers."""
    method: Literal["lora", "full"] = "lora"
    """Low-rank updates, or the weights themselves."""
    rank: int = 32
    """Of lora."""
    alpha: float | None = None
    """Of lora; None: equal to the rank, an update of scale 1."""
    dropout: float = 0.0
    """Of lora's input, in [0, 1)."""
    projections: tuple[str, ...] = ()
    """Only layers of these names (`to_q`, ...); empty: all of the kind."""

    def adapter(self, backbone: AbstractVideoBackbone) -> AdapterConfig:
        """The core's configuration for a backbone."""
        targets = backbone.targets(self.layers)
        patterns = targets.patterns
        if self.projections:
            ahead = "(?=.*\\.(" + "|".join(self.projections) + ")(\\.|$))"
            patterns = tuple(ahead + pattern for pattern in patterns)
        if self.method == "full":
            # Patterns end at the layer; parameters are its weight and bias.
            weights = tuple(pattern.removesuffix("$") + r"\.(weight|bias)$" for pattern in patterns)
            return FullConfig(components=(targets.component,), include=weights)
        return LowRankConfig(
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            targets=patterns,
            components=(targets.component,),
        )


@config
class WordConfig:
    """What trains: a new word that stands for the motion in prompts, where they say `{motion}`."""

    placeholder: str
    """The word, like `<motion>`."""
    initializer: str = "random"
    """See `EmbeddingConfig`."""
    num_vectors: int = 1
    """Tokens it stands for."""

    def adapter(self, backbone: AbstractVideoBackbone) -> AdapterConfig:
        """The core's configuration; the same for every backbone."""
        return EmbeddingConfig(placeholder=self.placeholder, initializer=self.initializer, num_vectors=self.num_vectors)


@config
class NetworksConfig:
    """What trains: small networks beside the attention and feed-forward modules of one kind of layers (DreamVideo)."""

    layers: Literal["temporal", "cross_attention"]
    """Which layers."""
    told: bool = False
    """Whether they are told what the clip looks like: an image encoder's embedding of one of its frames."""
    width_told: int = 0
    """Of that embedding; filled in by learning, which knows the encoder."""

    def adapter(self, backbone: AbstractVideoBackbone) -> AdapterConfig:
        """The core's configuration for a backbone."""
        targets = backbone.targets(self.layers)
        return SideNetworkConfig(
            targets=targets.modules, components=(targets.component,), condition_width=self.width_told
        )


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
    """Add this times one normal number per channel to the noise of a clip."""
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
    def word(self) -> str:
        """What prompts say for the motion; empty where no word is learned."""
        words = [layers.placeholder for layers in self.adapters.values() if isinstance(layers, WordConfig)]
        return words[0] if words else ""

    @property
    def told(self) -> bool:
        """Whether networks are told what a clip looks like, for which an image encoder is needed."""
        return any(isinstance(layers, NetworksConfig) and layers.told for layers in self.adapters.values())

    def with_width_told(self, width: int) -> "MotionRecipe":
        """The same recipe for embeddings of a width."""
        adapters = {
            name: dataclasses.replace(layers, width_told=width)
            if isinstance(layers, NetworksConfig) and layers.told
            else layers
            for name, layers in self.adapters.items()
        }
        return dataclasses.replace(self, adapters=adapters)

    @property
    def needs_prior(self) -> bool:
        """Whether clips of something else are learned from beside the motion's own."""
        return any(step.clips == "prior" for phase in self.phases for step in phase.passes)

    def fill(self, text: str) -> str:
        """A prompt with the motion's word in place of `{motion}`.

        Raises:
            UsageError: a word is learned and the prompt has no place for it, or the other way round.
        """
        if self.word and MOTION not in text:
            raise UsageError(
                f'{self.id} learns a word for the motion; say where it goes: "a person doing the {MOTION}".'
            )
        if not self.word and MOTION in text:
            raise UsageError(f"prompt {text!r} has a {MOTION}, but {self.id} learns no word; say what moves and how.")
        return text.replace(MOTION, self.word)

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


VideoEntry = MotionEntry | SubjectEntry
