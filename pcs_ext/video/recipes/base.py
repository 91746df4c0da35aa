"""A motion recipe is a value: which layers train, in which passes, on which losses, and how clips are made of it."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import AdapterConfig, FullConfig, LowRankConfig
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.sample import SampleConfig
from pcs_ext.video.backbone import AbstractVideoBackbone, LayerKind
from pcs_ext.video.sample import ClipConfig

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
class MotionPass:
    """One forward and backward pass of a step, with its own set of active adapters."""

    trains: tuple[str, ...]
    """Adapters that get this pass's gradients."""
    beside: tuple[str, ...] = ()
    """Adapters that are in place and frozen. All others are as if they were not there."""
    frames: Literal["one", "all"] = "all"
    """one: a random frame, past every temporal layer."""
    losses: dict[LossName, float]
    """Weight by loss."""
    skipped: float = 0.0
    """Share of steps without this pass; in those its adapters are not there in the other passes either."""


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
    """AdamW's decoupled decay."""
    fit: FitConfig
    """Steps, optimiser, schedule. Its gradient_accumulation is the number of passes; what is given here is not used."""


@config
class MotionRecipe:
    """A system of the survey that learns a motion from clips."""

    id: str
    """Key in `RECIPES`."""
    adapters: dict[str, LayersConfig]
    """What is added to the backbone, by name."""
    phases: tuple[MotionPhase, ...]
    """Run one after another; adapters carry over."""
    plays: tuple[str, ...]
    """Adapters that make clips afterwards: those that hold the motion."""
    frames: int = 16
    """Frames of a training clip."""
    stride: int = 1
    """Frames of the source from one to the next."""
    sampling: SampleConfig = dataclasses.field(default_factory=SampleConfig)
    """How clips are sampled unless told otherwise."""
    clip: ClipConfig = dataclasses.field(default_factory=ClipConfig)
    """Starting noise of clips."""

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

    def _known(self, where: str, names: set[str]) -> None:
        unknown = names - self.adapters.keys()
        if unknown:
            raise ConfigError(f"{where} names {sorted(unknown)}; the recipe's adapters are {sorted(self.adapters)}.")

    def with_steps(self, steps: int) -> "MotionRecipe":
        """The same recipe, its phases shortened or lengthened in proportion to `steps` in all."""
        scale = steps / sum(phase.fit.steps for phase in self.phases)
        phases = tuple(
            dataclasses.replace(phase, fit=dataclasses.replace(phase.fit, steps=max(1, round(phase.fit.steps * scale))))
            for phase in self.phases
        )
        return dataclasses.replace(self, phases=phases)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MotionEntry:
    """What `RECIPES` holds."""

    id: str
    summary: str
    """One line for lists."""
    paper: str
    """Where it is described (arXiv id)."""
    system: str
    """Row of the survey: an id of `systems.json`."""
    build: Callable[[], MotionRecipe]
    """The recipe with the published hyperparameters."""
