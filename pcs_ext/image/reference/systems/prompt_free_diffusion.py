"""Prompt-Free Diffusion (Xu et al. 2023, arXiv 2305.16223): a picture in the place of the whole prompt.

SeeCoder, a semantic context encoder, makes of a picture what the denoiser reads instead of text states: a decoder mixes
the features of several levels, and queries, a few global and many local ones, ask them for it. No word is read. Maps
may lead the structure, by a ControlNet that reads the same context.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ArtifactError, ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import (
    AbstractReferenceAdapter,
    Reading,
    TrainingStage,
    check_context,
    context_width,
)
from pcs_ext.image.reference.control import (
    ControlBranch,
    Residuals,
    added_by,
    controlled,
    maps_inside,
    with_maps,
)
from pcs_ext.image.reference.inside import Read, answering, beside, read_of
from pcs_ext.image.reference.maps import MapKinds, channels, check_kinds
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning

_CONTEXT, _POOLED, _MAPS = "prompt_free_context", "prompt_free_pooled", "prompt_free_maps"


@config
class PromptFreeConfig:
    """SeeCoder and a branch; sizes are the released settings (SeeCoder, not its position-aware form)."""

    kind: Literal["prompt-free-diffusion"] = "prompt-free-diffusion"
    """Tag in JSON."""
    maps: MapKinds = ("edges",)
    """Kinds of condition maps that the branch reads; empty: there is no branch."""
    depth: int = 6
    """Blocks of the decoder."""
    hidden: int = 1024
    """Of their feed-forward networks."""
    query_depth: int = 9
    """Blocks of the query transformer."""
    query_hidden: int = 2048
    """Of theirs."""
    heads: int = 8
    """Of every attention; must divide the width of text states, which is that of all."""
    groups: int = 32
    """Of the group norms; likewise."""
    global_queries: int = 4
    """Which see the picture through the local ones alone."""
    local_queries: int = 144
    """Which ask the picture."""

    def __post_init__(self) -> None:
        check_kinds(self.maps)
        sizes = (self.depth, self.hidden, self.query_depth, self.query_hidden, self.heads, self.groups)
        if min(*sizes, self.global_queries, self.local_queries) < 1:
            raise ConfigError("all sizes of SeeCoder must be at least 1.")


class LevelDecoder(nn.Module):
    """Features of several levels -> the same, mixed: all tokens attend to each other, and a short way round is added.

    Args:
        config: of the adapter.
        reading: of the image encoder.
        width: of what comes out.
    """

    def __init__(self, config: PromptFreeConfig, reading: Reading, width: int) -> None:
        super().__init__()
        self.enter, self.across = (
            nn.ModuleList(nn.Linear(reading.width, width, bias=bias) for _ in range(reading.layers))
            for bias in (True, False)
        )
        self.enter_norms, self.across_norms = (
            nn.ModuleList(nn.GroupNorm(config.groups, width) for _ in range(reading.layers)) for _ in range(2)
        )
        self.levels = nn.Parameter(torch.randn(reading.layers, width))
        self.blocks = nn.ModuleList(_Block(width, config.heads, config.hidden) for _ in range(config.depth))

    def forward(self, features: Tensor) -> list[Tensor]:
        """`b l k reading.width` -> of every level `b k width`."""
        parts = features.unbind(1)
        entered = [
            _normed(norm, linear(part)) + level
            for norm, linear, part, level in zip(self.enter_norms, self.enter, parts, self.levels, strict=True)
        ]
        mixed = torch.cat(entered, dim=1)
        for block in self.blocks:
            mixed = block(mixed)
        across = [
            _normed(norm, linear(part))
            for norm, linear, part in zip(self.across_norms, self.across, parts, strict=True)
        ]
        return [one + other for one, other in zip(mixed.split(parts[0].shape[1], dim=1), across, strict=True)]


def _normed(norm: nn.Module, tokens: Tensor) -> Tensor:
    """A group norm of `b n d`, over tokens and channels of a group."""
    return norm(tokens.transpose(1, 2)).transpose(1, 2)


class _Attended(nn.Module):
    """norm(x + attention(x + p, y + q, y)): positions are added to queries and keys alone."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, asking: Tensor, told: Tensor, place: Tensor | float = 0.0, own: bool = False) -> Tensor:
        """`b n d` and `b m d`; places of the first, and of the second, too, where it is the first's `own`."""
        keys = told + place if own else told
        return self.norm(asking + self.attention(asking + place, keys, told, need_weights=False)[0])


