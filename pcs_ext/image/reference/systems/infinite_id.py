"""Infinite-ID (Wu et al. 2024, arXiv 2403.11781): identity learned without words, and both brought together in use.

In training the attention to the text is off: what pictures tell, by an attention of its own, must do alone. In use a
picture is drawn in two streams side by side, one by the prompt and one by the identity. In every self-attention the
identity's cells also look at the prompt's (mixed attention), and their own keys are first moved to the mean of the
prompt's (AdaIN-mean), so that they do not outweigh them in another style.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.attention import self_attention_paths
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.joint import in_heads, joint_attention, side_by_side
from pcs_ext.image.backbones.unet import recomputing_inside
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import (
    AbstractReferenceAdapter,
    Reading,
    attention_widths,
    check_context,
    context_width,
)
from pcs_ext.image.reference.inside import Read, answering, beside, read_of
from pcs_ext.image.reference.instead import attending_instead
from pcs_ext.image.reference.projection import LinearProjection
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning

_NAME = "reference_infinite_id"


@config
class InfiniteIDConfig:
    """Tokens of an identity, and an attention for them."""

    kind: Literal["infinite-id"] = "infinite-id"
    """Tag in JSON."""
    tokens: int = 4
    """Made of the embedding, beside one of every patch; ours."""
    align: bool = True
    """AdaIN-mean: in use the identity's keys are moved to the mean of the prompt's."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ConfigError(f"tokens must be at least 1, got {self.tokens}.")


