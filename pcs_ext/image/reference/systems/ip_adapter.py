"""IP-Adapter (Ye et al. 2023, arXiv 2308.06721): pictures as keys and values beside the text's.

Image encoder -> projection to a few tokens -> a second key and value map in every text cross-attention, whose output is
added to the text's times a scale. Nothing of the base is changed: text, its weights, and whatever else is injected into
it (a learned subject's LoRA, attention programs) act as they do.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ArtifactError, ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading
from pcs_ext.image.reference.projection import LinearProjection, Projection, projection_for
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning, Decoupled

_FAMILIES = {
    (768, 16): "Stable Diffusion 1.x",
    (1024, 16): "Stable Diffusion 2.x",
    (2048, 70): "SDXL",
    (192, 7): "toybox",
}
"""Width of text states and number of cross-attentions -> what has them."""


@config
class IPAdapterConfig:
    """Keys and values beside the text's."""

    kind: Literal["ip-adapter"] = "ip-adapter"
    """Tag in JSON."""
    tokens: int = 4
    """That stand for a picture; 4 in the paper."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ConfigError(f"tokens must be at least 1, got {self.tokens}.")


class IPAdapter(AbstractReferenceAdapter):
    """The projection and the maps; parameters are named as in published files.

    `image_proj.<tensor>` and `ip_adapter.<N>.to_k_ip.weight`, `ip_adapter.<N>.to_v_ip.weight`. N counts all attentions
    of the denoiser from 0 in the order in which its modules are registered (down, up, middle), self-attentions too, so
    that cross-attentions have the odd numbers.

    Args:
        projection: to tokens.
        widths: channels of every cross-attention, in that order.
    """

    sees: Sees = "embedding"

    def __init__(self, projection: Projection, widths: Sequence[int]) -> None:
        super().__init__()
        self.sees = "embedding" if isinstance(projection, LinearProjection) else "patches"
        self.width, self.widths = projection.width, tuple(widths)
        self.image_proj = projection
        self.ip_adapter = nn.ModuleDict(
            {
                str(2 * index + 1): nn.ModuleDict(
                    {name: nn.Linear(projection.context, channels, bias=False) for name in ("to_k_ip", "to_v_ip")}
                )
                for index, channels in enumerate(widths)
            }
        )

    @classmethod
    def begin(cls, backbone: AbstractBackbone, width: int, *, tokens: int = 4, seed: int = 0) -> "IPAdapter":
        """An untrained one with a linear projection; its maps begin as the text's own, as in the released code (as
        recalled).

        Args:
            backbone: to be trained for.
            width: of the image encoder's embedding.
            tokens: that stand for a picture; 4 in the paper.
            seed: of the projection.
        """
        attentions = [backbone.denoiser.get_submodule(path) for path in attention_order(backbone)]
        context = attentions[0].to_k.weight.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = cls(LinearProjection(width, context, tokens), [a.to_k.weight.shape[0] for a in attentions])
        with torch.no_grad():
            for layer, attention in zip(made.ip_adapter.values(), attentions, strict=True):
                layer["to_k_ip"].weight.copy_(attention.to_k.weight)  # type: ignore[index]
                layer["to_v_ip"].weight.copy_(attention.to_v.weight)  # type: ignore[index]
        return made.to(backbone.device)

    @classmethod
    def untrained(cls, config: IPAdapterConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "IPAdapter":
        """See `begin`."""
        return cls.begin(backbone, reading.width, tokens=config.tokens, seed=seed)

    @classmethod
    def from_published(cls, state: Mapping[str, Tensor]) -> "IPAdapter":
        """From the tensors of a published file.

        Raises:
            ArtifactError: tensors are missing, or belong to another kind of adapter.
        """
        numbers = sorted({int(key.split(".")[1]) for key in state if key.startswith("ip_adapter.")})
        first = state.get("ip_adapter.1.to_k_ip.weight")
        if first is None or numbers != list(range(1, 2 * len(numbers), 2)):
            raise ArtifactError(
                f"the file has keys and values for attentions {numbers[:4]}...; expected those of IP-Adapter: "
                "ip_adapter.1.to_k_ip.weight, ip_adapter.3.to_k_ip.weight, and so on."
            )
        widths = [len(state.get(f"ip_adapter.{number}.to_k_ip.weight", first)) for number in numbers]
        own = {key.removeprefix("image_proj."): value for key, value in state.items() if key.startswith("image_proj.")}
        made = cls(projection_for(own, first.shape[1]), widths)
        made.load_published(state)
        return made

    @property
    def layout(self) -> str:
        """The kind of base it belongs to, in words."""
        return _layout(self.image_proj.context, len(self.widths))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        attentions = [backbone.denoiser.get_submodule(path) for path in attention_order(backbone)]
        wanted = [tuple(attention.to_k.weight.shape) for attention in attentions]
        if wanted != [(channels, self.image_proj.context) for channels in self.widths]:
            theirs = _layout(wanted[0][1], len(wanted)) if wanted else "a base without text cross-attention"
            raise ArtifactError(
                f"the reference adapter was made for {self.layout}; {backbone.name} has {theirs}. Pass an adapter of "
                "the base's family with --reference-adapter, or another --base."
            )

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Tokens of several pictures are attended to together."""
        features = asked.shown.sight.features
        tokens = self.image_proj(features.flatten(0, 1).to(self.dtype))
        tokens = tokens.unflatten(0, features.shape[:2]).flatten(1, 2)
        maps = self.ip_adapter.values()
        pairs = {
            path: (layer["to_k_ip"](tokens), asked.scale * layer["to_v_ip"](tokens))  # type: ignore[index]
            for path, layer in zip(attention_order(asked.backbone), maps, strict=True)
        }
        return asked.encoded().beside(Decoupled(pairs=pairs))


def attention_order(backbone: AbstractBackbone) -> list[str]:
    """Paths of the text cross-attentions as published files count them: in the order of registration."""
    asked = set(backbone.cross_attention_paths())
    return [path for path, _ in backbone.denoiser.named_modules() if path in asked]


def _layout(context: int, count: int) -> str:
    known = _FAMILIES.get((context, count))
    return f"{count} cross-attentions of text width {context}" + (f" ({known})" if known else "")