class _Fed(nn.Module):
    """norm(x + feed(x))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens + self.feed(tokens))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attended, self.fed = _Attended(width, heads), _Fed(width, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fed(self.attended(tokens, tokens))


class ContextQueries(nn.Module):
    """Queries -> what the denoiser reads: in every block the local ones ask one level, in turns, then all each other.

    Args:
        config: of the adapter.
        levels: how many are asked.
        width: of all.
    """

    def __init__(self, config: PromptFreeConfig, levels: int, width: int) -> None:
        super().__init__()
        count = config.global_queries + config.local_queries
        self.global_queries = config.global_queries
        self.queries, self.places = nn.Parameter(torch.randn(count, width)), nn.Parameter(torch.randn(count, width))
        self.levels = nn.Parameter(torch.randn(levels, width))
        self.asking = nn.ModuleList(_Attended(width, config.heads) for _ in range(config.query_depth))
        self.mixing = nn.ModuleList(_Attended(width, config.heads) for _ in range(config.query_depth))
        self.feeding = nn.ModuleList(_Fed(width, config.query_hidden) for _ in range(config.query_depth))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Of every level `b k width` -> `b queries width`, the global ones first."""
        told = [part + level for part, level in zip(features, self.levels, strict=True)]
        queries, first = self.queries.expand(len(told[0]), -1, -1), self.global_queries
        for number, (ask, mix, feed) in enumerate(zip(self.asking, self.mixing, self.feeding, strict=True)):
            local = cast(_Attended, ask)(queries[:, first:], told[number % len(told)], self.places[first:])
            queries = torch.cat([queries[:, :first], local], dim=1)
            queries = feed(cast(_Attended, mix)(queries, queries, self.places, own=True))
        return queries


