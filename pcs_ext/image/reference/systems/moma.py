"""MoMA (Song et al. 2024, arXiv 2404.05674): an embedding that knows the prompt, and masked shortcuts for details.

What photo and prompt say together becomes tokens beside the text. Finer details take a shortcut: the base itself looks
at the clean photo, and what its self-attentions hold there is read by those of the picture that is drawn, from the
subject's cells to the subject's cells.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.attention import attention_program, self_attention_paths, token_grid
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading, check_context, context_width
from pcs_ext.image.reference.beside import PictureMaps
from pcs_ext.image.reference.inside import beside, read_of
from pcs_ext.image.reference.projection import LinearProjection
from pcs_ext.image.reference.query_transformer import QueryTransformer
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.reference.systems.bootpig import timestep_noise
from pcs_ext.image.sample import Sampling
from pcs_ext.image.types import Conditioning, Decoupled

_NOUN = "reference_moma_noun"


@config
class MoMAConfig:
    """A network for photo and prompt, tokens, and shortcuts."""

    kind: Literal["moma"] = "moma"
    """Tag in JSON."""
    tokens: int = 4
    """Beside the text (the released code's)."""
    embedding: int = 1024
    """Width of what photo and prompt become together (the released code's)."""
    width: int = 768
    """Of the network that reads both. Ours, and so depth and heads: there it is a multimodal language model."""
    depth: int = 6
    """Its blocks."""
    heads: int = 12
    """Of its attention."""
    late: float = 0.05
    """Share of the noise levels, from pure noise on, without shortcuts (the released code's)."""
    least: float = 0.2
    """Where what is drawn looks less at the noun than this share, nothing is shown (the released code's)."""

    def __post_init__(self) -> None:
        if min(self.tokens, self.embedding, self.depth, self.heads) < 1 or self.width < 1 or self.width % self.heads:
            raise ConfigError(
                "tokens, embedding, depth and heads must be at least 1 and width a multiple of heads, got "
                f"{self.tokens}, {self.embedding}, {self.depth}, {self.heads} and {self.width}."
            )
        if not 0 <= self.late < 1 or not 0 <= self.least < 1:
            raise ConfigError(f"late and least must be in [0, 1), got {self.late} and {self.least}.")


class Shortcut(nn.Module):
    """Maps of the base's own keys and values of a photo, and how much what is found counts, which begins at 0.

    Args:
        width: of the keys.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.keys, self.values = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        with torch.no_grad():
            for layer in (self.keys, self.values):
                layer.weight.copy_(torch.eye(width))
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """`b m width` twice -> the same, values times the scale."""
        return self.keys(keys), self.scale * self.values(values)


class MoMA(AbstractReferenceAdapter):
    """The network, the maps beside the text, and the shortcuts; the base stays as it is.

    Differs from MoMA in that a small query transformer, which learns with it, reads the prompt's states and the photo's
    patches, where there a multimodal language model does that was trained to describe the new picture; in that maps of
    shortcuts begin as the identity; in that rows without photos, those that guidance goes away from among them, are the
    base's; and in that nothing is masked in what is drawn while it is learned, what the paper does then not being known
    here.

    Args:
        config: of the adapter.
        width: of the image encoder's patches.
        maps: of every text cross-attention.
        widths: of the self-attentions' keys, by their paths.
        context: of text states.
    """

    sees: Sees = "patches"
    asks_noun = True
    asks_latents = True
    mixes = True
    in_steps = "shows the photos where the step before drew the subject"

    def __init__(self, config: MoMAConfig, width: int, maps: PictureMaps, widths: dict[str, int], context: int) -> None:
        super().__init__()
        self.config, self.width, self.context = config, width, context
        self.reader = QueryTransformer(
            1, config.width, config.depth, config.heads, text=context, picture=width, made=config.embedding
        )
        self.project = LinearProjection(config.embedding, context, config.tokens)
        self.maps = maps
        self.names = {path: path.replace(".", "_") for path in widths}
        self.shortcuts = nn.ModuleDict({self.names[path]: Shortcut(own) for path, own in widths.items()})
        self._drawn: tuple[Sampling, Tensor] | None = None

    @classmethod
    def untrained(cls, config: MoMAConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "MoMA":
        """Maps begin as the text's own, and shortcuts are shut."""
        attentions = {path: backbone.denoiser.get_submodule(path) for path in self_attention_paths(backbone)}
        widths = {path: attention.to_k.weight.shape[0] for path, attention in attentions.items()}
        return cls(config, reading.width, PictureMaps.like_the_texts(backbone), widths, context_width(backbone))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("moma", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Tokens and cells of several photos stand side by side."""
        told, named = asked.encoded(), asked.named
        if not any(named):
            return told
        shown = asked.shown.to(self.dtype_like)
        there = torch.tensor(named, device=told.states.device)
        count = shown.sight.features.shape[1]
        states = told.states.to(self.dtype_like).repeat_interleave(count, 0)
        made = self.reader(states, shown.sight.features.flatten(0, 1))[:, 0]
        tokens = self.project(made).unflatten(0, (-1, count)).flatten(1, 2) * there[:, None, None]
        strength = asked.scale * there.to(tokens)[:, None, None]
        told = told.beside(Decoupled(pairs=self.maps(tokens, strength)))
        for source in self._details(asked, strength) if shown.sight.latents is not None else ():
            told = told.beside(source)
        return beside(told, _NOUN, asked.noun_gate(0).unsqueeze(-1), there.to(tokens))

    @property
    def dtype_like(self) -> Tensor:
        """A tensor of the adapter's device and precision."""
        return self.project.proj.weight

    def _details(self, asked: Asked, strength: Tensor) -> list[Decoupled]:
        """Keys and values of the base's self-attentions for the photos, open in their subjects' cells alone."""
        sight = asked.shown.sight
        assert sight.latents is not None
        assert sight.cells is not None
        rows, count = sight.latents.shape[:2]
        held = self._looked_at(asked, sight.latents.flatten(0, 1))
        shape = (sight.cells.shape[-2], sight.cells.shape[-1])
        sources: dict[int, Decoupled] = {}
        for path, (keys, values) in held.items():
            cells = keys.shape[1]
            pair = cast(Shortcut, self.shortcuts[self.names[path]])(keys.to(strength), values.to(strength))
            pair = tuple(x.unflatten(0, (rows, count)).flatten(1, 2) for x in pair)
            if cells not in sources:
                covered = F.adaptive_avg_pool2d(sight.cells.float(), token_grid(cells, shape)) > 0.5
                sources[cells] = Decoupled(pairs={}, there=covered.flatten(1).to(strength))
            own = {**sources[cells].pairs, path: (pair[0], strength * pair[1])}
            sources[cells] = dataclasses.replace(sources[cells], pairs=own)
        return list(sources.values())

    @torch.no_grad()
    def _looked_at(self, asked: Asked, latents: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Keys and values of the base's self-attentions for pictures with next to no noise, told their nouns."""
        backbone, kept = asked.backbone, {}

        def keep(path: str, made: Tensor) -> Tensor:
            kept.setdefault(path, []).append(made)
            return made

        nouns = [noun for own in asked.shown.nouns for noun in own]
        first = torch.zeros(len(latents), dtype=torch.long, device=latents.device)
        noise = timestep_noise(0, latents.shape[1:]).to(latents).expand_as(latents)
        dirty = backbone.schedule.add_noise(latents, noise, first)
        paths = list(self.names)
        with attention_program(backbone, keep, paths, at="keys"), attention_program(backbone, keep, paths, at="values"):
            backbone.predict(dirty, first, asked.encode(nouns))
        return {path: (parts[0], parts[1]) for path, parts in kept.items()}

    def mixed(
        self,
        backbone: AbstractBackbone,
        sampling: Sampling,
        predict: Predict,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
    ) -> Tensor:
        """See `AbstractReferenceAdapter.mixed`: tokens and shortcuts count where the last step looked at the noun."""
        noun = read_of(conditioning, _NOUN)
        if noun is None or not len(noun.seen):
            return predict(noisy_latents, timesteps, conditioning)
        grid = (noisy_latents.shape[2], noisy_latents.shape[3])
        last = self._drawn[1] if self._drawn is not None and self._drawn[0] is sampling else None
        early = float(timesteps[0]) >= (1 - self.config.late) * backbone.schedule.num_train_timesteps
        masked = self._masked(conditioning, last, grid, shortcuts=not early)
        looks: list[Tensor] = []
        with self._looking(backbone, noun.vectors[..., 0], looks):
            answer = predict(noisy_latents, timesteps, masked)
        self._drawn = sampling, subject_mask(looks, grid, self.config.least)
        return answer

    def _masked(
        self, conditioning: Conditioning, mask: Tensor | None, grid: tuple[int, int], *, shortcuts: bool
    ) -> Conditioning:
        """The same with what is found weighed by the mask of what is drawn, `b rows columns`; None: not known yet."""
        rows = conditioning.batch_size
        sources = []
        for source in conditioning.decoupled:
            fine = any(path in self.names for path in source.pairs)
            like = next(iter(source.pairs.values()))[0]
            if fine and not shortcuts:
                sources.append(dataclasses.replace(source, weight=like.new_zeros(rows, *grid)))
            else:
                sources.append(source if mask is None else dataclasses.replace(source, weight=mask.to(like)))
        return dataclasses.replace(conditioning, decoupled=tuple(sources))

    @contextlib.contextmanager
    def _looking(self, backbone: AbstractBackbone, noun: Tensor, looks: list[Tensor]) -> Iterator[None]:
        """Inside, how much cells look at the noun is kept, `b cells` of every text cross-attention."""

        def keep(path: str, probabilities: Tensor) -> Tensor:
            looks.append(torch.einsum("bhnt,bt->bn", probabilities.float(), noun.float()) / probabilities.shape[1])
            return probabilities

        with attention_program(backbone, keep):
            yield


def subject_mask(looks: Sequence[Tensor], grid: tuple[int, int], least: float) -> Tensor:
    """Where a picture shows what a noun names, `b rows columns` in [0, 1].

    Each layer's looks are brought to [0, 1], resized and averaged; the mean is, too, and what is below `least` is 0.

    Args:
        looks: `b cells` of every layer, of any number of cells.
        grid: rows and columns.
        least: a share of the largest.
    """
    maps = []
    for look in looks:
        square = _ranged(look).unflatten(1, token_grid(look.shape[1], grid))[:, None]
        maps.append(F.interpolate(square, size=grid, mode="nearest")[:, 0])
    mean = _ranged(torch.stack(maps).mean(0).flatten(1))
    return _ranged(torch.where(mean > least, mean, torch.zeros_like(mean))).unflatten(1, grid)


def _ranged(values: Tensor) -> Tensor:
    """Each row from its least, 0, to its largest, 1."""
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    return (values - low) / (high - low).clamp_min(1e-8)
