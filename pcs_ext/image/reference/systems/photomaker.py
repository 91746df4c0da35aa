"""PhotoMaker (Li et al. 2023, arXiv 2312.04461): a stacked ID embedding in place of the class word.

Each of any number of photos is mixed into the encoded class word, and the mixed states stand in that word's place, one
behind the other; low-rank weights on the base's attention learn to read them. The first noise levels of a picture see
the words alone.
"""

from collections.abc import Sequence
from typing import Literal

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import LowRankAdapter, LowRankConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading, check_context, context_width
from pcs_ext.image.reference.delay import delayed
from pcs_ext.image.reference.fusing import FusedWord, Places, fused
from pcs_ext.image.reference.nouns import names, noun_positions, renamed, repeated
from pcs_ext.image.reference.shown import Sees, Shown
from pcs_ext.image.types import Conditioning


@config
class PhotoMakerConfig:
    """A stacked ID embedding and low-rank weights."""

    kind: Literal["photomaker"] = "photomaker"
    """Tag in JSON."""
    rank: int = 64
    """Of the weights in the base's attention (as recalled)."""
    delay: float = 0.2
    """Share of the noise levels that see the words alone: 10 of 50 steps in the released pipeline."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.delay <= 1:
            raise ConfigError(f"rank must be at least 1 and delay in [0, 1], got {self.rank} and {self.delay}.")


class PhotoMaker(AbstractReferenceAdapter):
    """The network that mixes, and the low-rank weights.

    Differs from PhotoMaker, which also trains the image encoder: here it stays as it is, so that pictures are encoded
    once and an adapter's file goes with a published encoder. It is for any subject with a class word, not for people
    alone.

    Args:
        config: of the adapter.
        width: of the image encoder's embedding.
        context: of text states.
        seed: of the low-rank weights.
    """

    sees: Sees = "embedding"
    asks_noun = True

    def __init__(self, config: PhotoMakerConfig, width: int, context: int, seed: int = 0) -> None:
        super().__init__()
        self.width, self.delay = width, config.delay
        self.fuse = FusedWord(width, context)
        self.inside = (LowRankAdapter("reference", LowRankConfig(rank=config.rank, init_seed=seed)),)

    @classmethod
    def untrained(
        cls, config: PhotoMakerConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "PhotoMaker":
        """Its low-rank weights change nothing yet."""
        return cls(config, reading.width, context_width(backbone), seed)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("photomaker", self.fuse.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. All pictures of a row show what its first noun names."""
        plain = asked.encoded()
        stacked, places = self._stacked(asked.backbone, asked.prompts, asked.shown)
        if not places.rows:
            return plain
        told = fused(asked.encoded(stacked), places, asked.shown.sight.features, self.fuse, asked.scale)
        if self.training or self.delay == 0:
            return told
        return delayed(plain, told, self.delay, asked.backbone.schedule.num_train_timesteps)

    def _stacked(self, backbone: AbstractBackbone, prompts: Sequence[str], shown: Shown) -> tuple[list[str], Places]:
        """Prompts with the class word once per picture, and where those words stand."""
        stacked, rows, tokens, pictures = list(prompts), [], [], []
        for row, seen in enumerate(shown.rows):
            nouns = shown.nouns[row]
            if not seen or not names(prompts[row], nouns[0]):
                continue
            stacked[row] = renamed(prompts[row], nouns[0], repeated(nouns[0], len(nouns)))
            found = noun_positions(backbone, stacked[row], nouns[0], len(nouns))
            rows += [row] * len(found)
            tokens += found
            pictures += range(len(found))
        return stacked, Places(rows, tokens, pictures)
