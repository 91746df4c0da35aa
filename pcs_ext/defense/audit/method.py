"""How an audit probes and when it raises an alarm, as a value."""

import dataclasses
from collections.abc import Callable

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.recipes import Preset


@config
class AuditMethod:
    """Everything that decides a verdict, but the file, the base and what the file is said to show."""

    id: str
    """Key in `RECIPES`."""
    words: int = 400
    """Ordinary words of the base's vocabulary, most frequent first, that are tried in the text encoder."""
    painted: int = 48
    """Of them, how many are also tried in the denoiser: three quarters of them the most conspicuous ones."""
    nouns: int = 24
    """Nouns that things are compared with, at most."""
    draws: int = 4
    """Noises that a prompt's mean picture is taken over."""
    level: float = 0.75
    """Timestep of the probes as a share of the schedule: high enough that the prompt decides, in (0, 1)."""
    claim_margin: float = 0.4
    """Remark where the subject's mean picture is like another noun's by this much more than like its own's (difference
    of cosines)."""
    pictures: int = 4
    """Pictures of the subject that are painted and explained by nouns."""
    picture_steps: int = 10
    """Sampling steps of each."""
    picture_levels: tuple[float, ...] = (0.45, 0.6, 0.75)
    """Noise levels at which nouns are compared, as shares of the schedule, in (0, 1); below, no shape needs a word."""
    claim_advantage: float = 0.1
    """Alarm where another noun explains the pictures better than the claim, and by this share of the base's error more
    than the base's own pictures of the claim..."""
    claim_agreeing: float = 0.75
    """...in at least this share of the pictures."""
    jump: float = 0.9
    """Alarm where a word moves the subject to another noun by this much (difference of cosines)..."""
    jump_deviations: float = 4.0
    """...and stands out among the file's words by this many robust standard deviations, in most other prompts, too."""
    kept: float = 0.3
    """A noun of an ordinary prompt is lost where its picture's cosine to what the base paints falls below this."""
    seed: int = 0
    """Of the noise."""

    def __post_init__(self) -> None:
        if min(self.pictures, self.picture_steps) < 1 or not all(0 < level < 1 for level in self.picture_levels):
            raise ConfigError(
                "pictures and picture_steps of an audit must be at least 1 and picture_levels in (0, 1), got "
                f"{self.pictures}, {self.picture_steps} and {list(self.picture_levels)}."
            )
        if min(self.words, self.painted, self.draws, self.nouns - 2) < 1 or not 0 < self.level < 1:
            raise ConfigError(
                "words, painted and draws of an audit must be at least 1, nouns at least 3 and level in (0, 1), got "
                f"{self.words}, {self.painted}, {self.draws}, {self.nouns} and {self.level}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """What `RECIPES` holds."""

    id: str
    summary: str
    """One line for lists."""
    paper: str
    """Where what it looks for is described."""
    system: str | None
    """Row of the survey it answers: an id of `systems.json`."""
    build: Callable[[Preset], AuditMethod]
    """Values by kind of base."""
