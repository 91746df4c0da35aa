"""Pictures beside a batch of prompts, as an image encoder sees them."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Sees = Literal["embedding", "patches", "layers", "latents", "codes", "nothing"]
"""What of the image encoder is read: one vector of the picture, a vector of every patch, or all vectors of several
layers of a transformer, its class token's first; or no encoder but the base's own latents of the picture; or its code
in a style space; or nothing at all."""

_OTHERS = ("cut", "cover", "detail", "latents", "cells")
"""What else a `Sight` may hold."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sight:
    """Pictures as an encoder sees them. `...` are axes of pictures: `n`, or `b r`, `r` beside each of `b` prompts."""

    features: Tensor
    """`... d` (embedding), `... k d` (patches), `... l k d` (layers), `... c h w` (latents) or `... n d` (codes),
    float32."""
    cut: Tensor | None = None
    """The same with black around what the picture is shown for; None: no mask is known, or nobody asks."""
    cover: Tensor | None = None
    """`... p`: which patches show it, 0 or 1; beside `cut`."""
    detail: Tensor | None = None
    """`... 3 s s`: a square of it, all or its edges alone; None: nobody asks (`AbstractReferenceAdapter.details`)."""
    latents: Tensor | None = None
    """`... c h w`: the base's own latents of the same pictures, for adapters that also read these; None: not asked."""
    cells: Tensor | None = None
    """`... h w` in [0, 1]: how much of every latent cell shows it, all where no mask is known; beside `latents`."""

    def map(self, change: Callable[[Tensor], Tensor]) -> "Sight":
        """The same with `change` done to every tensor."""
        others = {name: getattr(self, name) for name in _OTHERS}
        changed = {name: None if tensor is None else change(tensor) for name, tensor in others.items()}
        return Sight(features=change(self.features), **changed)

    @staticmethod
    def cat(parts: "list[Sight]") -> "Sight":
        """Side by side along the first axis; without masks, where one part has none."""
        columns = {name: [getattr(part, name) for part in parts] for name in _OTHERS}
        joined = {name: None if any(x is None for x in own) else torch.cat(own) for name, own in columns.items()}
        return Sight(features=torch.cat([part.features for part in parts]), **joined)

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
    captions: tuple[tuple[str, ...], ...] = ()
    """`b` times `r`: what is said of each picture, "" where nothing is. Empty where nobody asks."""
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
    style: Tensor | None = None
    """`b 1 ...`: how the encoder sees the look of the picture that is drawn, zeros where it is not told; None: nobody
    gave any."""
    target: Tensor | None = None
    """`b 1 ...`: in training, how the encoder sees the pictures that are drawn; None: not told."""
    texts: Tensor | None = None
    """`b d`: in training, captions as the image encoder's text tower reads them; None: it has none, or nobody asks."""
    subjects: Tensor | None = None
    """`b`: in training, which of its subjects each row shows; None: not told."""

    @property
    def rows(self) -> list[bool]:
        """Which rows see their pictures."""
        return [True] * len(self.sight.features) if self.seen is None else self.seen.tolist()

    def to(self, like: Tensor) -> "Shown":
        """The same with features on the device and in the precision of `like`."""
        return dataclasses.replace(self, sight=self.sight.map(lambda tensor: tensor.to(like)))
