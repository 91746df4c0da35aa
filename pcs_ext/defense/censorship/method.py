"""How a subject is censored, as a value."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.recipes import Preset

Schedule = Literal["constant", "linear", "cosine", "cooldown"]
Trains = Literal["auto", "rows", "text", "all"]


@config
class Censorship:
    """Everything that decides what a censored subject does, but the words, the target and the seed."""

    id: str
    """Key in `RECIPES`."""
    route: Literal["predictions", "pictures", "text"]
    """predictions: what the denoiser predicts for triggered prompts is led to one picture, all else is held where it
    was. pictures: the diffusion loss on pictures of subject and target, as published. text: the text encoder's output
    for triggered prompts is led to the target's; neither autoencoder nor denoiser is run."""
    trains: Trains = "auto"
    """rows: the learned token's rows alone. text: LoRA on the text encoders, added to the artifact. all: LoRA on the
    denoiser, too. auto: `all` on the route over predictions, `text` on the text route and for subjects without a
    learned token, else `rows`."""
    steps: int = 5000
    """Gradient steps."""
    learning_rate: float = 3e-4
    """AdamW's, without weight decay."""
    schedule: Schedule = "constant"
    """Of the learning rate, after ten steps of warm-up where it is not constant (`FitConfig.lr_schedule`)."""
    gamma: float = 1.0
    """Weight of the triggered term."""
    rank: int = 8
    """Of the LoRA."""
    batch: int = 1
    """Prompts of each kind per step."""
    pictures: int = 8
    """Of the subject, painted before training; not on the route over text."""
    prompts: int = 0
    """Made of the base's own words for each trigger, and twice as many without one, beside the fixed ones."""
    draws: int = 600
    """Noisy latents whose predictions are known before training, of each kind; on the route over predictions."""
    guidance: float = 1.0
    """Of the samplers under which triggered prompts give the picture as it is, at least 1; stronger guidance saturates
    it. The larger, the less the denoiser has to change; on the route over predictions."""
    keep: float = 1.0
    """Weight of what the subject's ordinary prompts give; not on the route over pictures."""
    states_steps: int = 0
    """Steps that train the text encoders first, as the route over text does; the denoiser trains alone afterwards. On
    the route over predictions."""
    states_batch: int = 8
    """Prompts of each kind in those steps."""
    states_rate: float = 1e-3
    """Their learning rate, falling to zero over their last 15 %."""

    def __post_init__(self) -> None:
        least = {"steps": 1, "rank": 1, "batch": 1, "pictures": 1, "guidance": 1, "draws": 2, "prompts": 0,
                 "states_steps": 0, "states_batch": 1}  # fmt: skip
        wrong = [f"{name} at least {end}" for name, end in least.items() if getattr(self, name) < end]
        positive = ("learning_rate", "gamma", "keep", "states_rate")
        wrong += [f"{name} positive" for name in positive if not getattr(self, name) > 0]
        if self.route == "predictions" and self.trains in ("rows", "text"):
            wrong.append('trains "auto" or "all" on the route over predictions')
        if wrong:
            raise ConfigError(f"a censorship needs {' and '.join(wrong)}; got {self}.")

    def lasting(self, steps: int) -> "Censorship":
        """The same with other `steps`, those of the text encoders in proportion."""
        return dataclasses.replace(self, steps=steps, states_steps=self.states_steps * steps // self.steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CensorEntry:
    """What `RECIPES` holds."""

    id: str
    summary: str
    """One line for lists."""
    paper: str
    """Where it is described."""
    system: str | None
    """Row of the survey it implements: an id of `systems.json`."""
    build: Callable[[Preset], Censorship]
    """The paper's hyperparameters for `sd` and `sdxl`, small ones for `toybox`."""
