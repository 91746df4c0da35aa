"""Subject-Diffusion (Ma et al. 2023, arXiv 2307.11410): subjects as words, as patches in boxes, and held by attention.

Of every subject the embedding becomes a word at the end of the prompt ("..., the dog is W"); its patches, with the
features of its box, are read by gated layers between self- and cross-attention; and the denoiser is told which cells
are outside of all boxes. Text encoder and the keys and values of cross-attentions learn with it, and attention to a
subject's words is held to its mask.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import CrossAttentionAdapter, CrossAttentionConfig, FullAdapter, FullConfig
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.vocabulary import token_positions
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import (
    Reading,
    Terms,
    block_widths,
    check_context,
    context_width,
    token_widths,
)
from pcs_ext.image.reference.boxes import BoxFeatures, cells_in, known_boxes
from pcs_ext.image.reference.fusing import Places
from pcs_ext.image.reference.gated_adapter import AbstractGatedAdapter
from pcs_ext.image.reference.inside import beside, entering_beside, reading
from pcs_ext.image.reference.localization import held_to_masks
from pcs_ext.image.reference.nouns import names, noun_positions
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.shown import Sees, Shown
from pcs_ext.image.reference.words import SeenWords, noun_rows
from pcs_ext.image.types import Conditioning

_FREE = "reference_free_cells"


@config
class SubjectDiffusionConfig:
    """Words, gated layers and places. Defaults are the released code's, where nothing else is said."""

    kind: Literal["subject-diffusion"] = "subject-diffusion"
    """Tag in JSON."""
    subjects: int = 2
    """That get a word, at most."""
    hidden: int = 1024
    """Width inside the maps."""
    heads: int = 8
    """Of the gated layers' attention (as recalled of GLIGEN, arXiv 2301.07093, whose layers these are)."""
    localization_weight: float = 0.01
    """Of the attention outside of a subject's mask less that inside."""
    localization_levels: int = 5
    """Of the denoiser's blocks with cross-attention the middle so many are held to the masks."""
    text_encoder: bool = True
    """Whether the text encoder learns, too; without it the folder is that much smaller."""
    unplaced: float = 0.1
    """Share of training pairs whose boxes are kept back; 0.1 of the masks there."""

    def __post_init__(self) -> None:
        if min(self.subjects, self.hidden, self.heads, self.localization_levels) < 1:
            raise ConfigError("subjects, hidden, heads and localization_levels must be at least 1.")
        if self.localization_weight < 0 or not 0 <= self.unplaced <= 1:
            raise ConfigError("localization_weight must not be negative, and unplaced must be a share.")


