"""Pictures beside a batch of prompts, as an image encoder sees them."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Sees = Literal["embedding", "patches", "layers", "latents", "nothing"]
"""What of the image encoder is read: one vector of the picture, a vector of every patch, or all vectors of several
layers of a transformer, its class token's first; or no encoder but the base's own latents of the picture; or nothing at
all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sight:
    """Pictures as an encoder sees them. `...` are axes of pictures: `n`, or `b r`, `r` beside each of `b` prompts."""

    features: Tensor
    """`... d` (embedding), `... k d` (patches), `... l k d` (layers) or `... c h w` (latents), float32."""
    cut: Tensor | None = None
    """The same with black around what the picture is shown for; None: no mask is known, or nobody asks."""
    cover: Tensor | None = None
    """`... p`: which patches show it, 0 or 1; beside `cut`."""
    detail: Tensor | None = None
    """`... 3 s s`: a square of it, all or its edges alone; None: nobody asks (`AbstractReferenceAdapter.details`)."""
    latents: Tensor | None = None
    """`... c h w`: the base's latents of the picture, beside what an encoder sees; None: nobody asks."""
    cells: Tensor | None = None
    """`... h w` in [0, 1]: how much of every latent cell shows it; beside `latents`."""

    def map(self, change: Callable[[Tensor], Tensor]) -> "Sight":
        """The same with `change` done to every tensor."""
        return Sight(
            features=change(self.features),
            cut=None if self.cut is None else change(self.cut),
            cover=None if self.cover is None else change(self.cover),
            detail=None if self.detail is None else change(self.detail),
            latents=None if self.latents is None else change(self.latents),
            cells=None if self.cells is None else change(self.cells),
        )

    @staticmethod
    def cat(parts: "list[Sight]") -> "Sight":
        """Side by side along the first axis; without masks, where one part has none."""

        def side_by_side(known: "list[Tensor | None]") -> Tensor | None:
            return None if any(one is None for one in known) else torch.cat(known)  # type: ignore[arg-type]

        return Sight(
            features=torch.cat([part.features for part in parts]),
            cut=side_by_side([part.cut for part in parts]),
            cover=side_by_side([part.cover for part in parts]),
            detail=side_by_side([part.detail for part in parts]),
            latents=side_by_side([part.latents for part in parts]),
            cells=side_by_side([part.cells for part in parts]),
        )

    @property
    def object(self) -> Tensor:
        """What is seen of the thing alone: `cut`, or the whole picture where no mask is known."""
        return self.features if self.cut is None else self.cut


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """Which pictures stand beside which prompts."""

    sight: Sight
    """Of the `r` pictures of each of the `b` prompts; of no picture in rows that see none."""
    nouns: tuple[tuple[str, ...], ...] = ()
    """`b` times `r`: the words by which prompts name what the pictures show; "" stands for no picture. Empty where the
    adapter asks for no words."""
    seen: Tensor | None = None
    """`b` bool: rows that see their pictures; None: all."""
    boxes: Tensor | None = None
    """`b r 4`: left, top, right and bottom of where each shall stand, in shares of the picture that is drawn; zeros
    where nobody says so; None: nobody says so of any."""
    turns: Tensor | None = None
    """`b r 3`: by how much the camera goes about the thing from each photo to the picture that is drawn, azimuth and
    elevation in degrees and distance; None: nobody says so."""
    scene: Tensor | None = None
    """`b 3 h w` in [-1, 1]: the pictures that they are put into, for adapters that do so; None: there are none."""
    maps: Tensor | None = None
    """`b c h w` in [0, 1]: condition maps of the picture that is drawn, of the kinds that the adapter reads one behind
    the other, zeros for those that nobody gave; None: nobody gave any."""

    @property
    def rows(self) -> list[bool]:
        """Which rows see their pictures."""
        return [True] * len(self.sight.features) if self.seen is None else self.seen.tolist()

    def to(self, like: Tensor) -> "Shown":
        """The same with features on the device and in the precision of `like`."""
        return dataclasses.replace(self, sight=self.sight.map(lambda tensor: tensor.to(like)))
