"""What every trained way to show a base a picture promises, wherever the picture enters."""

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn

from pcs_ext.errors import ArtifactError
from pcs_ext.image.adapters.base import AbstractAdapter, injected
from pcs_ext.image.adapters.layers import to_storage
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.prompt_programs import Encode
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.identity import IdentityLoss
from pcs_ext.image.reference.maps import MapKinds
from pcs_ext.image.reference.shown import Sees, Shown
from pcs_ext.image.types import Conditioning

if TYPE_CHECKING:
    from pcs_ext.image.reference.pairs import Pairs
    from pcs_ext.image.sample import Sampling

Terms = Callable[[], Mapping[str, Tensor]]
"""What is added to the denoising error of a batch, by name, asked after the base has predicted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """What an adapter reads of an image encoder, and what it was made for."""

    sees: Sees
    width: int
    """Of the encoder's vectors."""
    layers: int = 1
    """How many of the encoder's layers are seen."""
    places: int = 1
    """How many vectors every layer has, where layers are seen."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingStage:
    """A part of the training, in which some of the weights learn."""

    name: str
    share: float
    """Of the steps."""
    trains: tuple[str, ...]
    """Groups of `AbstractReferenceAdapter.groups` that learn."""


class AbstractReferenceAdapter(nn.Module, abc.ABC):
    """A network between a frozen image encoder and a base, trained once on pictures of many subjects for all others.

    It turns prompts and pictures into conditioning. Where the pictures enter is its own affair: IP-Adapter and
    SSR-Encoder put keys and values beside the text's, ELITE makes words of pictures, PhotoMaker and FastComposer mix
    them into the states of the subject's word, InstantBooth puts layers into the denoiser. All of them train by
    `ReferenceLoss` and are shown pictures by `Reference`, inside `inserted`.
    """

    sees: Sees
    """What it reads of the image encoder."""
    width: int
    """Of the vectors it reads."""
    depths: tuple[float, ...] = ()
    """Where it sees several layers: which, as shares of the encoder's depth, in the order it reads them."""
    reads_marks: bool = False
    """Whether prompts may show pictures among words, "<1> on the beach" (`interleaved`); then it needs no noun."""
    asks_captions: bool = False
    """Whether it reads what is said of each picture."""
    asks_target: bool = False
    """Whether it asks, in training, how the image encoder sees the picture that is drawn."""
    asks_texts: bool = False
    """Whether it asks, in training, how the image encoder's own text tower reads captions, where it has one."""
    retrieves: int = 0
    """Of an adapter whose pictures show other things than the one that is drawn: how many of those whose captions are
    most like its own are shown in training; 0: pictures of the same subject are."""
    cuts: bool = False
    """Whether it also reads pictures with what is around the subject taken out."""
    asks_noun: bool = False
    """Whether it must know by which word a prompt names what a picture shows."""
    asks_masks: bool = False
    """Whether it cannot be trained without masks."""
    several: bool = False
    """Whether the pictures beside a prompt may show several subjects, each by a noun of its own."""
    targets: int = 1
    """In training, how many pictures of one subject are drawn beside the same others."""
    asks_boxes: bool = False
    """Whether it is told where in the picture that is drawn things shall stand, where somebody knows."""
    unplaced: float = 0.0
    """Of such an adapter, the share of training pairs of which nobody says so."""
    asks_scene: bool = False
    """Whether it puts what is shown into pictures."""
    asks_style: bool = False
    """Whether it is told in whose look to draw: in training the target's, without its subject; in use a style
    picture's, where somebody gives one."""
    drop_style: float = 0.0
    """Of such an adapter, the share of training pairs whose look is not told."""
    details: Literal["none", "edges", "whole"] = "none"
    """What it sees of the thing itself, as pixels: its edges, or all of it on white."""
    detail_side: int = 0
    """How many pixels wide, the base's own resolution."""
    asks_views: bool = False
    """Whether it is told from where photos look at what they show."""
    asks_latents: bool = False
    """Whether it also sees the base's latents of pictures, beside what an encoder sees."""
    scrambles: bool = False
    """Whether it reads pictures whose patches are out of order, so that no things are seen in them."""
    inside: tuple[AbstractAdapter, ...] = ()
    """Weights of its own in the base."""
    enters: bool = False
    """Whether it acts inside the denoiser without weights there, so that it must be inserted to act at all."""

    map_kinds: MapKinds = ()
    """Which condition maps of the picture that is drawn it reads."""
    one_map: bool = False
    """Whether it reads one of them at a time."""

    refines: bool = False
    """Whether it changes what is drawn before every step of a sampling."""
    mixes: bool = False
    """Whether it makes the predictions of a sampling, of several that it asks for."""
    _stage: str = ""
    """The part of the training that was begun last."""
    in_steps: str = ""
    """What it does in the steps of a sampling, if it does either, in words that follow its name: where steps are not
    its own to reach into, it is refused with them."""

    @property
    def identity(self) -> IdentityLoss | None:
        """How what is drawn must resemble what was shown, by the image encoder's own judgement; None: it need not."""
        return None

    @property
    def stages(self) -> tuple[TrainingStage, ...]:
        """The training's parts, in order."""
        return (TrainingStage(name="all", share=1.0, trains=("reference", "base")),)

    @property
    def tuning_stages(self) -> tuple[TrainingStage, ...]:
        """The parts of tuning it to one subject: most do what they did in training."""
        return self.stages

    @property
    def elsewhere(self) -> str:
        """A digest of weights that it reads and that are not stored with it; empty: there are none."""
        return ""

    def begin_stage(self, name: str) -> None:
        """Told before each part of the training, which is kept; most have one."""
        self._stage = name

    @classmethod
    def reads_maps(cls, config: Any) -> MapKinds:
        """What an adapter of these settings has as `map_kinds`."""
        return ()

    @classmethod
    def located(cls, config: Any) -> Any:
        """The same settings with all that they name on disk found from any folder."""
        return config

    def told_maps(self, maps: Tensor, generator: torch.Generator) -> Tensor:
        """What of a training batch's maps it is told, asked where it has `map_kinds`.

        Args:
            maps: `b c h w` in [0, 1].
            generator: the only source of randomness.
        """
        return maps

    def told_captions(self, captions: Sequence[str], shown: Shown, generator: torch.Generator) -> Sequence[str]:
        """What of a training batch's captions it is told.

        Args:
            captions: `b`, "" for those that are dropped.
            shown: the pictures of each.
            generator: the only source of randomness.
        """
        return captions

    @property
    def denoises(self) -> bool:
        """Whether the base denoises in this part of the training; else the adapter's own terms are all it learns by."""
        return True

    @property
    def answers(self) -> Mapping[str, str]:
        """What it answered to prompts, in words; most say nothing."""
        return {}

    def expect(self, subjects: int) -> None:
        """Told before the training of how many subjects there are pictures, as `Shown.subjects` counts them."""

    @abc.abstractmethod
    def check(self, backbone: AbstractBackbone) -> None:
        """See that it fits a base.

        Raises:
            ArtifactError: it was made for a base of another layout; the message names both.
        """

    @classmethod
    @abc.abstractmethod
    def untrained(cls, config: Any, backbone: AbstractBackbone, reading: Reading, seed: int) -> Self:
        """One that has learned nothing yet; its networks are drawn from torch's own generator.

        Args:
            config: settings of its kind.
            backbone: to be trained for.
            reading: what the image encoder gives.
            seed: of weights that are not drawn from torch's own generator.
        """

    def conditioned(
        self,
        backbone: AbstractBackbone,
        encode: Encode,
        prompts: Sequence[str],
        shown: Shown,
        *,
        scale: float = 1.0,
        size: tuple[int, int] | None = None,
    ) -> Conditioning:
        """Conditioning of prompts beside pictures. Differentiable with respect to the adapter's parameters.

        Args:
            backbone: whose layers the conditioning is for; the adapter is inserted into it.
            encode: `backbone.encode_prompt`, or it with programs around it.
            prompts: `b` texts; those without their picture's noun are encoded as the base encodes them, where nouns are
                asked for.
            shown: the pictures of each.
            scale: strength, 1 as trained; at 0 the conditioning is exactly the prompts'.
            size: height and width in pixels; None: the base's resolution.
        """
        asked = Asked(backbone=backbone, encode=encode, prompts=prompts, shown=shown, scale=scale, size=size)
        return asked.encoded() if scale == 0 else self._told(asked)

    @abc.abstractmethod
    def _told(self, asked: Asked) -> Conditioning:
        """`conditioned` at any strength but 0."""

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """Inside, the adapter's weights are in the base; at scale 0 they change nothing there."""
        for adapter in self.inside:
            adapter.set_scale(scale)
        with injected(backbone, *self.inside):
            yield

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: "Pairs") -> Iterator[Terms]:
        """Inside, the base predicts for a training batch; yields what is added to its loss afterwards."""
        yield dict

    def refined(
        self, backbone: AbstractBackbone, sampling: "Sampling", step: int, timestep: Tensor, latents: Tensor
    ) -> Tensor:
        """Latents before a step, asked where it `refines`.

        Args:
            backbone: the adapter is inserted into it.
            sampling: what is sampled.
            step: its number.
            timestep: 0-d.
            latents: `b c h w` in the scheduler's scale.
        """
        return latents

    def mixed(
        self,
        backbone: AbstractBackbone,
        sampling: "Sampling",
        predict: Predict,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
    ) -> Tensor:
        """The prediction in a step, asked where it `mixes`; under guidance that of both halves.

        Args:
            backbone: the adapter is inserted into it.
            sampling: what is sampled.
            predict: of the base, with the adapter in it.
            noisy_latents: `b c h w`, under guidance each twice.
            timesteps: `b`.
            conditioning: of as many.
        """
        return predict(noisy_latents, timesteps, conditioning)

    def groups(self) -> dict[str, tuple[nn.Parameter, ...]]:
        """What trains, asked inside `inserted`: `reference`, the networks, and `base`, weights in the base."""
        inside = [p for adapter in self.inside for group in adapter.parameters().values() for p in group]
        return {"reference": tuple(self.parameters()), "base": tuple(inside)}

    def stored(self) -> dict[str, Tensor]:
        """Its networks' tensors that files hold, live; of most kinds all."""
        return self.state_dict()

    def published(self) -> Mapping[str, Tensor]:
        """Copies of tensors under the names they have in files; weights in the base as `inside.<number>.<name>`."""
        own = {key: to_storage(tensor) for key, tensor in self.stored().items()}
        for index, adapter in enumerate(self.inside):
            own |= {f"inside.{index}.{key}": tensor for key, tensor in adapter.state_dict().items()}
        return own

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `published`.

        Raises:
            ArtifactError: tensors are missing, superfluous, or of other shapes; the first few are named.
        """
        own = {key: tensor for key, tensor in state.items() if not key.startswith("inside.")}
        wanted = self.stored()
        faults = [f"{key} is missing" for key in wanted.keys() - own.keys()]
        faults += [f"{key} is not expected" for key in own.keys() - wanted.keys()]
        faults += [
            f"{key} is {tuple(own[key].shape)}, expected {tuple(wanted[key].shape)}"
            for key in wanted.keys() & own.keys()
            if wanted[key].shape != own[key].shape
        ]
        if faults:
            raise ArtifactError(
                f"the file's tensors do not fit this base or image encoder: {'; '.join(sorted(faults)[:4])}. Pass the "
                "base and encoder that it was trained with, or train it again."
            )
        # What files do not hold stays as it is; all that they must hold was seen above.
        self.load_state_dict(own, strict=False)
        for index, adapter in enumerate(self.inside):
            prefix = f"inside.{index}."
            adapter.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

    @property
    def dtype(self) -> torch.dtype:
        """Of its parameters."""
        return next(self.parameters()).dtype


def check_context(name: str, context: int, backbone: AbstractBackbone) -> None:
    """See that a base's text states have the width that an adapter was made for.

    Raises:
        ArtifactError: they have another.
    """
    theirs = context_width(backbone)
    if theirs != context:
        raise ArtifactError(
            f"the {name} adapter was made for text states of width {context}; {backbone.name} has {theirs}. Pass an "
            "adapter of the base's family with --reference-adapter, or another --base."
        )


def context_width(backbone: AbstractBackbone) -> int:
    """Width of the text states that a base's cross-attentions read."""
    paths = backbone.cross_attention_paths()
    if not paths:
        raise ArtifactError(f"{backbone.name} has no text cross-attention, which reference adapters need.")
    return backbone.denoiser.get_submodule(paths[0]).to_k.weight.shape[1]


def token_widths(backbone: AbstractBackbone) -> list[int]:
    """Width of the token rows of every text encoder."""
    return [encoder.get_input_embeddings().weight.shape[1] for encoder in backbone.text_encoders]


def attention_widths(backbone: AbstractBackbone) -> dict[str, int]:
    """Channels of every text cross-attention's keys, by its path."""
    paths = backbone.cross_attention_paths()
    return {path: backbone.denoiser.get_submodule(path).to_k.weight.shape[0] for path in paths}


def block_widths(backbone: AbstractBackbone) -> dict[str, int]:
    """Channels of the cells in every block that has a text cross-attention, by its path."""
    return {path.removesuffix(".attn2"): width for path, width in query_widths(backbone).items()}


def query_widths(backbone: AbstractBackbone) -> dict[str, int]:
    """Channels of what every text cross-attention asks with, by its path."""
    paths = backbone.cross_attention_paths()
    return {path: backbone.denoiser.get_submodule(path).to_q.weight.shape[1] for path in paths}
