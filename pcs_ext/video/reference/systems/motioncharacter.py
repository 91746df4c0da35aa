"""MotionCharacter (Fang et al. 2024, arXiv 2411.18281): an identity beside the text, and a motion told in two parts.

The identity is what a global vector of the photo finds in its patches. The motion is told as a phrase for what is done
and as a number for how strongly. Each enters every text cross-attention by keys and values of its own:

    out = TextAttention(Q) + lambda IdentityAttention(Q) + alpha (ActionAttention(Q) + IntensityAttention(Q)).

Errors count by how fast what is in a cell moves (region-aware loss), and what is drawn must look to the image encoder
like who was shown (identity-consistency loss). A clip that stands still has intensity 0.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import Reading, check_context
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning, Decoupled
from pcs_ext.video.reference.base import AbstractClipReference, ShownWithLatents
from pcs_ext.video.reference.clip_identity import ClipIdentityLoss
from pcs_ext.video.reference.directions import MOST_INTENSITY, Directions
from pcs_ext.video.reference.token_maps import TokenMaps
from pcs_ext.video.reference.tracks import Tracking


@config
class MotionCharacterConfig:
    """An identity's tokens, two motion branches, and the two losses."""

    kind: Literal["motioncharacter"] = "motioncharacter"
    """Tag in JSON."""
    tokens: int = 4
    """Of the identity. Ours, as is every number here: the paper's are not known."""
    inner: int = 768
    """Width in which the identity reads patches, and of the network that reads the intensity."""
    heads: int = 12
    """Of that reading; as many as divide the width, at most."""
    identity_strength: float = 1.0
    """lambda."""
    motion_strength: float = 1.0
    """alpha."""
    usual_intensity: float = 10.0
    """In use, where none is asked for; the middle of its range."""
    region_weight: float = 1.0
    """How much more the fastest cell of a clip counts in the loss than one that stands still."""
    identity_weight: float = 0.01
    """Of the identity-consistency loss."""
    identity_below: float = 0.25
    """It counts for the noise levels below this share of all, in (0, 1]."""
    identity_frames: int = 4
    """Frames it is asked about."""

    def __post_init__(self) -> None:
        if min(self.tokens, self.inner, self.heads, self.identity_frames) < 1:
            raise ConfigError("tokens, inner, heads and identity_frames must be at least 1.")
        strengths = (self.identity_strength, self.motion_strength, self.region_weight, self.identity_weight)
        if min(strengths) < 0 or not 0 <= self.usual_intensity <= MOST_INTENSITY or not 0 < self.identity_below <= 1:
            raise ConfigError(
                "strengths and weights must not be negative, usual_intensity in [0, 20] and identity_below in (0, 1]."
            )


class IdentityContent(nn.Module):
    """Proj(Attention(E_id; [E_patches, E_id])): what a global vector finds in a picture's patches and in itself.

    Args:
        width: of the image encoder's vectors.
        context: of text states.
        config: of the adapter.
    """

    def __init__(self, width: int, context: int, config: MotionCharacterConfig) -> None:
        super().__init__()
        inner, self.tokens = config.inner, config.tokens
        self.heads = next(number for number in range(config.heads, 0, -1) if inner % number == 0)
        self.identity, self.patches = nn.Linear(width, config.tokens * inner), nn.Linear(width, inner)
        self.to_q, self.to_k, self.to_v = (nn.Linear(inner, inner, bias=False) for _ in range(3))
        self.proj, self.norm = nn.Linear(inner, context), nn.LayerNorm(context)

    def forward(self, identity: Tensor, patches: Tensor) -> Tensor:
        """`b width` and `b p width` -> `b tokens context`."""
        own = self.identity(identity).unflatten(1, (self.tokens, -1))
        told = torch.cat([self.patches(patches), own], dim=1)
        query, keys, values = (
            layer(states).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, states in ((self.to_q, own), (self.to_k, told), (self.to_v, told))
        )
        found = F.scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2)
        return self.norm(self.proj(found))


