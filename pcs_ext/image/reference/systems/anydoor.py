"""AnyDoor (Chen et al. 2023, arXiv 2307.09481): an object is put into the box of a picture, without words.

Identity tokens, all vectors of a self-supervised image encoder through one linear map, stand in the text's place. A
detail extractor beside the denoiser reads the picture with the object's high-frequency map pasted into the box. It
learns with the map and the denoiser's upward half.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import FullAdapter, FullConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import recomputing_inside
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading, check_context, context_width
from pcs_ext.image.reference.control import ControlBranch, added_of, controlled
from pcs_ext.image.reference.details import collage, widened
from pcs_ext.image.reference.inside import answering, beside, read_of
from pcs_ext.image.reference.instead import reading_instead
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning

_TOKENS, _HINT = "reference_identity", "reference_hint"


@config
class AnyDoorConfig:
    """Identity tokens and a detail extractor."""

    kind: Literal["anydoor"] = "anydoor"
    """Tag in JSON."""
    margin: float = 1.1
    """Size of the box that is filled, times that of the thing or of the hole (the released code's)."""
    unplaced: float = 0.1
    """Share of training pairs that are told no box, so that all of the picture is one. Ours: there it is never so."""

    def __post_init__(self) -> None:
        if self.margin < 1 or not 0 <= self.unplaced <= 1:
            raise ConfigError(f"margin must be at least 1 and unplaced a share, got {self.margin} and {self.unplaced}.")


class AnyDoor(AbstractReferenceAdapter):
    """The map to tokens, the detail extractor, and the denoiser's upward half.

    Differs from AnyDoor in that the encoder sees the whole photo with black around the object, where there it sees the
    object alone on white, and that a norm of the adapter's own stands for the encoder's last; that what is around a box
    is the whole picture, not a part around the box, and the region always a box, where there it is the object's rough
    shape for most pairs; that noise levels are drawn alike for all pictures; and that pictures need not be given: all
    is the box then.

    Args:
        config: of the adapter.
        width: of the image encoder's vectors.
        branch: the detail extractor.
        context: of text states.
        side: pixels along a picture.
    """

    sees: Sees = "layers"
    depths = (1.0,)
    cuts = True
    asks_masks = True
    asks_boxes = True
    asks_scene = True
    details = "edges"

    def __init__(self, config: AnyDoorConfig, width: int, branch: ControlBranch, context: int, side: int) -> None:
        super().__init__()
        self.config, self.width, self.context = config, width, context
        self.unplaced, self.detail_side = config.unplaced, side
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, context)
        self.branch = branch
        upward = (r"^up_blocks\.", r"^conv_norm_out\.", r"^conv_out\.")
        self.inside = (FullAdapter("reference", FullConfig(include=upward)),)

    @classmethod
    def untrained(cls, config: AnyDoorConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "AnyDoor":
        """The extractor is a copy of the base's downward half that adds nothing."""
        branch = ControlBranch(backbone, 4, sees_latents=False)
        return cls(config, reading.width, branch, context_width(backbone), backbone.resolution)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("anydoor", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Tokens of several photos stand side by side; the first one's
        details are pasted.

        Rows that see no photo, but have a picture to put it into, have the tokens of none, and its place: guidance goes
        away from that.
        """
        told, shown = asked.encoded(), asked.shown.to(self.project.weight)
        counted = asked.seen if shown.scene is None else torch.ones_like(asked.seen)
        if not counted.any():
            return told
        tokens = self.project(self.norm(shown.sight.object[:, :, 0])).flatten(1, 2)
        size = asked.size or (asked.backbone.resolution, asked.backbone.resolution)
        strength = asked.scale * counted
        told = beside(told, _TOKENS, tokens, strength)
        return beside(told, _HINT, self._hint(asked, size).flatten(2), strength)

    def _hint(self, asked: Asked, size: tuple[int, int]) -> Tensor:
        """`b 4 h w`. Made in float32: pictures are resized, which lower precisions do not know everywhere."""
        shown, like = asked.shown, self.project.weight
        rows = len(asked.prompts)
        details = shown.sight.detail
        edges = torch.full((rows, 3, 8, 8), -1.0) if details is None else details[:, 0].float()
        given = torch.zeros(rows, 4) if shown.boxes is None else shown.boxes[:, 0].float()
        scene = None if shown.scene is None else shown.scene.float()
        return collage(edges, widened(given, self.config.margin), scene, size).to(like)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: the detail extractor looks whenever the denoiser is asked."""
        with super().inserted(backbone, scale), answering(backbone, _HINT, self._answered(backbone)):
            yield

    def _answered(self, backbone: AbstractBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            tokens, hint = read_of(conditioning, _TOKENS), read_of(conditioning, _HINT)
            if tokens is None or hint is None or not len(tokens.seen):
                return predict(noisy, timesteps, conditioning)
            size = [backbone.vae_factor * side for side in noisy.shape[2:]]
            picture, times = hint.vectors.unflatten(2, size), timesteps.expand(len(noisy))
            added = self.branch(noisy, times, tokens.vectors, picture, added_of(conditioning, noisy))
            added = added.rows(tokens.strength)

            @contextlib.contextmanager
            def within() -> Iterator[None]:
                with controlled(backbone.denoiser, added), reading_instead(backbone, tokens):
                    yield

            with recomputing_inside(backbone.denoiser, within), within():
                return predict(noisy, timesteps, conditioning)

        return answered
