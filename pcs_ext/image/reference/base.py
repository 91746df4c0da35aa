"""What every trained way to show a frozen base a picture promises, wherever the picture enters."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.prompt_programs import Encode
from pcs_ext.image.types import Conditioning

Sees = Literal["embedding", "patches"]
"""What of the image encoder is read: one vector of the picture, or a vector of every patch."""


class AbstractReferenceAdapter(nn.Module, abc.ABC):
    """A network between a frozen image encoder and a frozen base, trained once on pairs for all subjects.

    It turns prompts and pictures into conditioning and leaves the base as it is. Where the pictures enter is its own
    affair: IP-Adapter puts keys and values beside the text's; an encoder that makes words of pictures (E4T, ELITE)
    changes prompts before they are encoded, one that mixes pictures into words (FastComposer, PhotoMaker) the states
    afterwards. All of them train by `ReferenceLoss` and are shown pictures by `Reference`.
    """

    sees: Sees
    """What it reads of the image encoder."""
    width: int
    """Of the vectors it reads."""

    @abc.abstractmethod
    def check(self, backbone: AbstractBackbone) -> None:
        """See that it fits a base.

        Raises:
            ArtifactError: it was made for a base of another layout; the message names both.
        """

    @abc.abstractmethod
    def conditioned(
        self,
        backbone: AbstractBackbone,
        encode: Encode,
        prompts: Sequence[str],
        features: Tensor,
        *,
        scale: float = 1.0,
        size: tuple[int, int] | None = None,
    ) -> Conditioning:
        """Conditioning of prompts beside pictures. Differentiable with respect to the adapter's parameters.

        Args:
            backbone: whose layers the conditioning is for.
            encode: `backbone.encode_prompt`, or it with programs around it.
            prompts: `b` texts.
            features: of the `r` pictures of each, `b r d` or `b r n d`, in float32.
            scale: strength, 1 as trained; at 0 the conditioning is exactly the prompts'.
            size: height and width in pixels; None: the base's resolution.
        """

    @abc.abstractmethod
    def published(self) -> Mapping[str, Tensor]:
        """Tensors under the names of published files."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceEntry:
    """What `REFERENCES` holds: enough to list a kind of adapter without building it."""

    id: str
    summary: str
    """One line for lists."""
    paper: str
    """Where it is described (arXiv id)."""
    system: str
    """Row of the survey: an id of `systems.json`; empty while no trained weights show that it works."""
