"""VideoBooth (Jiang et al. 2023, arXiv 2312.00777): a photo as words, and its own features in the first frame.

Coarse: words made of several layers of the image encoder stand in place of the class word, and the keys and values of
the text attention learn to read them. Fine: the photo, as noisy as the clip is, goes through the denoiser by itself;
in every self-attention the first frame looks at its features, too, and what it found there takes the place of its
values, at which all frames look. The fine part would leave the coarse one nothing to learn, so it comes second.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import CrossAttentionAdapter, CrossAttentionConfig
from pcs_ext.image.attention import self_attention_paths
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import recomputing_inside
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import Reading, Terms, check_context, context_width, token_widths
from pcs_ext.image.reference.inside import answering
from pcs_ext.image.reference.nouns import renamed
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.reference.words import SeenWords, noun_rows
from pcs_ext.image.types import Conditioning
from pcs_ext.video.backbones.inflated import CrossFrame, InflatedBackbone, keys_of_clips
from pcs_ext.video.reference.base import AbstractClipReference, ClipStage, attended, clip_model
from pcs_ext.video.reference.photo_rows import PhotoRows

_NAME = "videobooth"


@config
class VideoBoothConfig:
    """Words of a photo, and its features in the first frame."""

    kind: Literal["videobooth"] = "videobooth"
    """Tag in JSON."""
    hidden: int = 1024
    """Width inside the networks that make words; the released code's."""
    word_weight: float = 0.01
    """Of the mean absolute value of the words in the loss; the released settings'."""
    text_weight: float = 0.01
    """Of the mean absolute change of the text states by the words; the released settings'."""
    coarse_share: float = 0.5
    """Of the steps for the first stage; how many each had is not said there."""

    def __post_init__(self) -> None:
        if self.hidden < 1 or not 0 < self.coarse_share < 1 or min(self.word_weight, self.text_weight) < 0:
            raise ConfigError(
                "hidden must be at least 1, coarse_share in (0, 1) and the weights not negative, got "
                f"{self.hidden}, {self.coarse_share}, {self.word_weight} and {self.text_weight}."
            )