class InfiniteID(AbstractReferenceAdapter):
    """The maps to tokens, and their keys and values in every text cross-attention.

    Differs from Infinite-ID in that one frozen image encoder's class token and patches stand for a face recogniser's
    vector and CLIP's patches. That the identity's stream is the one that asks and whose picture is the result, and that
    keys are moved and values are not, is how the paper is read here, whose equations were not to be had. At lower
    strengths the two streams' predictions are mixed.

    Args:
        config: of the adapter.
        width: of the image encoder's vectors.
        channels: of every text cross-attention, by its path.
        context: width of text states.
    """

    sees: Sees = "layers"
    depths = (1.0,)
    enters = True

    def __init__(self, config: InfiniteIDConfig, width: int, channels: dict[str, int], context: int) -> None:
        super().__init__()
        self.config, self.width, self.context = config, width, context
        self.embedding = LinearProjection(width, context, config.tokens)
        self.patches = nn.Sequential(nn.Linear(width, context), nn.LayerNorm(context))
        self.names = {path: path.replace(".", "_") for path in channels}
        sides = {self.names[path]: own for path, own in channels.items()}
        self.keys = nn.ModuleDict({name: nn.Linear(context, own, bias=False) for name, own in sides.items()})
        self.values = nn.ModuleDict({name: nn.Linear(context, own, bias=False) for name, own in sides.items()})

    @classmethod
    def untrained(
        cls, config: InfiniteIDConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "InfiniteID":
        """Keys and values begin as the text's."""
        made = cls(config, reading.width, attention_widths(backbone), context_width(backbone))
        with torch.no_grad():
            for path, name in made.names.items():
                attention = backbone.denoiser.get_submodule(path)
                made.keys[name].weight.copy_(attention.to_k.weight)  # type: ignore[union-attr, operator]
                made.values[name].weight.copy_(attention.to_v.weight)  # type: ignore[union-attr, operator]
        return made

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("infinite-id", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Tokens of several pictures are attended to together."""
        if not any(asked.shown.rows):
            return asked.encoded()
        features = asked.shown.to(next(self.parameters())).sight.features[:, :, 0]
        classes = self.embedding(features[:, :, 0].flatten(0, 1)).unflatten(0, features.shape[:2])
        tokens = torch.cat([classes, self.patches(features[:, :, 1:])], dim=2).flatten(1, 2)
        seen = torch.tensor(asked.shown.rows, device=tokens.device)
        return beside(asked.encoded(), _NAME, tokens, asked.scale * seen)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: in use rows with pictures are drawn in two streams."""
        with super().inserted(backbone, scale), answering(backbone, _NAME, self._answered(backbone)):
            yield

    def _answered(self, backbone: AbstractBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            read = read_of(conditioning, _NAME)
            if read is None or not len(read.seen):
                return predict(noisy, timesteps, conditioning)
            rows, count = read.seen, len(noisy)
            if self.training:
                # The identity alone, in the target's own place.
                within = lambda: self._wordless(backbone, read, rows)  # noqa: E731
                with recomputing_inside(backbone.denoiser, within), within():
                    return predict(noisy, timesteps, conditioning)
            at = rows.to(noisy.device)
            both = Conditioning.cat([conditioning, conditioning[rows]])
            again = torch.arange(count, count + len(rows), device=rows.device)
            own = Read(vectors=read.vectors[rows], strength=read.strength[rows])
            with self._wordless(backbone, own, again), self._mixed(backbone, again, rows):
                times = timesteps.expand(count)
                drawn = predict(torch.cat([noisy, noisy[at]]), torch.cat([times, times[at]]), both)
            words, identity = drawn[:count], drawn[count:]
            strength = own.strength.to(drawn)[:, None, None, None]
            return words.index_copy(0, at, torch.lerp(words[at], identity, strength))

        return answered

    @contextlib.contextmanager
    def _wordless(self, backbone: AbstractBackbone, read: Read, rows: Tensor) -> Iterator[None]:
        """Inside, those rows of a batch attend to the identity in the text's place.

        Args:
            backbone: denoises.
            read: tokens of all rows in training, else of `rows`.
            rows: numbers in the batch that is denoised.
        """
        tokens = read.vectors[rows] if self.training else read.vectors
        pairs = {path: (self.keys[name](tokens), self.values[name](tokens)) for path, name in self.names.items()}
        with attending_instead(backbone.denoiser, pairs, rows):
            yield

    @contextlib.contextmanager
    def _mixed(self, backbone: AbstractBackbone, asking: Tensor, asked: Tensor) -> Iterator[None]:
        """Inside, rows `asking` of a batch look at the cells of rows `asked`, too, in every self-attention."""
        handles = []
        try:
            for path in self_attention_paths(backbone):
                attention = backbone.denoiser.get_submodule(path)
                mixed = _Mixed(attention, asking, asked, align=self.config.align)
                for name, hook in (("to_q", mixed.keep), ("to_k", mixed.keep_keys), ("to_v", mixed.keep)):
                    handles.append(attention.get_submodule(name).register_forward_hook(hook))
                handles.append(attention.get_submodule("to_out.0").register_forward_pre_hook(mixed.join))
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Mixed:
    """A self-attention in which some rows of a batch look at the cells of others, in one softmax with their own."""

    def __init__(self, attention: Any, asking: Tensor, asked: Tensor, *, align: bool) -> None:
        self.heads, self.scale, self.align = attention.heads, attention.scale, align
        self.asking, self.asked = asking, asked
        self._parts: list[Tensor] = []

    def keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """After `to_q` and `to_v`."""
        self._parts.append(output)

    def keep_keys(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """After `to_k`: keys of those that ask are moved."""
        if self.align:
            asking, asked = self.asking.to(output.device), self.asked.to(output.device)
            output = output.index_copy(0, asking, adain_mean(output[asking], output[asked]))
        self._parts.append(output)
        return output

    def join(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Before `to_out`."""
        query, key, value = self._parts
        self._parts = []
        asking, asked = self.asking.to(query.device), self.asked.to(query.device)
        mixed, query, key, told, found = (
            in_heads(x, self.heads) for x in (inputs[0][asking], query[asking], key[asking], key[asked], value[asked])
        )
        whole = torch.ones(len(asking), device=query.device)
        joined = joint_attention(mixed, (query, key), (query, told, found), whole, self.scale)
        return (inputs[0].index_copy(0, asking, side_by_side(joined).to(inputs[0].dtype)), *inputs[1:])


def adain_mean(content: Tensor, style: Tensor) -> Tensor:
    """x - mean(x) + mean(y) over cells, channel by channel: `b n d` each (the paper's AdaIN-mean)."""
    return content - content.mean(1, keepdim=True) + style.mean(1, keepdim=True)
