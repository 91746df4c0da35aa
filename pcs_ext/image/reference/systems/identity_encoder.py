"""Identity encoder (Su et al. 2023, arXiv 2304.07429): one representation of a person, of a set of pictures.

An encoder makes an identity representation of any few reference pictures, and a diffusion model learns together with
it to draw new pictures of whomever that tells of. What the denoiser finds in the representation is held back where the
person is not (*regularised attention*), and what is drawn must look like the person (identity loss).
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import FullAdapter, FullConfig
from pcs_ext.image.attention import token_grid
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading, Terms, check_context, context_width
from pcs_ext.image.reference.beside import PictureMaps
from pcs_ext.image.reference.identity import IdentityLoss
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.projection import Resampler
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning, Decoupled


@config
class IdentityEncoderConfig:
    """Sizes and weights; all are ours, as of the paper only the abstract could be read."""

    kind: Literal["identity-encoder"] = "identity-encoder"
    """Tag in JSON."""
    tokens: int = 16
    """Rows of the representation."""
    inner: int = 1024
    """Width inside the encoder."""
    depth: int = 4
    """Its blocks."""
    attention_weight: float = 0.01
    """Of what the denoiser adds to its cells for the representation where the person is not."""
    identity_weight: float = 0.01
    """Of 1 minus the cosine."""
    identity_below: float = 0.25
    """Share of the noise levels, the lower ones, in which that counts."""

    def __post_init__(self) -> None:
        if min(self.tokens, self.depth) < 1 or self.inner < 64 or self.inner % 64:
            raise ConfigError(
                "tokens and depth must be at least 1 and inner a multiple of 64, the width of a head, got "
                f"{self.tokens}, {self.depth} and {self.inner}."
            )
        if min(self.attention_weight, self.identity_weight) < 0 or not 0 < self.identity_below <= 1:
            raise ConfigError(
                "attention_weight and identity_weight must not be negative and identity_below in (0, 1], got "
                f"{self.attention_weight}, {self.identity_weight} and {self.identity_below}."
            )


class SetEncoder(nn.Module):
    """Patches of any number of pictures -> one representation, whatever their order.

    Each picture is asked by the same learned queries; then, row by row, the pictures are averaged, each as much as its
    own row says it tells: a softmax over pictures of a number that a linear map makes of the row. The map begins at
    zero, so that all pictures count alike.

    Args:
        width: of the patches' vectors.
        context: of text states.
        config: sizes.
    """

    def __init__(self, width: int, context: int, config: IdentityEncoderConfig) -> None:
        super().__init__()
        self.resample = Resampler(
            width, context, config.tokens, inner=config.inner, attention=config.inner, depth=config.depth
        )
        self.weigh = nn.Linear(context, 1, bias=False)
        nn.init.zeros_(self.weigh.weight)

    def forward(self, patches: Tensor) -> Tensor:
        """`b r k width` -> `b tokens context`."""
        rows = self.resample(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
        shares = self.weigh(rows).float().softmax(1).to(rows)
        return (shares * rows).sum(1)


class IdentityEncoder(AbstractReferenceAdapter):
    """The encoder of sets, keys and values of its representation beside the text's, and the denoiser.

    Known from the paper's abstract: a representation is made of a set of reference pictures; encoder and diffusion
    generator are learned together; a few pictures of a person whom neither ever saw are enough. Known from the
    survey's row: the attention is regularised, and synthetic pictures vary identities, by a StyleGAN. All else is ours:
    that the encoder asks patches of a frozen image encoder (of the person alone, where masks are known) and averages
    pictures row by row; that keys and values beside the text's read what it makes, and words are read, too; what the
    regulariser is, `added_outside`; that the image encoder stands for a face recogniser in the identity loss; every
    size and weight; and that synthetic pictures come from a style space (`reference vary`), or any folder.

    Args:
        config: of the adapter.
        backbone: whose denoiser learns.
        width: of the image encoder's patches.
    """

    sees: Sees = "patches"
    cuts = True

    def __init__(self, config: IdentityEncoderConfig, backbone: AbstractBackbone, width: int) -> None:
        super().__init__()
        self.config, self.width, self.context = config, width, context_width(backbone)
        self.encoder = SetEncoder(width, self.context, config)
        self.maps = PictureMaps.like_the_texts(backbone)
        self.inside = (FullAdapter("reference", FullConfig(components=("denoiser",))),)

    @property
    def identity(self) -> IdentityLoss | None:
        """See `AbstractReferenceAdapter.identity`."""
        if self.config.identity_weight == 0:
            return None
        return IdentityLoss(weight=self.config.identity_weight, below=self.config.identity_below)

    @classmethod
    def untrained(
        cls, config: IdentityEncoderConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "IdentityEncoder":
        """Keys and values begin as the text's, the denoiser as the base's."""
        return cls(config, backbone, reading.width)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("identity-encoder", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`."""
        told = asked.encoded()
        if not bool(asked.seen.any()):
            return told
        shown = asked.shown.to(self.encoder.weigh.weight)
        counted = (asked.scale * asked.seen).to(self.encoder.weigh.weight)[:, None, None]
        return told.beside(Decoupled(pairs=self.maps(self.encoder(shown.sight.object), counted)))

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `attention`, 0 where no row sees a picture."""
        seen = torch.tensor(pairs.shown.rows, device=backbone.device)
        if self.config.attention_weight == 0 or not bool(seen.any()):
            yield dict
            return
        cells = pairs.latents[:, 0]
        outside = torch.ones_like(cells) if pairs.masks is None else 1 - pairs.masks.amax(1)
        outside = outside.to(backbone.device)
        with finding(backbone) as found:
            yield lambda: {"attention": self.config.attention_weight * added_outside(found, outside, seen)}


Found = Mapping[str, tuple[Tensor, Tensor]]
"""By cross-attention: what was found in the text, and with what stands beside it, `b n d` each."""


@contextlib.contextmanager
def finding(backbone: AbstractBackbone) -> Iterator[Found]:
    """Inside, what text cross-attentions find is kept, before and after what stands beside the text is added."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    handles = []

    def keep(path: str) -> tuple[Any, Any]:
        text: list[Tensor] = []

        # What stands beside the text is added by a hook of the same place that is set while the base predicts, later
        # than this one, and so asked after it; hooks behind the layer see the sum.
        def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            text[:] = [inputs[0]]

        def behind(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found[path] = (text.pop(), inputs[0])

        return before, behind

    try:
        for path in backbone.cross_attention_paths():
            output = backbone.denoiser.get_submodule(f"{path}.to_out.0")
            before, behind = keep(path)
            handles += [output.register_forward_pre_hook(before), output.register_forward_hook(behind)]
        yield found
    finally:
        for handle in handles:
            handle.remove()


def added_outside(found: Found, outside: Tensor, seen: Tensor) -> Tensor:
    """Squared length of what is added to the text's answer outside of the person, in shares of that answer's own, 0-d.

    A mean over layers, rows that see pictures, and cells; of the text's answer over all cells of a row and without
    gradient. Where nobody knows where the person is, everywhere counts, and the representation speaks no louder than
    it must.

    Args:
        found: see `finding`.
        outside: `b h w` in [0, 1] of latent cells, 1 where the person is not.
        seen: `b` bool.
    """
    shares = []
    for text, both in found.values():
        grid = token_grid(text.shape[1], (outside.shape[1], outside.shape[2]))
        where = F.adaptive_avg_pool2d(outside[:, None].float(), grid).flatten(1)
        added = (both.float() - text.float()).square().sum(-1)
        own = text.detach().float().square().sum(-1).mean(1).clamp_min(1e-8)
        shares.append(((where * added).mean(1) / own)[seen])
    return torch.stack(shares).mean()
