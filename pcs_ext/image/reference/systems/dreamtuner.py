"""DreamTuner (Hua et al. 2023, arXiv 2312.13691): a subject from coarse to fine.

A subject encoder makes tokens of the subject alone, which an attention of its own reads in every block of the
denoiser, before the one to the text (S-E-A). In use every self-attention also looks at what the denoiser holds of the
photo at the same noise level, cell by cell, where it shows the subject (self-subject-attention), and guidance takes
turns: away from no words, and from a noisier photo towards a cleaner one. It is meant to be tuned to the photo
(`reference tune`).
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
from pcs_ext.image.attention import self_attention_paths
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.token_grid import token_grid
from pcs_ext.image.backbones.unet import recomputing_inside
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.added_attention import AddedAttention
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import (
    Reading,
    block_widths,
    check_context,
    context_width,
)
from pcs_ext.image.reference.gated import gated
from pcs_ext.image.reference.inside import answering, beside, read_of
from pcs_ext.image.reference.own_maps import own_pairs
from pcs_ext.image.reference.own_pass import own_cells
from pcs_ext.image.reference.second_denoiser import LATENTS, References, references_of, with_references
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.reference.systems.bootpig import timestep_noise
from pcs_ext.image.reference.turns import AbstractTurnsAdapter, seen_by_both
from pcs_ext.image.types import Conditioning, Decoupled

_TOKENS, _CELLS = "reference_dreamtuner", "reference_dreamtuner_cells"


@config
class DreamTunerConfig:
    """A subject encoder, and how photos are looked at in use. Numbers are ours: the paper's could not be read."""

    kind: Literal["dreamtuner"] = "dreamtuner"
    """Tag in JSON."""
    depth: int = 2
    """Residual blocks over the image encoder's patches."""
    heads: int = 8
    """Of the attentions to the tokens."""
    photo_weight: float = 3.0
    """How much a cell of the photo's subject weighs beside one of the picture, in their softmax (omega); 0: the photo
    is not looked at."""
    turns: float = 0.5
    """Share of the steps whose guidance goes from a noisier photo to a cleaner one."""
    shift: float = 0.02
    """By which share of all noise levels the photo is noisier and cleaner there (delta t)."""
    denoiser: bool = False
    """Whether all of the denoiser's weights are its own: those of a tuned one are."""

    def __post_init__(self) -> None:
        if min(self.depth, self.heads) < 1 or self.photo_weight < 0:
            raise ConfigError("depth and heads must be at least 1 and photo_weight not negative.")
        if not 0 <= self.turns <= 1 or not 0 <= self.shift < 1:
            raise ConfigError(
                f"turns must be in [0, 1] and shift in [0, 1), got {self.turns} and {self.shift}; both are shares."
            )


