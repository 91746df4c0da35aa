"""The domain-agnostic tuning encoder (Arar et al. 2023, arXiv 2307.06925): a word near real words, and weights to it.

As in E4T an encoder reads the picture and, at every noise level, what the denoiser's first half makes of the picture
that is being drawn. It makes a word, which a contrast pulls towards the nearest words of the vocabulary and pushes from
those of other pictures; and, by a hypernetwork, low-rank updates of all attention projections. Every attention is run
twice, with the word and the updates (soft), and as the base has it with the nearest real word (hard), and both are
blended. It is meant to be tuned to a subject in a few steps afterwards (`reference tune`).
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.layers import original
from pcs_ext.image.adapters.targets import matching_layers
from pcs_ext.image.attention import self_attention_paths
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import recomputing_inside
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.anew import AbstractWordAnew, Drawing, drawn_features
from pcs_ext.image.reference.base import Reading, Terms, check_context, context_width, token_widths
from pcs_ext.image.reference.contrasting import cosines_of
from pcs_ext.image.reference.inside import read_of
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.rows import row_updates
from pcs_ext.image.reference.shown import Sees, Shown
from pcs_ext.image.reference.words import SeenWords, noun_rows
from pcs_ext.image.types import Conditioning


@config
class DomainAgnosticConfig:
    """An encoder of a word and of weights. Numbers are ours, where nothing else is said: the paper's could not be
    read."""

    kind: Literal["domain-agnostic-encoder"] = "domain-agnostic-encoder"
    """Tag in JSON."""
    hidden: int = 64
    """Width of what all updates are made of."""
    rank: int = 4
    """Of the updates."""
    blend: float = 0.5
    """Share of the soft path in every attention; 1: there is no hard one."""
    neighbours: int = 8
    """Words of the vocabulary that a word is pulled to."""
    temperature: float = 0.1
    """Divides the cosines."""
    contrast_weight: float = 0.01
    """Of the contrast in the loss."""
    length_weight: float = 0.01
    """Of the word's squared length in the loss (E4T's)."""

    def __post_init__(self) -> None:
        if min(self.hidden, self.rank, self.neighbours) < 1 or self.temperature <= 0:
            raise ConfigError("hidden, rank and neighbours must be at least 1 and temperature positive.")
        if not 0 < self.blend <= 1 or min(self.contrast_weight, self.length_weight) < 0:
            raise ConfigError(
                f"blend must be in (0, 1] and contrast_weight and length_weight not negative, got {self.blend}, "
                f"{self.contrast_weight} and {self.length_weight}."
            )


class UpdateHeads(nn.Module):
    """A vector -> low-rank updates of layers, U D; U begins at zero, and D as a LoRA's.

    Args:
        width: of the vector.
        shapes: outputs and inputs of every layer, by its path.
        rank: of the updates.
    """

    def __init__(self, width: int, shapes: Mapping[str, tuple[int, int]], rank: int) -> None:
        super().__init__()
        self.rank, self.names = rank, {path: path.replace(".", "_") for path in shapes}
        sides = {self.names[path]: shape for path, shape in shapes.items()}
        self.up = nn.ModuleDict({name: nn.Linear(width, outputs * rank) for name, (outputs, _) in sides.items()})
        self.down = nn.ModuleDict({name: nn.Linear(width, inputs * rank) for name, (_, inputs) in sides.items()})
        for name, (_, inputs) in sides.items():
            up, down = self.up[name], self.down[name]
            nn.init.zeros_(up.weight)  # type: ignore[arg-type]
            nn.init.zeros_(up.bias)  # type: ignore[arg-type]
            nn.init.normal_(down.bias, std=inputs**-0.5)  # type: ignore[arg-type]

    def forward(self, vector: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """`m width` -> by path, U `m out r` and D `m r in`."""
        return {
            path: (
                self.up[name](vector).unflatten(-1, (-1, self.rank)),
                self.down[name](vector).unflatten(-1, (self.rank, -1)),
            )
            for path, name in self.names.items()
        }


class DomainAgnosticEncoder(AbstractWordAnew):
    """The encoder, the head of the word and the hypernetwork.

    Differs from the paper in that the word stands in the class word's place, which says where it belongs and, at lower
    strengths, what it comes from; in that the hypernetwork's heads read a narrow vector; in that `reference tune` tunes
    the networks that tell word and weights, not these themselves; and in that another picture of the subject is shown
    than the one that is drawn. The blend is the same in training and in use.

    Args:
        config: of the adapter.
        reading: of the image encoder.
        blocks: channels that the denoiser's downward blocks put out.
        shapes: outputs and inputs of every attention projection, by its path.
        context: width of text states.
        tokens: of token rows.
        length: of the vocabulary's rows in each text encoder, on average.
    """

    sees: Sees = "layers"
    depths = tuple(layer / 12 for layer in range(1, 13))
    """E4T's."""
    asks_noun = True

    def __init__(
        self,
        config: DomainAgnosticConfig,
        reading: Reading,
        blocks: Sequence[int],
        shapes: Mapping[str, tuple[int, int]],
        context: int,
        tokens: Sequence[int],
        length: Sequence[float],
    ) -> None:
        super().__init__()
        self.config, self.width, self.context, self.tokens = config, reading.width, context, list(tokens)
        self.length = list(length)
        self.norm = nn.LayerNorm(reading.width)
        self.trunk = nn.Sequential(nn.Linear(reading.width + sum(blocks), reading.width), nn.LayerNorm(reading.width))
        self.act = nn.LeakyReLU()
        self.word = nn.Linear(reading.width, sum(tokens))
        self.narrow = nn.Linear(reading.width, config.hidden)
        self.heads = UpdateHeads(config.hidden, shapes, config.rank)
        self.seen_words = SeenWords(1)
        self.inside = (self.seen_words,)
        self._backbone: AbstractBackbone | None = None
        self._made: list[Tensor] | None = None
        self._updates: dict[str, tuple[Tensor, Tensor]] = {}

    @classmethod
    def untrained(
        cls, config: DomainAgnosticConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "DomainAgnosticEncoder":
        """Its updates change nothing yet, and its words are as long as the vocabulary's."""
        found = matching_layers("denoiser", backbone.denoiser, "attention")
        shapes = {
            place: (layer.weight.shape[0], layer.weight.shape[1])
            for place, layer in found.values()
            if isinstance(layer, nn.Linear)
        }
        blocks, tokens = list(backbone.denoiser.config["block_out_channels"]), token_widths(backbone)
        length = [float(table.norm(dim=-1).mean()) for table in vocabularies(backbone)]
        return cls(config, reading, blocks, shapes, context_width(backbone), tokens, length)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("domain-agnostic-encoder", self.context, backbone)

    def seen_of(self, shown: Shown) -> Tensor:
        """See `AbstractWordAnew.seen_of`: pictures of a row are averaged."""
        classes = shown.to(next(self.parameters())).sight.features[..., 0, :]
        return self.norm(classes).mean((1, 2))[:, None]

    def words(self, backbone: AbstractBackbone, drawing: Drawing) -> list[Tensor]:
        """See `AbstractWordAnew.words`: at lower strengths nearer to the noun's row."""
        like = self.word.weight
        drawn = drawn_features(backbone, drawing).to(like)
        read = self.act(self.trunk(torch.cat([drawing.read.vectors[:, 0].to(like), drawn], dim=-1)))
        strength = drawing.read.strength.to(like)
        updates = self.heads(self.act(self.narrow(read)))
        self._updates = {path: (strength[:, None, None] * up, down) for path, (up, down) in updates.items()}
        # A linear map of a normed vector has entries of about 1; the vocabulary's rows are shorter.
        parts = self.word(read).float().split(self.tokens, dim=-1)
        made = [part * size / width**0.5 for part, size, width in zip(parts, self.length, self.tokens, strict=True)]
        nouns = [noun_rows(backbone, noun) for noun in drawing.nouns]
        starts = [torch.stack([rows[index] for rows in nouns]) for index in range(len(made))]
        self._made = [
            torch.lerp(start, part, strength.float()[:, None]) for start, part in zip(starts, made, strict=True)
        ]
        return [part[:, None] for part in self._made]

    def forget(self) -> None:
        """See `AbstractWordAnew.forget`."""
        self._made, self._updates = None, {}

    def asked_with(
        self, predict: Predict, noisy: Tensor, timesteps: Tensor, told: Conditioning, plain: Conditioning
    ) -> Tensor:
        """See `AbstractWordAnew.asked_with`: rows with pictures are in the batch twice, soft and hard, and what each of
        their attentions puts out is blended in both."""
        read, backbone = read_of(plain, self._name), self._backbone
        assert read is not None
        assert backbone is not None, "words are made while it is inserted"
        rows, count, denoiser = read.seen, len(noisy), backbone.denoiser
        at, times = rows.to(noisy.device), timesteps.expand(count)
        asked, drawn = told, noisy
        if self.config.blend < 1:
            asked = Conditioning.cat([told, self._hard(backbone, plain[rows])])
            drawn, times = torch.cat([noisy, noisy[at]]), torch.cat([times, times[at]])
        full = {path: _placed(pair, at, len(drawn)) for path, pair in self._updates.items()}

        @contextlib.contextmanager
        def within() -> Iterator[None]:
            with row_updates(denoiser, full), blended(backbone, at, count, self.config.blend):
                yield

        with recomputing_inside(denoiser, within), within():
            return predict(drawn, times, asked)[:count]

    def _hard(self, backbone: AbstractBackbone, plain: Conditioning) -> Conditioning:
        """The same prompts with the real word that is nearest in the made one's place."""
        assert self._made is not None
        words = [
            table[nearest(made, table, 1)[:, 0]][:, None].float()
            for made, table in zip(self._made, vocabularies(backbone), strict=True)
        ]
        read = read_of(plain, self._name)
        assert read is not None
        texts = [self._texts[int(number) - 1][0] for number in read.vectors[:, 0, 0].tolist()]
        with self.seen_words.meaning(words):
            states = backbone.encode_prompt(texts).states
        return plain.with_states(lambda own: states.to(own))

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`."""
        self._backbone = backbone
        try:
            with super().inserted(backbone, scale):
                yield
        finally:
            self._backbone = None

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `contrast` and `length` of the words."""
        self._made = None

        def terms() -> dict[str, Tensor]:
            if self._made is None:
                return {}
            tables = vocabularies(backbone)
            contrast = sum(
                neighbour_contrast(made, table, self.config.neighbours, self.config.temperature)
                for made, table in zip(self._made, tables, strict=True)
            )
            length = torch.cat(self._made, dim=-1).square().sum(-1).mean()
            return {"contrast": self.config.contrast_weight * contrast, "length": self.config.length_weight * length}  # type: ignore[dict-item]

        yield terms


def vocabularies(backbone: AbstractBackbone) -> list[Tensor]:
    """The token rows of every text encoder, `v d`; words that adapters put in are none."""
    tables = [original(encoder.get_input_embeddings()) for encoder in backbone.text_encoders]  # type: ignore[operator]
    return [table.weight.detach() for table in tables]  # type: ignore[union-attr]


def nearest(words: Tensor, table: Tensor, count: int) -> Tensor:
    """Numbers of the rows of a table that are nearest by cosine, nearest first: `m d` and `v d` -> `m count`."""
    return cosines_of(words.detach(), table).topk(min(count, len(table)), dim=-1).indices


def neighbour_contrast(words: Tensor, table: Tensor, count: int, temperature: float) -> Tensor:
    """-log of the share that a word's own neighbours have beside the words of the other pictures, a mean, 0-d.

    Sums of exp(cosine / temperature) over the neighbours, and over these and the other words; the paper's nearest
    neighbour contrastive regularisation.

    Args:
        words: `m d`.
        table: `v d`, the vocabulary; no gradient goes there.
        count: of neighbours.
        temperature: divides the cosines.
    """
    own = F.normalize(words.float(), dim=-1)
    rows = F.normalize(table.float(), dim=-1)[nearest(words, table, count)]
    pulled = (own[:, None] * rows).sum(-1) / temperature
    itself = torch.eye(len(own), dtype=torch.bool, device=own.device)
    pushed = (cosines_of(own, own) / temperature).masked_fill(itself, -torch.inf)
    return (torch.cat([pulled, pushed], dim=1).logsumexp(1) - pulled.logsumexp(1)).mean()


def _placed(pair: tuple[Tensor, Tensor], rows: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Updates of some rows of a batch, zeros in the others."""
    up, down = (tensor.new_zeros(batch, *tensor.shape[1:]).index_copy(0, rows, tensor) for tensor in pair)
    return up, down


@contextlib.contextmanager
def blended(backbone: AbstractBackbone, rows: Tensor, first: int, share: float) -> Iterator[None]:
    """Inside, what every attention puts out for some rows of a batch is blended with what it does for their doubles.

    Args:
        backbone: denoises.
        rows: `m` numbers in the batch.
        first: number of the first double; a batch without doubles is left alone.
        share: of the rows' own.
    """

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        if len(output) == first:
            return output
        mixed = torch.lerp(output[first:], output[rows], share)
        return torch.cat([output[:first].index_copy(0, rows, mixed), mixed])

    paths = [*self_attention_paths(backbone), *backbone.cross_attention_paths()]
    handles = [backbone.denoiser.get_submodule(path).register_forward_hook(hook) for path in paths]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
