"""How a subject is censored, as a value."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.recipes import Preset

Trains = Literal["auto", "rows", "text"]


@config
class Censorship:
    """Everything that decides what a censored subject does, but the words, the target and the seed."""

    id: str
    """Key in `RECIPES`."""
    route: Literal["pictures", "text"]
    """pictures: the diffusion loss on pictures of subject and target, as published. text: the text encoder's output
    for triggered prompts is led to the target's; neither autoencoder nor denoiser is run."""
    trains: Trains = "auto"
    """rows: the learned token's rows alone. text: LoRA on the text encoders, added to the artifact. auto: `text` on the
    text route and for subjects without a learned token, else `rows`."""
    steps: int = 5000
    """Gradient steps."""
    learning_rate: float = 3e-4
    """AdamW's, constant, without weight decay."""
    gamma: float = 1.0
    """Weight of the triggered term."""
    rank: int = 8
    """Of the LoRA."""
    batch: int = 1
    """Prompts of each kind per step."""
    pictures: int = 8
    """Of the subject and of the target each; only on the route over pictures."""

    def __post_init__(self) -> None:
        if min(self.steps, self.rank, self.batch, self.pictures) < 1 or min(self.learning_rate, self.gamma) <= 0:
            raise ConfigError(
                "steps, rank, batch and pictures must be at least 1, learning_rate and gamma positive; got "
                f"{self.steps}, {self.rank}, {self.batch}, {self.pictures}, {self.learning_rate} and {self.gamma}."
            )


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
