"""Versatile Diffusion (Xu et al. 2022, arXiv 2211.08332): one network for several flows, of which layers are swapped.

A denoiser has *global* layers (of time), *data* layers (of what is drawn: residual blocks, resampling, first and last
convolution) and *context* layers (of what it is told: the transformers). Flows that draw pictures share the first two;
for words they pass the text's transformers, for a picture another set of them, which reads the image encoder. In use
both sets may be passed at once, and what they make is mixed in every layer (*dual context*).
"""

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import FullAdapter, FullConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import (
    AbstractReferenceAdapter,
    Reading,
    TrainingStage,
    check_context,
    context_width,
)
from pcs_ext.image.reference.inside import Read, beside, reading
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning

_NAME = "versatile_context"


@config
class VersatileDiffusionConfig:
    """Flows of words and of pictures."""

    kind: Literal["versatile-diffusion"] = "versatile-diffusion"
    """Tag in JSON."""
    variation_share: float = 0.5
    """Of the steps, the first ones, in which pictures alone are told (the paper's single-flow part); in the rest words
    in half of the pairs (its dual-flow part). Ours: the paper counts samples of data sets of its own."""

    def __post_init__(self) -> None:
        if not 0 < self.variation_share < 1:
            raise ConfigError(f"variation_share must be between 0 and 1, got {self.variation_share}.")


class ImageContext(nn.Module):
    """Vectors of a picture's places, its class token's first -> a context as wide as text states.

    Divided by the length of what the class token becomes, as in the released code, and times the square root of the
    width, the length of a text state after its norm.

    Args:
        width: of the vectors.
        context: of text states.
    """

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.norm, self.project = nn.LayerNorm(width), nn.Linear(width, context, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """`... k width` -> `... k context`."""
        told = self.project(self.norm(vectors))
        return told * (math.sqrt(told.shape[-1]) / told[..., :1, :].norm(dim=-1, keepdim=True))


class VersatileDiffusion(AbstractReferenceAdapter):
    """A second set of context layers, and the denoiser's own layers of all three kinds.

    The strength is the share of the picture's context in the mixture: 1 is image variation, in which no word is read,
    between 0 and 1 both are, and at 0 the base draws, without this network. Several pictures are passed each by itself
    and count alike (its *multi-context*).

    Differs from Versatile Diffusion in that the flows that write words (image to text and text variation), which need a
    text autoencoder, are not here; in that words are read as the base's own text encoder tells them; in that a linear
    map brings the encoder's vectors to the text's width; in that contexts of several kinds are mixed in every layer
    alone, not by drawing a layer's kind; and in that another picture is shown than the one that is drawn.

    Args:
        layers: the denoiser's transformers, by their paths, which are copied.
        width: of the image encoder's vectors.
        places: of every picture.
        context: of text states.
        share: of the steps for variation alone.
    """

    sees: Sees = "layers"
    depths = (1.0,)
    enters = True

    def __init__(self, layers: dict[str, nn.Module], width: int, places: int, context: int, share: float) -> None:
        super().__init__()
        self.width, self.places, self.context, self.share = width, places, context, share
        self.told = ImageContext(width, context)
        self.names = {path: path.replace(".", "_") for path in layers}
        self.layers = nn.ModuleDict({self.names[path]: copied(layer) for path, layer in layers.items()})
        context_layers = "|".join(path.replace(".", r"\.") for path in layers)
        self.inside = (
            FullAdapter("reference_data", FullConfig(include=(rf"^(?!({context_layers})\.)",))),
            FullAdapter("reference_text", FullConfig(include=(rf"^({context_layers})\.",))),
        )

    @classmethod
    def untrained(
        cls, config: VersatileDiffusionConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "VersatileDiffusion":
        """Both sets of context layers are the base's."""
        layers = {path: backbone.denoiser.get_submodule(path) for path in transformer_paths(backbone)}
        return cls(layers, reading.width, reading.places, context_width(backbone), config.variation_share)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("versatile-diffusion", self.context, backbone)

    @property
    def stages(self) -> tuple[TrainingStage, ...]:
        """See `AbstractReferenceAdapter.stages`: one flow, then two."""
        return (
            TrainingStage(name="variation", share=self.share, trains=("reference", "base")),
            TrainingStage(name="dual", share=1 - self.share, trains=("reference", "base")),
        )

    def groups(self) -> dict[str, tuple[nn.Parameter, ...]]:
        """See `AbstractReferenceAdapter.groups`; while no words are told, the text's layers are apart and rest."""
        data, text = (
            tuple(p for group in adapter.parameters().values() for p in group) for adapter in self.inside
        )  # fmt: skip
        own = tuple(self.parameters())
        if self._stage == "variation":
            return {"reference": own, "base": data, "text": text}
        return {"reference": own, "base": (*data, *text)}

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Rows with neither a picture nor a word, which guidance goes away
        from, are told no picture as those of the same batch are told one; rows with words alone, those."""
        told, seen = asked.encoded(), asked.seen
        silent = torch.tensor([not prompt.strip() for prompt in asked.prompts], device=seen.device)
        share = (seen | silent).float() * (1.0 if self.training else min(asked.scale, 1.0))
        if self.training and self._stage == "dual":
            share = share * (torch.arange(len(share), device=share.device) % 2)
        if not bool(share.any()):
            return told
        vectors = asked.shown.to(self.told.project.weight).sight.features[:, :, 0]
        return beside(told, _NAME, self.told(vectors).flatten(1, 2), share)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: the network is there as it was trained at every strength but 0."""
        whole = 0.0 if scale == 0 else 1.0
        with super().inserted(backbone, whole), reading(backbone, _NAME, lambda read: self._mixing(backbone, read)):
            yield

    @contextlib.contextmanager
    def _mixing(self, backbone: AbstractBackbone, read: Read) -> Iterator[None]:
        handles = []
        try:
            for path, name in self.names.items():
                hook = self._mixed(self.layers[name], read)
                module = backbone.denoiser.get_submodule(path)
                # Before all else that stands behind the layer: motion modules of clips read the mixture.
                handles.append(module.register_forward_hook(hook, prepend=True, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _mixed(self, layer: nn.Module, read: Read) -> Any:
        count = read.vectors.shape[1] // self.places

        def hook(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
            # All is computed in here: what is computed on entering would be computed again by activation checkpointing.
            text = output[0] if isinstance(output, tuple) else output.sample
            rows = read.seen.to(text.device)
            context = read.vectors[rows].unflatten(1, (count, self.places)).flatten(0, 1)
            share = read.strength[rows][:, None, None, None]
            entered = given[0] if given else named["hidden_states"]
            asked = entered[rows].repeat_interleave(count, 0).to(context)
            made = layer(asked, encoder_hidden_states=context, return_dict=False)[0]
            picture = made.unflatten(0, (-1, count)).mean(1).to(text)
            mixed = text.index_copy(0, rows, torch.lerp(text[rows], picture, share.to(text)))
            return (mixed, *output[1:]) if isinstance(output, tuple) else type(output)(sample=mixed)

        return hook


def transformer_paths(backbone: AbstractBackbone) -> list[str]:
    """Paths of the denoiser's transformers with text cross-attention, in forward order."""
    return list(dict.fromkeys(path.split(".transformer_blocks.")[0] for path in backbone.cross_attention_paths()))


def copied(layer: nn.Module) -> nn.Module:
    """A transformer of its own, in float32."""
    return copy.deepcopy(layer).float().requires_grad_(True)