class ResidualBlock(nn.Module):
    """x + MLP(norm(x)).

    Args:
        width: of the patches.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, patches: Tensor) -> Tensor:
        """`b k width` to the same."""
        return patches + self.net(patches)


class DreamTuner(AbstractTurnsAdapter):
    """The subject encoder and its attentions.

    Differs from DreamTuner in that no ControlNet leads the layout while it learns: another picture of the subject is
    shown than the one that is drawn, which keeps layout out as well; in that both kinds of guidance have the sampling's
    strength; in that the photo's pass through the denoiser knows nothing of the subject encoder, and its noise belongs
    to the noise level, so that pictures can be drawn again; and in that tuning shows no pictures of the class beside
    the photo. Several photos are side by side, each cell of theirs weighing so much less.

    Args:
        config: of the adapter.
        width: of the image encoder's patches.
        context: of text states.
        blocks: width of the cells in every block of the denoiser, by its path.
        channels: of the latents.
    """

    sees: Sees = "patches"
    asks_latents = True
    cuts = True
    asks_noun = True
    enters = True
    drawn_as = "dreamtuner"
    in_steps = "lets guidance go away from the words and from a noisier photo by turns, step after step"

    def __init__(
        self, config: DreamTunerConfig, width: int, context: int, blocks: Mapping[str, int], channels: int
    ) -> None:
        super().__init__()
        self.config, self.width, self.context, self.channels = config, width, context, channels
        self.encode = nn.Sequential(
            *(ResidualBlock(width) for _ in range(config.depth)), nn.Linear(width, context), nn.LayerNorm(context)
        )
        self.names = {path: path.replace(".", "_") for path in blocks}
        self.attentions = nn.ModuleDict(
            {self.names[path]: AddedAttention(own, context, config.heads) for path, own in blocks.items()}
        )
        if config.denoiser:
            self.inside = (FullAdapter("reference", FullConfig(components=("denoiser",))),)

    @property
    def pictures_share(self) -> float:
        """See `AbstractTurnsAdapter.pictures_share`."""
        return self.config.turns

    @classmethod
    def untrained(
        cls, config: DreamTunerConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "DreamTuner":
        """Its attentions add nothing yet."""
        context = context_width(backbone)
        return cls(config, reading.width, context, block_widths(backbone), backbone.latent_channels)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("dreamtuner", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. The text is the prompts' own; what is returned also holds the
        subject's tokens and, in use, the photo's latents, for the denoiser inside `inserted`."""
        named = asked.named
        if not any(named):
            return asked.encoded()
        sight = asked.shown.to(next(self.parameters())).sight
        counted = asked.scale * torch.tensor(named, device=sight.features.device)
        told = beside(asked.encoded(), _TOKENS, self.encode(sight.object.flatten(1, 2)), counted)
        if self.training or sight.latents is None or self.config.photo_weight == 0:
            return told
        assert sight.cells is not None
        said = asked.encoded([f"a photo of the {own[0]}" for own in asked.shown.nouns for _ in own])
        told = beside(told, _CELLS, sight.cells.flatten(2), counted)
        return with_references(told, sight.latents, counted, said)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: rows with photos are denoised with all attentions."""
        with super().inserted(backbone, scale), answering(backbone, _TOKENS, self._answered(backbone)):
            yield

    def _answered(self, backbone: AbstractBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            if self.guided(noisy):
                conditioning = seen_by_both(conditioning, self._guided, (_TOKENS, _CELLS, LATENTS))
            read = read_of(conditioning, _TOKENS)
            if read is None or not len(read.seen):
                return predict(noisy, timesteps, conditioning)
            times, given = timesteps.expand(len(noisy)), references_of(conditioning, self.channels)
            if given is not None:
                for source in self._looked(backbone, predict, given, times, conditioning):
                    conditioning = conditioning.beside(source)
            gates = {path: self.attentions[name] for path, name in self.names.items()}
            tokens = dict.fromkeys(gates, read.vectors)
            within = lambda: gated(backbone.denoiser, gates, tokens, read.strength)  # noqa: E731
            with recomputing_inside(backbone.denoiser, within), within():
                return predict(noisy, timesteps, conditioning)

        return answered

    def _looked(
        self,
        backbone: AbstractBackbone,
        predict: Predict,
        given: References,
        times: Tensor,
        conditioning: Conditioning,
    ) -> list[Decoupled]:
        """Keys and values of what the denoiser holds of the photos, for every self-attention; a source for each size of
        the cells' grid."""
        clean, steps = given.latents, backbone.schedule.num_train_timesteps
        at = times[given.rows.to(times.device)].round().long()
        if self._turn:
            moved = round(self.config.shift * steps)
            negative = given.rows.to(at.device) < self._guided
            at = (at + torch.where(negative, moved, -moved)).clamp(0, steps - 1)
        count, grid = clean.shape[1], (clean.shape[3], clean.shape[4])
        noise = torch.stack([timestep_noise(int(time), tuple(clean.shape[2:])) for time in at.tolist()])[:, None]
        levels = at.repeat_interleave(count)
        dirty = backbone.schedule.add_noise(clean.flatten(0, 1), noise.to(clean).expand_as(clean).flatten(0, 1), levels)
        paths = self_attention_paths(backbone)
        cells = own_cells(backbone, predict, given, dirty.unflatten(0, (-1, count)), at, len(times), paths)
        known = read_of(conditioning, _CELLS)
        assert known is not None
        shown = known.vectors.unflatten(2, grid)
        sources: dict[int, dict[str, tuple[Tensor, Tensor]]] = {}
        for path, pair in own_pairs(backbone, cells).items():
            sources.setdefault(cells[path].shape[1], {})[path] = pair
        weight = self.config.photo_weight * given.counted[:, None] / count
        return [
            Decoupled(pairs=pairs, joint=weight * covered(shown, token_grid(size // count, grid)))
            for size, pairs in sources.items()
        ]


def covered(cells: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which cells of a grid that may be coarser are mostly of the subject, `b r h w` in [0, 1] -> `b r*rows*columns`,
    0 or 1."""
    return (F.adaptive_avg_pool2d(cells.float(), grid) >= 0.5).float().flatten(1)
