"""Words that say what is particular to one photo (DETEX, Cai et al. 2023, arXiv 2312.11826): its pose, its background.

A small network makes the word's row of what a frozen image encoder sees in the photo, so that while photos are learned
`<background>` says something else in every caption of a batch. At sampling such a word says what one photo of those
that were learned shows; prompts that leave it out are free of it.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.tokens import TokenAdapter, check_placeholder, initial_rows
from pcs_ext.image.adapters.vocabulary import Rows
from pcs_ext.image.backbone import AbstractBackbone


@config
class ImageWordsConfig:
    """row = initializer's row + up(leaky_relu(down(image feature))), with `up` at zero before training.

    The sizes of the paper's mappers and where they start are not known here.
    """

    kind: Literal["image_words"] = "image_words"
    """Tag of this adapter in JSON."""
    placeholder: str
    """What captions and prompts write: "<background>"."""
    initializer: str
    """The attribute's word, from whose row it starts: "background"."""
    encoder: str = "toybox"
    """CLIP whose image features are read: `toybox`, a transformers folder or a hub id. Asked while photos are learned
    only."""
    width: int = 192
    """Of those features (`projection_dim`)."""
    init_seed: int = 0
    """Seed of the network."""

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder, 1)
        if self.width < 1 or self.initializer == "random":
            raise ConfigError(
                f"image_words take the width of the encoder's features, got {self.width}, and a word to start from, "
                f"got {self.initializer!r}."
            )


class ImageRows(Rows):
    """One text encoder's row of a photo's features."""

    def __init__(self, initial: Tensor, width: int, seed: int) -> None:
        super().__init__(initial)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.down = nn.Linear(width, initial.shape[-1])
        self.up = nn.Linear(initial.shape[-1], initial.shape[-1])
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.register_buffer("kept", torch.zeros(width))
        self.kept: Tensor
        """Features `width` of the photo that is spoken of when none is shown."""
        self._shown: Tensor | None = None

    def forward(self) -> Tensor:
        """`1 d` of the photo that is kept, or inside `showing` `b 1 d`, float32."""
        features = self.kept if self._shown is None else self._shown
        with torch.autocast(features.device.type, enabled=False):
            rows = self.initial + self.up(nn.functional.leaky_relu(self.down(features.float()))).unsqueeze(-2)
        return rows if self.scale == 1 else torch.lerp(self.initial.expand_as(rows), rows, self.scale)

    @contextlib.contextmanager
    def showing(self, features: Tensor) -> Iterator[None]:
        """Inside, the `b` sequences that are encoded are captions of photos with these features, `b width`."""
        self._shown = features.to(self.initial.device)
        try:
            yield
        finally:
            self._shown = None


class ImageWordsAdapter(TokenAdapter):
    """A word per photo; state: `text_encoder.down.*`, `up.*`, the kept photo's features and the initializer's row."""

    def __init__(self, name: str, config: ImageWordsConfig) -> None:
        super().__init__(name, (config.placeholder,))
        self.config = config

    def _build(self, backbone: AbstractBackbone, initial: Sequence[Tensor]) -> list[Rows]:
        return [ImageRows(rows, self.config.width, self.config.init_seed) for rows in initial]

    def _initial(self, encoder: nn.Module, tokenizer: Any) -> Tensor:
        return initial_rows(encoder, tokenizer, self.config.initializer, count=1, noise=0.0, seed=0)

    @torch.no_grad()
    def keep(self, features: Tensor) -> None:
        """Speak of a photo with these features, `width`, when none is shown."""
        for rows in self.rows():
            assert isinstance(rows, ImageRows)
            rows.kept.copy_(features)


@contextlib.contextmanager
def showing(adapters: Iterable[AbstractAdapter], features: Tensor | None) -> Iterator[None]:
    """Inside, captions that are encoded speak of photos with these features, `b width`; None: of kept ones."""
    words = [adapter for adapter in adapters if isinstance(adapter, ImageWordsAdapter)]
    with contextlib.ExitStack() as stack:
        for rows in (rows for adapter in words for rows in adapter.rows()):
            if features is not None and isinstance(rows, ImageRows):
                stack.enter_context(rows.showing(features))
        yield
