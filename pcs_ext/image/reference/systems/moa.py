"""MoA, mixture of attention (Wang et al. 2024, arXiv 2404.11565): the base's attention and a personalised one, routed.

Beside every attention of the denoiser, which stays as it is and reads the prompt, stands a copy that is trained and
reads the prompt with pictures mixed into the words that name them. A router decides in every cell and layer how much
each counts; in training it is told to leave the background to the base.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.attention import token_grid
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.cpu_attention import attend
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading, Terms, check_context, context_width
from pcs_ext.image.reference.fusing import FusedWord, fused
from pcs_ext.image.reference.inside import Read, beside, reading
from pcs_ext.image.reference.localization import localization, middle_paths, placed
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning

_NAME = "reference_moa"


@config
class MoAConfig:
    """A second attention beside every one, and a router between them."""

    kind: Literal["moa"] = "moa"
    """Tag in JSON."""
    router_weight: float = 1e-4
    """Of what the router gives to the personalised branch in the background (as recalled)."""
    object_weight: float = 1e-3
    """Of the personalised branch's attention to a word outside of its mask less that inside (as recalled; FastComposer
    has as much)."""
    levels: int = 5
    """Of the denoiser's blocks the middle so many are in both terms; all but the first and the last in the paper."""

    def __post_init__(self) -> None:
        if min(self.router_weight, self.object_weight) < 0 or self.levels < 1:
            raise ConfigError(
                "router_weight and object_weight must not be negative and levels at least 1, got "
                f"{self.router_weight}, {self.object_weight} and {self.levels}."
            )


class Expert(nn.Module):
    """A copy of an attention, and the router that decides between the two.

    Args:
        attention: of the denoiser.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads, self.scale = attention.heads, attention.scale
        names = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}
        for name, theirs in names.items():
            layer = attention.get_submodule(theirs)
            own = nn.Linear(layer.weight.shape[1], layer.weight.shape[0], bias=layer.bias is not None)
            with torch.no_grad():
                own.weight.copy_(layer.weight)
                if layer.bias is not None:
                    own.bias.copy_(layer.bias)
            self.add_module(name, own)
        width = attention.to_q.weight.shape[1]
        self.router = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2))
        for parameter in self.router[2].parameters():
            nn.init.zeros_(parameter)

    def routed(self, cells: Tensor) -> Tensor:
        """`b n d` -> `b n 2`: shares of the base's attention and of this one, summing to 1; half each untrained."""
        return self.router(cells).softmax(-1)

    def projected(self, cells: Tensor, states: Tensor) -> list[Tensor]:
        """Queries, keys and values, `b heads n d/heads`."""
        made = (self.to_q(cells), self.to_k(states), self.to_v(states))  # type: ignore[operator]
        return [x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in made]

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """What it finds, `b n d`."""
        mixed = attend(query, key, value, self.scale)
        return self.to_out(mixed.transpose(1, 2).flatten(2))  # type: ignore[operator]


