"""What trained ways to show a clip model a photo promise, beyond those that show an image model one."""

import abc
import dataclasses
from typing import Any, cast

import torch
from torch import Tensor

from pcs_ext.errors import ArtifactError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.cpu_attention import attend
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.reference.base import AbstractReferenceAdapter, TrainingStage
from pcs_ext.image.reference.shown import Shown
from pcs_ext.image.types import Conditioning
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.backbones.wan import WanBackbone
from pcs_ext.video.reference.directions import Directions
from pcs_ext.video.reference.tracks import Tracking


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipStage(TrainingStage):
    """A part of the training on clips."""

    still: bool = False
    """Whether it learns from single frames, which pass by the temporal layers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShownWithLatents(Shown):
    """Pictures beside prompts, also as the clip model itself would draw them."""

    latents: Tensor
    """`b r c h w`, clean, of the size of a clip's frames; around the subject black, where masks are known."""
    noise: Tensor
    """`b c h w` of unit deviation, for what reads a noisy picture."""
    pyramid: tuple[Tensor, ...] = ()
    """Latents in other sizes, `b r c h_i w_i` each (`AbstractClipReference.pyramid`)."""
    directions: Directions | None = None
    """What the clips are told besides; None: nothing."""


class AbstractClipReference(AbstractReferenceAdapter, abc.ABC):
    """A network between a frozen image encoder and a clip model, trained once on clips of many subjects.

    The backbone it is handed is one that makes clips of an image model's layers (`clip_model`).
    """

    still: bool = False
    """Whether it learns from single frames at the moment."""
    transformer: bool = False
    """Whether it is for a transformer over space and time (Wan), and not for clip models made of an image model."""
    blind: bool = False
    """Whether it reads nothing of the image encoder."""
    pyramid: tuple[float, ...] = ()
    """In which other sizes it is shown pictures' latents, as multiples of a clip's sides."""
    still_share: float = 0.0
    """Share of training steps that take a single frame of each clip in any stage."""
    steadies: bool = False
    """Whether it is told how coarse maps are and how steady frames shall be."""

    @property
    def tracking(self) -> Tracking:
        """What it asks of training clips besides, and is told in use."""
        return Tracking()

    def prepared(self, shown: ShownWithLatents, generator: torch.Generator) -> ShownWithLatents:
        """What is shown in a training step, with all that is random in it drawn."""
        return shown

    def weights(self, directions: Directions) -> Tensor | None:
        """Of latent cells in the loss of a training batch, `b 1 f h w`; None: all alike."""
        return None

    def begin_stage(self, name: str) -> None:
        """See `AbstractReferenceAdapter.begin_stage`."""
        self.still = any(stage.name == name and isinstance(stage, ClipStage) and stage.still for stage in self.stages)


def frames_beside(noisy: Tensor, conditioning: Conditioning) -> int:
    """How many frames of `b c f h w`, or pictures of `b c h w`, the denoiser sees beside each row of conditioning."""
    pictures = len(noisy) * (noisy.shape[2] if noisy.dim() == 5 else 1)
    return pictures // conditioning.batch_size


def attended(attention: Any, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """What an attention's heads find, `b n d` before the output projection, for `b n d` and twice `b m d`."""
    asked, told, found = (x.unflatten(2, (attention.heads, -1)).transpose(1, 2) for x in (query, keys, values))
    return attend(asked, told, found, attention.scale).transpose(1, 2).flatten(2)


def clip_model(backbone: AbstractBackbone) -> AnimateDiffBackbone:
    """The backbone, which runs an image model's layers on every frame, its temporal layers between them.

    Raises:
        UsageError: it makes no clips, or is one piece.
    """
    if isinstance(backbone, AnimateDiffBackbone):
        return backbone
    raise UsageError(
        "photos are shown to clip models that are made of an image model (one with --motion-module, toybox, or an "
        f"inflated one); {backbone.name} is none. Leave the photos out, or take such a base."
    )


def transformer_model(backbone: AbstractBackbone) -> WanBackbone:
    """The backbone, a transformer over space and time.

    Raises:
        UsageError: it is none.
    """
    if isinstance(backbone, WanBackbone):
        return backbone
    raise UsageError(
        f"this system shows photos to a video transformer, and {backbone.name} is none; pass the folder or hub id of a "
        "Wan 2.1 text-to-video model with --base."
    )


def check_width(name: str, inner: int, backbone: AbstractBackbone) -> None:
    """See that a transformer has the width that an adapter was made for.

    Raises:
        UsageError: it is no such transformer.
        ArtifactError: it has another width.
    """
    theirs = transformer_model(backbone).denoiser.patch_embedding.weight.shape[0]
    if theirs != inner:
        raise ArtifactError(
            f"the {name} adapter was made for a transformer of width {inner}; {backbone.name} has {theirs}. Pass an "
            "adapter that was trained on it, or another --base."
        )


def spatial_base(backbone: AbstractVideoBackbone) -> AbstractUnetBackbone:
    """The image model in a clip model, with all that is in its layers.

    Raises:
        UsageError: see `clip_model`.
    """
    return cast(AbstractUnetBackbone, clip_model(backbone).image)
