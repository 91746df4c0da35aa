"""Systems that mix pictures into words and train the base with it, attention held to masks."""

import contextlib
from collections.abc import Iterator
from typing import Any, Self

from pcs_ext.image.adapters import FullAdapter, FullConfig
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading, Terms, check_context, context_width
from pcs_ext.image.reference.fusing import FusedWord, Places
from pcs_ext.image.reference.localization import held_to_masks, placed
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.shown import Sees


class AbstractFusedAdapter(AbstractReferenceAdapter):
    """The network that mixes, and weights in the base (FastComposer, arXiv 2305.10431, whose is the whole denoiser).

    Systems differ in these, in how they are used, and in what words are held to masks.

    Args:
        config: of the adapter, with `kind`, `localization_weight` and `localization_levels`.
        width: of the image encoder's embedding.
        context: of text states.
    """

    sees: Sees = "embedding"
    asks_noun = True
    asks_masks = True
    several = True

    def __init__(self, config: Any, width: int, context: int) -> None:
        super().__init__()
        self.width, self.config = width, config
        self.fuse = FusedWord(width, context)
        self.inside = (self.weights(),)

    def weights(self) -> AbstractAdapter:
        """What trains in the base."""
        return FullAdapter("reference", FullConfig(components=("denoiser",)))

    def held(self, backbone: AbstractBackbone, pairs: Pairs) -> Places:
        """Words whose attention is held to masks: the subjects'."""
        return placed(backbone, pairs.captions, pairs.shown)[0]

    @classmethod
    def untrained(cls, config: Any, backbone: AbstractBackbone, reading: Reading, seed: int) -> Self:
        """Its weights in the base change nothing yet."""
        return cls(config, reading.width, context_width(backbone))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context(self.config.kind, self.fuse.context, backbone)

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `localization`, 0 where nothing is shown or no mask is known."""
        places, config = self.held(backbone, pairs), self.config
        with held_to_masks(
            backbone, pairs, places, weight=config.localization_weight, levels=config.localization_levels
        ) as terms:
            yield terms