class VideoBooth(AbstractClipReference):
    """Networks that make words, the change of the text attention's keys and values, and that of self-attentions'.

    Differs from VideoBooth: on an AnimateDiff base, whose frames do not look at each other, every frame looks at the
    first and itself, where the photo counts; on an inflated one at the first and the one before, as there. The photo
    is a picture, which passes by the temporal layers, instead of a clip of sixteen equal frames; it is another one of
    the subject than the clip's first frame. In use its noise is the same at all timesteps. Trained keys and values are
    differences of the base's, which is the same but for weights that a subject adds to those.

    Args:
        config: of the adapter.
        reading: of the image encoder.
        context: width of text states.
        tokens: widths of token rows.
        widths: of every self-attention, from and to how many channels its keys map, by its path.
    """

    sees: Sees = "layers"
    depths = (1.0, 1 / 6, 1 / 3, 1 / 2, 2 / 3)
    """The last layer and 4, 8, 12 and 16 of 24 in the released code."""
    cuts = True
    asks_noun = True

    def __init__(
        self,
        config: VideoBoothConfig,
        reading: Reading,
        context: int,
        tokens: Sequence[int],
        widths: Mapping[str, tuple[int, int]],
    ) -> None:
        super().__init__()
        self.config, self.width, self.context, self.tokens = config, reading.width, context, list(tokens)
        count, made = reading.layers, sum(tokens)
        self.of_class = nn.ModuleList(_mapper(reading.width, config.hidden, made) for _ in range(count))
        self.of_patches = nn.ModuleList(_mapper(reading.width, config.hidden, made) for _ in range(count))
        self.names = {path: path.replace(".", "_") for path in widths}
        self.passing = nn.ModuleDict({self.names[path]: PassingOn(*own) for path, own in widths.items()})
        self.seen_words = SeenWords(count)
        self.kept = CrossAttentionAdapter("reference_words_read", CrossAttentionConfig())
        self.inside = (self.seen_words, self.kept)
        self.fine = True
        """Whether the first frame looks at the photo: in the second stage and in use."""
        self._change: dict[str, Tensor] = {}

    @classmethod
    def untrained(
        cls, config: VideoBoothConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "VideoBooth":
        """Its keys and values are the base's."""
        clip_model(backbone)
        maps = {
            path: backbone.denoiser.get_submodule(path).to_k.weight.shape for path in self_attention_paths(backbone)
        }
        widths = {path: (shape[1], shape[0]) for path, shape in maps.items()}
        return cls(config, reading, context_width(backbone), token_widths(backbone), widths)

    @property
    def stages(self) -> tuple[ClipStage, ...]:
        """The words, then all; the released code goes on training the words."""
        share = self.config.coarse_share
        return (
            ClipStage(name="coarse", share=share, trains=("words", "base")),
            ClipStage(name="fine", share=1 - share, trains=("words", "base", "fine")),
        )

    def begin_stage(self, name: str) -> None:
        """See `AbstractReferenceAdapter.begin_stage`."""
        super().begin_stage(name)
        self.fine = name == "fine"

    def groups(self) -> dict[str, tuple[nn.Parameter, ...]]:
        """`words`, `fine`, `base`."""
        return {
            "words": (*self.of_class.parameters(), *self.of_patches.parameters()),
            "fine": tuple(self.passing.parameters()),
            "base": self.kept.parameters()["denoiser"],
        }

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("videobooth", self.context, backbone)

    def words(self, features: Tensor) -> Tensor:
        """`b l k width` -> a word of each layer, `b l tokens`, of all text encoders side by side."""
        made = [
            of_class(features[:, index, 0]) + of_patches(features[:, index, 1:]).mean(1)
            for index, (of_class, of_patches) in enumerate(zip(self.of_class, self.of_patches, strict=True))
        ]
        return torch.stack(made, dim=1)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Words of several photos are averaged; the first one is passed."""
        if not any(asked.named):
            self._change = {}
            return asked.encoded()
        features = asked.shown.to(next(self.parameters())).sight.object
        words = self.words(features.flatten(0, 1)).unflatten(0, features.shape[:2]).mean(1).float()
        stand_in = " ".join(self.seen_words.word(number) for number in range(1, 1 + words.shape[1]))
        texts = asked.with_words(lambda text, noun: renamed(text, noun, stand_in))
        with self.seen_words.meaning(self._at_strength(asked, words)):
            told = asked.encoded(texts)
        if self.training:
            self._change = {"words": words.abs().mean(), "text": (told.states - asked.encoded().states).abs().mean()}
        counted = asked.scale * torch.tensor(asked.named, dtype=torch.float32)
        return PhotoRows.of(asked.shown, counted).beside(told, _NAME) if self.fine else told

    def _at_strength(self, asked: Asked, words: Tensor) -> list[Tensor]:
        """The words of each text encoder, `b l d`; at lower strengths nearer to the noun's own."""
        split = list(words.split(self.tokens, dim=-1))
        if asked.scale == 1:
            return split
        nouns = [noun_rows(asked.backbone, noun) for noun in asked.nouns]
        return [
            torch.lerp(torch.stack([rows[index] for rows in nouns])[:, None].expand_as(part), part, asked.scale)
            for index, part in enumerate(split)
        ]

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: first frames look at photos in rows that have one."""
        with super().inserted(backbone, scale), answering(backbone, _NAME, self._answered(backbone)):
            yield
        self._change = {}

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `words` and `text`, 0 where no prompt has its photo."""
        weights = {"words": self.config.word_weight, "text": self.config.text_weight}
        nothing = next(self.parameters()).new_zeros(())
        yield lambda: {name: weight * self._change.get(name, nothing) for name, weight in weights.items()}

    def _answered(self, backbone: AbstractBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            rows = PhotoRows.read(conditioning, _NAME, noisy)
            if rows is None:
                return predict(noisy, timesteps, conditioning)
            frames = noisy.shape[2] if noisy.dim() == 5 else 1
            seen = self._photo_states(backbone, predict, rows, timesteps.expand(len(noisy)))
            inside = lambda: self._passing_on(backbone, seen, rows.counted, frames)  # noqa: E731
            with recomputing_inside(backbone.denoiser, inside), inside():
                return predict(noisy, timesteps, conditioning)

        return answered

    def _photo_states(
        self, backbone: AbstractBackbone, predict: Predict, rows: PhotoRows, timesteps: Tensor
    ) -> dict[str, Tensor]:
        """What enters every self-attention, `b n d`, while the noised photos are denoised for an empty prompt."""
        seen: dict[str, Tensor] = {}

        def keeping(path: str) -> Any:
            def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                seen[path] = inputs[0]

            return keep

        denoiser = backbone.denoiser
        handles = [denoiser.get_submodule(path).register_forward_pre_hook(keeping(path)) for path in self.names]
        try:
            noised = backbone.schedule.add_noise(rows.photo, rows.noise, timesteps)
            predict(noised, timesteps, backbone.encode_prompt([""] * len(noised)))
        finally:
            for handle in handles:
                handle.remove()
        return seen

    @contextlib.contextmanager
    def _passing_on(
        self, backbone: AbstractBackbone, seen: Mapping[str, Tensor], counted: Tensor, frames: int
    ) -> Iterator[None]:
        looks = backbone.attention if isinstance(backbone, InflatedBackbone) else None
        handles = []
        try:
            for path, name in self.names.items():
                network = cast(PassingOn, self.passing[name])
                first = _FirstFrame(network, seen[path], counted, frames, looks)
                handles.append(backbone.denoiser.get_submodule(path).register_forward_hook(first.replace))
            yield
        finally:
            for handle in handles:
                handle.remove()


class PassingOn(nn.Module):
    """Differences of the keys' and values' maps of a self-attention, for a photo and for frames; nothing at first.

    Args:
        entering: width of the states.
        channels: of keys and values.
    """

    def __init__(self, entering: int, channels: int) -> None:
        super().__init__()
        self.photo_keys, self.photo_values, self.frame_keys, self.frame_values = (
            nn.Linear(entering, channels, bias=False) for _ in range(4)
        )
        for layer in (self.photo_keys, self.photo_values, self.frame_keys, self.frame_values):
            nn.init.zeros_(layer.weight)

    def forward(self, attention: Any, frames: Tensor, photo: Tensor, looks: CrossFrame | None) -> Tensor:
        """What the frames find (section 3.3): `b f n d` and `b n d` -> `b f n d`.

        Args:
            attention: of the denoiser.
            frames: of each clip, normalised as the attention takes them.
            photo: likewise.
            looks: at which frames a frame looks, see `keys_of_clips`; None: at the first and itself.
        """
        query = attention.to_q(frames)
        keys = attention.to_k(frames) + self.frame_keys(frames)
        values = attention.to_v(frames) + self.frame_values(frames)
        photo_keys = attention.to_k(photo) + self.photo_keys(photo)
        photo_values = attention.to_v(photo) + self.photo_values(photo)
        first = attended(
            attention,
            query[:, 0],
            torch.cat([photo_keys, keys[:, 0]], dim=1),
            torch.cat([photo_values, values[:, 0]], dim=1),
        )
        values = torch.cat([first[:, None].to(values.dtype), values[:, 1:]], dim=1)
        keys, values = _seen_by_frames(keys, looks), _seen_by_frames(values, looks)
        mixed = attended(attention, *(x.flatten(0, 1) for x in (query, keys, values)))
        return attention.to_out[1](attention.to_out[0](mixed)).unflatten(0, frames.shape[:2])


class _FirstFrame:
    """One self-attention in which first frames look at photos and pass on what they find."""

    def __init__(
        self, network: PassingOn, photo: Tensor, counted: Tensor, frames: int, looks: CrossFrame | None
    ) -> None:
        self.network, self.photo, self.frames, self.looks = network, photo, frames, looks
        self.counted = counted[:, None, None, None]

    def replace(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """After the attention: rows without a photo keep its output to the bit."""
        found = self.network(module, inputs[0].unflatten(0, (-1, self.frames)), self.photo, self.looks)
        own = output.unflatten(0, (-1, self.frames))
        return (own + self.counted.to(own) * (found.to(own) - own)).flatten(0, 1)


def _seen_by_frames(states: Tensor, looks: CrossFrame | None) -> Tensor:
    """`b f n d` -> `b f m d`."""
    if looks is not None:
        return keys_of_clips(states, looks)
    return torch.cat([states[:, :1].expand_as(states), states], dim=2)


def _mapper(entering: int, hidden: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(entering, hidden), nn.LayerNorm(hidden), nn.LeakyReLU(),
        nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.LeakyReLU(),
        nn.Linear(hidden, width),
    )  # fmt: skip
