"""ViscoNet (Cheong et al. 2023, arXiv 2312.03154): a ControlNet that reads pictures where others read the prompt.

Pictures of the parts of a person, or whole photos of a thing, become nine tokens each, mixtures of what the image
encoder tells of a picture's places. They stand in the text's place in a ControlNet of a pose or of other maps; the base
reads the prompt alone. What the branch adds counts inside the mask of what is drawn, so that words decide around it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ArtifactError, ConfigError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading, check_context, context_width
from pcs_ext.image.reference.control import (
    ControlBranch,
    added_of,
    controlled,
    maps_inside,
    with_maps,
)
from pcs_ext.image.reference.inside import answering, beside, read_of
from pcs_ext.image.reference.maps import MapKinds, channels, check_kinds
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning

_MAPS, _TOKENS = "visconet_maps", "visconet_tokens"


@config
class ViscoNetConfig:
    """A branch and a projection; sizes are the released settings."""

    kind: Literal["visconet"] = "visconet"
    """Tag in JSON."""
    maps: MapKinds = ("pose",)
    """Kinds of condition maps that the branch reads; `mask` is not among them: it always says where the branch counts,
    and where nobody gives one it counts everywhere."""
    pictures: int = 8
    """Places for pictures; the paper's are face, hair, headwear, top, outer, bottom, shoes and accessories. Those
    that are not filled hold what is made of zeros."""
    tokens: int = 9
    """Of each."""
    scales: tuple[float, ...] = ()
    """By which what the branch adds is multiplied in use, from the latents' own size to the middle (13 numbers for
    Stable Diffusion): less of the first ones leaves textures to the prompt, less of the last ones the layout; empty:
    all 1."""

    def __post_init__(self) -> None:
        check_kinds(self.maps)
        if "mask" in self.maps or not self.maps:
            raise ConfigError("maps must name one kind or more other than mask, which is always read.")
        if min(self.pictures, self.tokens) < 1 or min(self.scales, default=0) < 0:
            raise ConfigError("pictures and tokens must be at least 1 and scales 0 or more.")


class PlaceMixture(nn.Module):
    """Vectors of a picture's places -> a few mixtures of them, the same for every picture, and a number for each.

    Args:
        places: how many vectors a picture has; 257 of CLIP's largest.
        tokens: how many mixtures.
        width: of the vectors.
        context: of the branch's context; only where it is another width are mixtures mapped to it, which is ours.
    """

    def __init__(self, places: int, tokens: int, width: int, context: int) -> None:
        super().__init__()
        self.mix = nn.Linear(places, tokens)
        self.widen = nn.Identity() if width == context else nn.Linear(width, context)

    def forward(self, pictures: Tensor) -> Tensor:
        """`b r places width` -> `b r*tokens context`."""
        mixed = self.mix(pictures.transpose(2, 3)).transpose(2, 3)
        return self.widen(mixed.flatten(1, 2))


class ViscoNet(AbstractReferenceAdapter):
    """The branch and the projection; the base stays as it is.

    Differs from ViscoNet in that nobody cuts clothes out: its places are filled by as many photos as are shown, without
    what is around their masks, where they have some; in that its branch begins as the base's own with all of its
    attention; and in that rows without a photo and without maps have no branch.

    Args:
        config: of the adapter.
        backbone: whose denoiser is copied.
        reading: of the image encoder.
    """

    sees: Sees = "layers"
    depths = (1.0,)
    cuts = True
    asks_masks = True
    enters = True

    def __init__(self, config: ViscoNetConfig, backbone: AbstractBackbone, reading: Reading) -> None:
        super().__init__()
        self.config, self.width, self.context = config, reading.width, context_width(backbone)
        self.map_kinds, self.factor = self.reads_maps(config), backbone.vae_factor
        self.branch = ControlBranch(backbone, channels(config.maps))
        self.mixture = PlaceMixture(reading.places, config.tokens, reading.width, self.context)
        count = len(self.branch.net.controlnet_down_blocks) + 1
        if config.scales and len(config.scales) != count:
            raise ArtifactError(
                f"scales has {len(config.scales)} numbers; the branch for {backbone.name} adds at {count} places, "
                "expected one for each, or none."
            )

    @classmethod
    def untrained(cls, config: ViscoNetConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "ViscoNet":
        """The branch's weights are the base's, its outputs zero."""
        return cls(config, backbone, reading)

    @classmethod
    def reads_maps(cls, config: ViscoNetConfig) -> MapKinds:
        """See `AbstractReferenceAdapter.reads_maps`."""
        return (*config.maps, "mask")

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("visconet", self.context, backbone)

    def tokens_of(self, pictures: Tensor, seen: Tensor) -> Tensor:
        """`b r places width` and `b` bool -> `b pictures*tokens context`: unseen pictures and empty places are zeros.

        Raises:
            UsageError: more pictures than places.
        """
        count, places = pictures.shape[1], self.config.pictures
        if count > places:
            raise UsageError(f"this adapter has places for {places} pictures, got {count}; show fewer.")
        known = pictures * seen.to(pictures)[:, None, None, None]
        empty = known.new_zeros(len(known), places - count, *known.shape[2:])
        return self.mixture(torch.cat([known, empty], dim=1))

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Prompts stay as they are."""
        told, maps = asked.encoded(), asked.shown.maps
        counted = asked.seen if maps is None else torch.ones_like(asked.seen)
        if not bool(counted.any()):
            return told
        pictures = asked.shown.to(next(self.parameters())).sight.object[:, :, 0]
        if maps is None:
            side = [cells * self.factor for cells in asked.grid]
            maps = pictures.new_zeros(len(pictures), channels(self.map_kinds), *side)
        strength = asked.scale * counted.to(pictures)
        told = beside(told, _TOKENS, self.tokens_of(pictures, asked.seen), strength)
        return with_maps(told, _MAPS, maps, strength, self.factor)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: the branch is asked whenever the denoiser is."""
        with super().inserted(backbone, scale), answering(backbone, _TOKENS, self._answered(backbone)):
            yield

    def _answered(self, backbone: AbstractBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            tokens, given = read_of(conditioning, _TOKENS), maps_inside(conditioning, _MAPS, noisy, self.factor)
            if tokens is None or given is None or not len(tokens.seen):
                return predict(noisy, timesteps, conditioning)
            rows = tokens.seen
            at, told = rows.to(noisy.device), conditioning[rows]
            hints, mask = given.maps[at, :-1], given.maps[at, -1:]
            times = timesteps.expand(len(noisy))[at]
            added = self.branch(noisy[at], times, tokens.vectors[rows], hints, added_of(told, noisy))
            added = added.inside(everywhere_if_empty(mask)).rows(tokens.strength[rows])
            if self.config.scales and not self.training:
                added = added.each(self.config.scales)
            with controlled(backbone.denoiser, added.placed(rows, len(noisy))):
                return predict(noisy, timesteps, conditioning)

        return answered


def everywhere_if_empty(mask: Tensor) -> Tensor:
    """Masks `b 1 h w`; those with nothing in them are all 1: nobody gave them."""
    empty = (mask.amax((1, 2, 3), keepdim=True) == 0).to(mask)
    return mask + empty