class PromptFreeDiffusion(AbstractReferenceAdapter):
    """SeeCoder and the branch; the base stays as it is.

    Differs from Prompt-Free Diffusion in that levels are layers of a vision transformer, where the paper's are those of
    a Swin; in the branch, which is trained here after SeeCoder, where the paper takes published ControlNets; in that
    dropout is left out; and in that another picture is shown than the one that is drawn.

    Args:
        config: of the adapter.
        backbone: whose denoiser is copied.
        reading: of the image encoder.
    """

    sees: Sees = "layers"
    depths = (1 / 3, 2 / 3, 1.0)
    enters = True

    def __init__(self, config: PromptFreeConfig, backbone: AbstractBackbone, reading: Reading) -> None:
        super().__init__()
        width = context_width(backbone)
        if width % config.heads or width % config.groups:
            raise ArtifactError(
                f"text states of {backbone.name} are {width} wide, which {config.heads} heads or {config.groups} "
                "groups do not divide; set heads and groups with --config."
            )
        self.config, self.width, self.context = config, reading.width, width
        self.map_kinds, self.factor = config.maps, backbone.vae_factor
        self.decoder = LevelDecoder(config, reading, width)
        self.queries = ContextQueries(config, reading.layers, width)
        self.branch = ControlBranch(backbone, channels(config.maps)) if config.maps else None
        self.stage = ""

    @classmethod
    def untrained(
        cls, config: PromptFreeConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "PromptFreeDiffusion":
        """The branch's weights are the base's, its outputs zero."""
        return cls(config, backbone, reading)

    @classmethod
    def reads_maps(cls, config: PromptFreeConfig) -> MapKinds:
        """See `AbstractReferenceAdapter.reads_maps`."""
        return config.maps

    @property
    def stages(self) -> tuple[TrainingStage, ...]:
        """SeeCoder first; the branch beside it, where there is one."""
        if self.branch is None:
            return (TrainingStage(name="context", share=1.0, trains=("context",)),)
        return (
            TrainingStage(name="context", share=0.7, trains=("context",)),
            TrainingStage(name="control", share=0.3, trains=("control",)),
        )

    def begin_stage(self, name: str) -> None:
        """See `AbstractReferenceAdapter.begin_stage`."""
        self.stage = name

    def groups(self) -> dict[str, tuple[nn.Parameter, ...]]:
        """See `AbstractReferenceAdapter.groups`."""
        context = (*self.decoder.parameters(), *self.queries.parameters())
        branch = {} if self.branch is None else {"control": tuple(self.branch.parameters())}
        return {"context": context, **branch}

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("prompt-free-diffusion", self.context, backbone)

    def seen_as(self, features: Tensor) -> Tensor:
        """Layers of pictures, class tokens first, `b r l k width` -> `b r*queries context`."""
        made = self.queries(self.decoder(features[..., 1:, :].flatten(0, 1)))
        return made.unflatten(0, features.shape[:2]).flatten(1, 2)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Contexts of several pictures stand side by side.

        Rows with neither a picture nor a word are told zeros, away from which the released code guides; rows with words
        alone, those words.
        """
        told, maps, seen = asked.encoded(), asked.shown.maps, asked.seen
        if self.branch is not None and maps is not None and not (self.training and self.stage == "context"):
            told = with_maps(told, _MAPS, maps, told.states.new_full((len(maps),), asked.scale), self.factor)
        silent = seen | torch.tensor([not prompt.strip() for prompt in asked.prompts], device=seen.device)
        if not bool(silent.any()):
            return told
        context = self.seen_as(asked.shown.to(next(self.parameters())).sight.features)
        told = beside(told, _CONTEXT, context * seen.to(context)[:, None, None], asked.scale * silent)
        if told.pooled is None:
            return told
        return beside(told, _POOLED, asked.encoded([""] * len(seen)).pooled[:, None], asked.scale * silent)  # type: ignore[index]

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: the context is read in the text's place."""
        with super().inserted(backbone, scale), answering(backbone, _CONTEXT, self._answered(backbone)):
            yield

    def _answered(self, backbone: AbstractBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            read, given = read_of(conditioning, _CONTEXT), maps_inside(conditioning, _MAPS, noisy, self.factor)
            added: Residuals | None = None
            if given is not None and self.branch is not None:
                added = added_by(self.branch, noisy, timesteps, conditioning, given, read, lambda _, tokens: tokens)

            def drawn(rows: Tensor, told: Conditioning) -> Tensor:
                within = contextlib.nullcontext() if added is None else controlled(backbone.denoiser, added.some(rows))
                with within:
                    return predict(noisy[rows], timesteps.expand(len(noisy))[rows], told)

            everything = torch.arange(len(noisy), device=noisy.device)
            if read is None or not len(read.seen):
                return drawn(everything, conditioning)
            pictured, worded = read.seen.to(noisy.device), (read.strength != 1).nonzero()[:, 0].to(noisy.device)
            context = drawn(pictured, self._wordless(conditioning, read))
            if not len(worded):
                return context
            words = drawn(worded, conditioning[worded])
            mixed = words.new_zeros(len(noisy), *words.shape[1:]).index_copy(0, worded, words)
            weight = read.strength[read.seen].to(words)[:, None, None, None]
            return mixed.index_copy(0, pictured, torch.lerp(mixed[pictured], context.to(words), weight))

        return answered

    def _wordless(self, conditioning: Conditioning, read: Read) -> Conditioning:
        """Rows that are told a context, with it instead of their text, and pooled text of no words."""
        own, pooled = conditioning[read.seen], read_of(conditioning, _POOLED)
        return Conditioning(
            states=read.vectors[read.seen].to(own.states),
            pooled=None if pooled is None else pooled.vectors[read.seen, 0],
            time_ids=own.time_ids,
        )