class GroundedPatches(nn.Module):
    """Patches with the features of their subject's box -> vectors for the gated layers; learned ones for what is not
    known.

    Args:
        width: of the patches.
        hidden: of what comes out.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.features = BoxFeatures()
        entering = width + self.features.width
        self.nowhere = nn.Parameter(torch.zeros(self.features.width))
        self.nothing = nn.Parameter(torch.zeros(width))
        self.net = nn.Sequential(
            nn.LayerNorm(entering), nn.Linear(entering, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )

    def forward(self, patches: Tensor, boxes: Tensor, present: Tensor) -> Tensor:
        """`b r k width`, `b r 4` and `b r` bool -> `b r*k hidden`."""
        placed = (present & known_boxes(boxes))[..., None]
        place = torch.where(placed, self.features(boxes).to(patches), self.nowhere)
        seen = torch.where(present[..., None, None], patches, self.nothing)
        return self.net(torch.cat([seen, place[:, :, None].expand(*seen.shape[:3], -1)], dim=-1)).flatten(1, 2)


class SubjectDiffusion(AbstractGatedAdapter):
    """The maps, the gated layers, and the weights in the base.

    Differs from Subject-Diffusion in that the image encoder stays as it is, that gated layers have no feed-forward
    network behind them, and that another picture of the subject is shown than the one that is drawn. Free cells enter
    beside the first convolution, which is the same as by a fifth channel of its own whose weights begin at 0. In use
    there is one guidance, where the released code has a second one for the pictures.

    Args:
        config: of the adapter.
        width: of the image encoder's vectors.
        widths: of the denoiser's blocks with cross-attention, by their paths.
        context: of text states.
        tokens: of token rows.
        entering: channels of the denoiser's first features.
    """

    sees: Sees = "layers"
    depths = (1.0,)
    cuts = True
    asks_noun = True
    asks_masks = True
    asks_boxes = True
    several = True
    patches_name = "reference_grounded_patches"

    def __init__(
        self,
        config: SubjectDiffusionConfig,
        width: int,
        widths: dict[str, int],
        context: int,
        tokens: Sequence[int],
        entering: int,
    ) -> None:
        super().__init__()
        self.config, self.width, self.context, self.tokens = config, width, context, list(tokens)
        self.unplaced = config.unplaced
        self.concept = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, config.hidden), nn.GELU(), nn.Linear(config.hidden, sum(tokens))
        )
        self.grounded = GroundedPatches(width, config.hidden)
        self.begin_gates(widths, config.hidden, config.heads)
        self.free = nn.Conv2d(1, entering, 3, padding=1, bias=False)
        nn.init.zeros_(self.free.weight)
        self.seen_words = SeenWords(config.subjects)
        kept: tuple[AbstractAdapter, ...] = (CrossAttentionAdapter("reference_maps", CrossAttentionConfig()),)
        if config.text_encoder:
            encoders = ("text_encoder", "text_encoder_2")[: len(self.tokens)]
            kept = (*kept, FullAdapter("reference", FullConfig(components=encoders)))
        self.inside = (*kept, self.seen_words)

    @classmethod
    def untrained(
        cls, config: SubjectDiffusionConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "SubjectDiffusion":
        """Gates are shut, and the base's weights its own."""
        entering = backbone.denoiser.conv_in.weight.shape[0]
        return cls(
            config, reading.width, block_widths(backbone), context_width(backbone), token_widths(backbone), entering
        )

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("subject-diffusion", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Words of pictures of one noun are averaged."""
        present = asked.present
        if not present.any():
            return asked.encoded()
        like = next(self.parameters())
        features = asked.shown.to(like).sight.object[:, :, 0]
        with self.seen_words.meaning(self._words(asked, features[:, :, 0])):
            told = asked.encoded([self._text(*row) for row in zip(asked.prompts, self._named(asked), strict=True)])
        given = asked.shown.boxes
        boxes = torch.zeros(*present.shape, 4, device=like.device) if given is None else given.float().to(like.device)
        dense = self.grounded(features, boxes, present)
        counted = asked.scale * present.any(1).to(dense)
        cells = cells_in(boxes * present.unsqueeze(-1), *asked.grid).amax(1).flatten(1)
        free = (1 - cells) * cells.any(1, keepdim=True)
        told = beside(told, self.patches_name, dense, counted)
        return beside(told, _FREE, free.to(dense).unsqueeze(-1), counted)

    def _named(self, asked: Asked) -> list[list[str]]:
        return [
            named_subjects(text, own, seen, self.config.subjects)
            for text, own, seen in zip(asked.prompts, asked.shown.nouns, asked.shown.rows, strict=True)
        ]

    def _text(self, text: str, nouns: Sequence[str]) -> str:
        """The prompt, and of every subject what it is: "..., the dog is W1"."""
        return text + "".join(f", the {noun} is {self.seen_words.word(1 + at)}" for at, noun in enumerate(nouns))

    def _words(self, asked: Asked, classes: Tensor) -> list[Tensor]:
        """`b subjects d` of each text encoder; at lower strengths nearer to the noun's own row."""
        made = self.concept(classes).float()
        rows: list[list[Tensor]] = [[] for _ in self.tokens]
        for row, (nouns, shown) in enumerate(zip(self._named(asked), asked.shown.nouns, strict=True)):
            mine = [made[row, [at for at, other in enumerate(shown) if other == noun]].mean(0) for noun in nouns]
            split = [word.split(self.tokens) for word in mine]
            own = [noun_rows(asked.backbone, noun) for noun in nouns]
            for index, width in enumerate(self.tokens):
                words = [torch.lerp(o[index], s[index], min(asked.scale, 1.0)) for o, s in zip(own, split, strict=True)]
                empty = made.new_zeros(self.config.subjects - len(words), width)
                rows[index].append(torch.cat([torch.stack(words), empty]) if words else empty)
        return [torch.stack(own) for own in rows]

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: patches and places are read while the denoiser predicts."""
        places = reading(
            backbone,
            _FREE,
            lambda read: entering_beside(backbone, self.free, read.vectors.transpose(1, 2), read.strength),
        )
        with super().inserted(backbone, scale), places:
            yield

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `localization`, 0 where nothing is shown or no mask is known."""
        places, config = self._held(backbone, pairs.captions, pairs.shown), self.config
        with held_to_masks(
            backbone, pairs, places, weight=config.localization_weight, levels=config.localization_levels
        ) as terms:
            yield terms

    def _held(self, backbone: AbstractBackbone, captions: Sequence[str], shown: Shown) -> Places:
        """Nouns, and the words that say what they are."""
        rows, tokens, pictures = [], [], []
        for row, (text, own, seen) in enumerate(zip(captions, shown.nouns, shown.rows, strict=True)):
            nouns = named_subjects(text, own, seen, self.config.subjects)
            whole = self._text(text, nouns)
            for at, noun in enumerate(nouns):
                word = (
                    token_positions(backbone, [self.seen_words.word(1 + at)], [whole])[0].nonzero().flatten().tolist()
                )
                found = noun_positions(backbone, whole, noun) + word
                rows += [row] * len(found)
                tokens += found
                pictures += [own.index(noun)] * len(found)
        return Places(rows, tokens, pictures)


def named_subjects(text: str, nouns: Sequence[str], seen: bool, most: int) -> list[str]:
    """Different nouns of a row's pictures that its prompt names, in order, at most so many; none, if it sees none."""
    return [noun for noun in dict.fromkeys(nouns) if seen and names(text, noun)][:most]
