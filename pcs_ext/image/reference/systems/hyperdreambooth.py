"""HyperDreamBooth (Ruiz et al. 2023, arXiv 2307.06949): a picture tells the weights of a DreamBooth of its subject.

A hypernetwork makes of one picture the few inner numbers of low-rank updates of all attention projections, of the
denoiser and of the text encoder, in some rounds of refinement. It learns beside subjects whose numbers were fitted
before: by the denoising error of what it says, and by how far that is from theirs. What it says of a photo can be kept
as a learned subject and tuned in a few steps at a higher rank (`reference predict`).
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.lidb import LiDBConfig, LiDBSpace, lidb_layers
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.rare_tokens import pick_rare_tokens
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import (
    AbstractReferenceAdapter,
    Reading,
    Terms,
    TrainingStage,
    check_context,
    context_width,
)
from pcs_ext.image.reference.hypernetwork import WeightDecoder
from pcs_ext.image.reference.inside import Read, beside, reading
from pcs_ext.image.reference.nouns import renamed
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.rows import row_updates
from pcs_ext.image.reference.shown import Sees, Shown
from pcs_ext.image.types import Conditioning

_NAME = "reference_hyperdreambooth"


@config
class HyperDreamBoothConfig:
    """A hypernetwork, and the updates that it makes."""

    kind: Literal["hyperdreambooth"] = "hyperdreambooth"
    """Tag in JSON."""
    up: int = 100
    """See `LiDBConfig.up`."""
    down: int = 50
    """See `LiDBConfig.down`."""
    rank: int = 1
    """Of the updates (the paper's)."""
    iterations: int = 4
    """Rounds of refinement (a public port's, as are the blocks)."""
    width: int = 512
    """Of the decoder. Ours."""
    depth: int = 4
    """Blocks of it."""
    heads: int = 8
    """Of its attentions. Ours."""
    identifier: str = ""
    """The rare word that stands before the class word ([V]); empty picks one of the base's."""
    experts: float = 0.5
    """Share of the steps in which the training's own subjects are fitted, each by its numbers; 0: none are. Ours: the
    paper fits each of its 15,000 faces by itself before."""
    weights_weight: float = 1e-3
    """Of the squared distance to those in the loss (beta). Ours: the paper's is for distances that are not told."""

    def __post_init__(self) -> None:
        if min(self.iterations, self.depth, self.heads, self.width) < 1 or self.width % self.heads:
            raise ConfigError("iterations, depth and heads must be at least 1, and width a multiple of heads.")
        if not 0 <= self.experts < 1 or self.weights_weight < 0:
            raise ConfigError(
                f"experts must be a share below 1 and weights_weight not negative, got {self.experts} and "
                f"{self.weights_weight}."
            )
        self.lidb(("denoiser",))

    def lidb(self, components: Sequence[str]) -> LiDBConfig:
        """The adapter whose numbers are predicted."""
        return LiDBConfig(up=self.up, down=self.down, rank=self.rank, components=tuple(components))  # type: ignore[arg-type]


class HyperDreamBooth(AbstractReferenceAdapter):
    """The hypernetwork; while it is trained, also the numbers of the training's own subjects.

    Differs from HyperDreamBooth in that any frozen image encoder's patches stand for a vision transformer that is
    trained with the decoder, and any class word for a face; in that another picture of the subject is shown than the
    one that is drawn; and in that the training's subjects are fitted all at once, in batches of several. Patches of
    several pictures are side by side.

    Args:
        config: of the adapter.
        spaces: of every layer, by its component and canonical path.
        places: where those stand in their component.
        picture: width of patches.
        context: of text states.
        word: the rare word.
    """

    start: Tensor
    sees: Sees = "patches"
    asks_noun = True
    enters = True

    def __init__(
        self,
        config: HyperDreamBoothConfig,
        spaces: Mapping[str, LiDBSpace],
        places: Mapping[str, tuple[str, str]],
        picture: int,
        context: int,
        word: str,
    ) -> None:
        super().__init__()
        self.config, self.width, self.context, self.word = config, picture, context, word
        self.places = dict(places)
        for index, space in enumerate(spaces.values()):  # in no file: they are drawn again from their seed
            self.register_buffer(f"wide_{index}", space.wide, persistent=False)
            self.register_buffer(f"flat_{index}", space.flat, persistent=False)
        begin = torch.stack([self._packed(space.start) for space in spaces.values()])
        self.register_buffer("start", begin, persistent=False)
        numbers = (config.up + config.down) * config.rank
        self.decoder = WeightDecoder(
            len(spaces), numbers, picture, width=config.width, depth=config.depth, heads=config.heads
        )
        self._experts: tuple[nn.Parameter, ...] = ()
        self._said: Tensor | None = None
        self._subjects: Tensor | None = None

    @classmethod
    def untrained(
        cls, config: HyperDreamBoothConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "HyperDreamBooth":
        """The base's outputs do not change yet."""
        settings = config.lidb(tuple(backbone.components()))
        spaces, places = {}, {}
        for component, layers in lidb_layers(settings, backbone).items():
            for path, (place, layer) in layers.items():
                name = f"{component}.{path}"
                spaces[name], places[name] = LiDBSpace.of(settings, name, *layer.weight.shape), (component, place)
        word = config.identifier or pick_rare_tokens(backbone.tokenizers[0], count=1)[0].word
        return cls(config, spaces, places, reading.width, context_width(backbone), word)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("hyperdreambooth", self.context, backbone)

    @property
    def stages(self) -> tuple[TrainingStage, ...]:
        """See `AbstractReferenceAdapter.stages`: first the training's own subjects, then the hypernetwork."""
        share = self.config.experts
        hypernetwork = TrainingStage(name="hypernetwork", share=1 - share, trains=("reference",))
        if share == 0 or self.config.weights_weight == 0:
            return (TrainingStage(name="hypernetwork", share=1.0, trains=("reference",)),)
        return (TrainingStage(name="experts", share=share, trains=("experts",)), hypernetwork)

    def expect(self, subjects: int) -> None:
        """See `AbstractReferenceAdapter.expect`: each has numbers of its own, which no file holds."""
        if len(self.stages) > 1:
            self._experts = (nn.Parameter(self.start.float().repeat(subjects, 1, 1)),)

    def groups(self) -> dict[str, tuple[nn.Parameter, ...]]:
        """See `AbstractReferenceAdapter.groups`; `experts`: the numbers of the training's own subjects."""
        return {**super().groups(), "experts": self._experts}

    def weights(self, shown: Shown) -> Tensor:
        """The numbers of every layer that the pictures of each row tell, `b L S`, differentiable."""
        patches = shown.to(self.decoder.places).sight.features.flatten(1, 2)
        return self.decoder(patches, self.start, self.config.iterations)

    def inner(self, numbers: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """A_train `... a r` and B_train `... r b` of every layer, by component and canonical path, of `... L S`."""
        found, rank, up = {}, self.config.rank, self.config.up
        for index, (name, own) in enumerate(zip(self.places, numbers.unbind(-2), strict=True)):
            rows, columns = self.basis(index)[0].shape[1], len(self.basis(index)[1])
            wide, flat = own.split([up * rank, own.shape[-1] - up * rank], dim=-1)
            found[name] = (
                wide[..., : rows * rank].unflatten(-1, (rows, rank)),
                flat[..., : rank * columns].unflatten(-1, (rank, columns)),
            )
        return found

    def basis(self, index: int) -> tuple[Tensor, Tensor]:
        """A_aux and B_aux of a layer."""
        return self.get_buffer(f"wide_{index}"), self.get_buffer(f"flat_{index}")

    def _packed(self, down: Tensor) -> Tensor:
        """Numbers of a layer whose A_train is 0, `S`; zeros fill what a narrower layer leaves."""
        packed = torch.zeros((self.config.up + self.config.down) * self.config.rank)
        first = self.config.up * self.config.rank
        packed[first : first + down.numel()] = down.flatten()
        return packed

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. "a dog" becomes "a V dog" in rows whose prompt names the noun.

        What it returns also holds the rows' numbers, for the layers of the denoiser, inside `inserted`.
        """
        self._said, named = None, asked.named
        if not any(named):
            return asked.encoded()
        subjects = asked.shown.subjects
        if self.training and self._stage == "experts" and subjects is not None:
            numbers = self._experts[0][subjects.to(self._experts[0].device)]
        else:
            numbers = self.weights(asked.shown)
        there = torch.tensor(named, device=numbers.device)
        self._said, self._subjects = numbers[there], None if subjects is None else subjects.to(there.device)[there]
        strength = asked.scale * there
        texts = asked.with_words(lambda text, noun: renamed(text, noun, f"{self.word} {noun}"))
        with contextlib.ExitStack() as stack:
            for component, encoder in asked.backbone.components().items():
                if component != "denoiser":
                    stack.enter_context(row_updates(encoder, self._updates(component, numbers, strength)))
            told = asked.encoded(texts)
        return beside(told, _NAME, numbers.flatten(1).unsqueeze(1), strength)

    def _updates(self, component: str, numbers: Tensor, strength: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """By path in a component, the updates of every row."""
        updates, counted = {}, strength.to(numbers)[:, None, None]
        for index, (name, (up, down)) in enumerate(self.inner(numbers).items()):
            owner, place = self.places[name]
            if owner == component:
                wide, flat = self.basis(index)
                updates[place] = wide.to(up) @ (counted * up), down @ flat.to(down)
        return updates

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: rows that hold numbers are denoised by their own weights."""

        def within(read: Read) -> contextlib.AbstractContextManager[None]:
            numbers = read.vectors[:, 0].unflatten(-1, self.start.shape)
            return row_updates(backbone.denoiser, self._updates("denoiser", numbers, read.strength))

        with super().inserted(backbone, scale), reading(backbone, _NAME, within):
            yield

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `weights`, the squared distance to the numbers that were fitted to
        the subjects themselves, a mean over prompts."""

        def terms() -> dict[str, Tensor]:
            if self._stage == "experts" or not self._experts or self._said is None or self._subjects is None:
                return {}
            away = (self._said - self._experts[0][self._subjects].detach()).square().flatten(1).sum(1)
            return {"weights": self.config.weights_weight * away.mean()}

        yield terms
