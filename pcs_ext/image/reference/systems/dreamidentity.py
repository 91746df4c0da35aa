"""DreamIdentity (Chen et al. 2023, arXiv 2307.00300): class tokens of several layers become several words.

The words stand in the place of the class word. The base stays as it is. What keeps them fit for editing is the data:
pictures of one identity, of which another is drawn than the one that is shown, each under its own prompt.
"""

import contextlib
from collections.abc import Iterator
from typing import Literal

from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.base import Terms
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.scales import AbstractScaleWordsAdapter


@config
class DreamIdentityConfig:
    """An encoder of several layers to several words."""

    kind: Literal["dreamidentity"] = "dreamidentity"
    """Tag in JSON."""
    words: int = 2
    """That the class tokens become (as recalled)."""
    hidden: int = 1024
    """Width inside the networks; ours."""
    word_weight: float = 0.01
    """Of the words' squared length in the loss; that of E4T (arXiv 2302.12228), as this paper's was not to be had."""

    def __post_init__(self) -> None:
        if min(self.words, self.hidden) < 1 or self.word_weight < 0:
            raise ConfigError(
                "words and hidden must be at least 1 and word_weight not negative, got "
                f"{self.words}, {self.hidden} and {self.word_weight}."
            )


class DreamIdentity(AbstractScaleWordsAdapter):
    """A network for every word, which reads the class tokens of all layers.

    Differs from DreamIdentity in that the image encoder is any frozen one, where the paper has a ViT of its own trained
    to tell faces apart, and in that its pairs need not be drawn by the base from celebrities' names (though they may
    be: `reference invent`).
    """

    config: DreamIdentityConfig

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `words`, their squared length, a mean over words and pictures."""

        def terms() -> dict[str, Tensor]:
            words = self.words_of(pairs.shown.to(next(self.parameters())).sight.features)
            return {"words": self.config.word_weight * words.square().sum(-1).mean()}

        yield terms