class IntensityToken(nn.Module):
    """A number in [0, `MOST_INTENSITY`] -> a token as wide as text states.

    Args:
        context: that width.
        hidden: inside.
    """

    def __init__(self, context: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, context)
        )

    def forward(self, intensity: Tensor) -> Tensor:
        """`b` -> `b 1 context`."""
        return self.net(intensity[:, None, None] / MOST_INTENSITY)


class MotionCharacter(AbstractClipReference):
    """The identity's network, the intensity's, and maps to keys and values for identity, action and intensity.

    Differs from MotionCharacter: any image encoder's class token and patches stand for ArcFace's vector and CLIP's
    patches of a face, and nothing looks for one, so it is for any subject. How the two are joined is read from an
    account of the paper, not from its text. Flow is found by matching blocks instead of RAFT, and its foreground is
    what moves. A cell that stands still counts 1 in the loss, so that still clips and backgrounds teach, too. Phrases
    for actions are written by people instead of a language model; where there is none, the caption is one.

    Args:
        config: of the adapter.
        width: of the image encoder's vectors.
        maps: to keys and values, of identity, action and intensity.
    """

    sees: Sees = "layers"
    depths = (1.0,)

    def __init__(self, config: MotionCharacterConfig, width: int, maps: Sequence[TokenMaps]) -> None:
        super().__init__()
        self.config, self.width = config, width
        self.identity_maps, self.action_maps, self.intensity_maps = maps
        context = self.identity_maps.context
        self.content = IdentityContent(width, context, config)
        self.intensity = IntensityToken(context, config.inner)

    @classmethod
    def untrained(
        cls, config: MotionCharacterConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "MotionCharacter":
        """Maps begin as the text's own."""
        return cls(config, reading.width, [TokenMaps.as_text(backbone) for _ in range(3)])

    @property
    def tracking(self) -> Tracking:
        """See `AbstractClipReference.tracking`: how clips move, and what is done in them."""
        return Tracking(motion=True)

    @property
    def identity(self) -> ClipIdentityLoss:
        """See `AbstractReferenceAdapter.identity`."""
        settings = self.config
        return ClipIdentityLoss(
            weight=settings.identity_weight, below=settings.identity_below, frames=settings.identity_frames
        )

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("motioncharacter", self.identity_maps.context, backbone)

    def weights(self, directions: Directions) -> Tensor | None:
        """See `AbstractClipReference.weights`: 1, and more by speed, the fastest cell of a clip being one."""
        if directions.speed is None:
            return None
        fastest = directions.speed.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
        return (1 + self.config.region_weight * directions.speed / fastest).unsqueeze(1)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Tokens of several pictures are averaged."""
        told, like = asked.encoded(), next(self.parameters())
        features = asked.shown.to(like).sight.features[:, :, 0]
        flat = features.flatten(0, 1)
        tokens = self.content(flat[:, 0], flat[:, 1:]).unflatten(0, features.shape[:2]).mean(1)
        directions = asked.shown.directions if isinstance(asked.shown, ShownWithLatents) else None
        directions = directions or Directions()
        actions = tuple(directions.actions or asked.prompts)
        phrases = asked.encode(actions, size=asked.size).states.to(like)
        intensity = directions.intensity
        if intensity is None:
            intensity = torch.full((len(features),), self.config.usual_intensity)
        seen = asked.scale * asked.seen.to(like)[:, None, None]
        parts = (
            (self.identity_maps, tokens, self.config.identity_strength),
            (self.action_maps, phrases, self.config.motion_strength),
            (self.intensity_maps, self.intensity(intensity.to(like)), self.config.motion_strength),
        )
        for maps, read, strength in parts:
            found = maps(read)
            pairs = {path: (keys, strength * seen * values) for path, (keys, values) in found.items()}
            told = told.beside(Decoupled(pairs=pairs))
        return told