class MoA(AbstractReferenceAdapter):
    """The network that mixes pictures into words, and an expert beside every attention.

    Differs from MoA in that what is mixed into a word is the same at all noise levels and in all layers. Several
    pictures of one subject are averaged.

    Args:
        config: of the adapter.
        width: of the image encoder's embedding.
        context: of text states.
        attentions: of the denoiser, by their paths.
    """

    sees: Sees = "embedding"
    asks_noun = True
    asks_masks = True
    several = True
    enters = True

    def __init__(self, config: MoAConfig, width: int, context: int, attentions: dict[str, Any]) -> None:
        super().__init__()
        self.config, self.width = config, width
        self.fuse = FusedWord(width, context)
        self.names = {path: path.replace(".", "_") for path in attentions}
        self.experts = nn.ModuleDict({name: Expert(attentions[path]) for path, name in self.names.items()})
        self._watched: _Watched | None = None

    @classmethod
    def untrained(cls, config: MoAConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "MoA":
        """Its experts are the base's attentions, and both count alike."""
        paths = [own for path in backbone.cross_attention_paths() for own in (_beside(path), path)]
        attentions = {path: backbone.denoiser.get_submodule(path) for path in paths}
        return cls(config, reading.width, context_width(backbone), attentions)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("moa", self.fuse.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. The base reads the prompts' own states, experts those beside."""
        plain = asked.encoded()
        places, embeddings = placed(asked.backbone, asked.prompts, asked.shown)
        if not places.rows:
            return plain
        states = fused(plain, places, embeddings, self.fuse, 1.0).states.to(self.dtype)
        seen = torch.tensor([row in places.rows for row in range(len(states))], device=states.device)
        return beside(plain, _NAME, states, asked.scale * seen)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: experts are there while rows with pictures are denoised."""
        with super().inserted(backbone, scale), reading(backbone, _NAME, lambda read: self._mixture(backbone, read)):
            yield

    @contextlib.contextmanager
    def _mixture(self, backbone: AbstractBackbone, read: Read) -> Iterator[None]:
        handles = []
        try:
            for path, name in self.names.items():
                attention = backbone.denoiser.get_submodule(path)
                hook = self._mixing(path, cast(Expert, self.experts[name]), read)
                handles.append(attention.register_forward_hook(hook))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _mixing(self, path: str, expert: Expert, read: Read) -> Any:
        strength = read.strength[:, None, None]

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            cells = inputs[0].to(read.vectors.dtype)
            query, key, value = expert.projected(cells, read.vectors if path.endswith("attn2") else cells)
            shares = expert.routed(cells)
            if self._watched is not None:
                self._watched.keep(path, shares, expert.scale * query @ key.transpose(-1, -2))
            # The shares sum to 1: the base's result, and so much of the way to the expert's.
            return output + (strength * shares[..., 1:] * (expert(query, key, value) - output)).to(output.dtype)

        return hook

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `router` and `object`, none where no mask is known."""
        places, _ = placed(backbone, pairs.captions, pairs.shown)
        if pairs.masks is None or not places.rows:
            yield dict
            return
        rows, tokens = torch.tensor(places.rows), torch.tensor(places.tokens)
        masks = pairs.masks.to(backbone.device)
        held = masks[rows, torch.tensor(places.pictures)]
        watched = _Watched(set(middle_paths(backbone, self.config.levels)), rows, tokens)
        subjects = masks[rows.unique()].amax(1)

        def terms() -> dict[str, Tensor]:
            prior = [shares[rows.unique(), :, 0] for shares in watched.shares]
            return {
                "router": self.config.router_weight * routing(prior, subjects),
                "object": self.config.object_weight * localization(watched.looks, held),
            }

        self._watched = watched
        try:
            yield terms
        finally:
            self._watched = None


class _Watched:
    """Routers' shares and experts' looks at words in some blocks, of the latest prediction."""

    def __init__(self, paths: set[str], rows: Tensor, tokens: Tensor) -> None:
        self.paths, self.rows, self.tokens = paths, rows, tokens
        self.looks: dict[str, Tensor] = {}
        self._shares: dict[str, Tensor] = {}

    @property
    def shares(self) -> list[Tensor]:
        """`b n 2` of every layer."""
        return list(self._shares.values())

    def keep(self, path: str, shares: Tensor, scores: Tensor) -> None:
        """Of one attention: `b n 2` and scores `b heads n m`."""
        if path in self.paths:
            self.looks[path] = scores.float().softmax(-1)[self.rows, :, :, self.tokens]
        if path in self.paths or any(_beside(own) == path for own in self.paths):
            self._shares[path] = shares


def routing(prior: list[Tensor], masks: Tensor) -> Tensor:
    """Squared (1 - mask) (1 - R), a mean over cells, 0-d: R is the base's share, a mean over layers.

    Args:
        prior: the base's share in every layer, `b cells` each, of any number of cells.
        masks: where subjects are, `b rows columns` in [0, 1].
    """
    size = (masks.shape[1], masks.shape[2])
    grids = [share.float().unflatten(1, token_grid(share.shape[1], size)).unsqueeze(1) for share in prior]
    resized = [F.interpolate(grid, size=size, mode="bilinear") for grid in grids]
    mean = torch.stack(resized).mean(0)[:, 0]
    return ((1 - masks) * (1 - mean)).square().mean()


def _beside(path: str) -> str:
    """The self-attention that stands before a text cross-attention."""
    return path.removesuffix("attn2") + "attn1"
