"""W+ adapter (Li et al. 2023, arXiv 2311.17461): codes of a style-based generator's W+ space beside the text.

An encoder into W+ tells the code of a photo, a row for every layer of the generator. Four linear maps make tokens of
its coarse to fine rows, and in every text cross-attention a second one asks them with what the first has found
(*residual cross-attention*). Since W+ is a space in which attributes are directions, a subject is edited there before
it is drawn (`pcs-ext reference restyle`).
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ArtifactError, ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.cpu_attention import attend
from pcs_ext.image.backbones.joint import in_heads, side_by_side
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import (
    AbstractReferenceAdapter,
    Reading,
    Terms,
    TrainingStage,
    check_context,
    context_width,
)
from pcs_ext.image.reference.inside import Read, answering, beside, reading
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning

_NAME = "w_plus_tokens"
_LEVELS = (4, 8, 12, 18)
"""Where the four groups of a code's 18 rows end (the released code)."""


@config
class WPlusConfig:
    """Weights of the terms and shares of the parts; weights and disturbances are the released settings."""

    kind: Literal["w-plus-adapter"] = "w-plus-adapter"
    """Tag in JSON."""
    subject_share: float = 0.5
    """Of the steps, in which maps and attention learn without further terms; in the rest the maps stay. Ours."""
    apart_weight: float = 0.6
    """Of what another code changes outside of the masks."""
    kept_weight: float = 0.4
    """Of what the code changes anywhere."""
    reach: float = 40.0
    """How many times the way from another picture's code to the own one a disturbed code lies from it, at most."""

    def __post_init__(self) -> None:
        if not 0 < self.subject_share < 1 or min(self.apart_weight, self.kept_weight, self.reach) < 0:
            raise ConfigError(
                "subject_share must be between 0 and 1, and apart_weight, kept_weight and reach not negative."
            )


class StyleTokens(nn.Module):
    """Codes -> four tokens, of the coarse to the fine rows.

    Args:
        styles: rows of a code.
        width: of each.
        context: of text states.
    """

    def __init__(self, styles: int, width: int, context: int) -> None:
        super().__init__()
        ends = [round(styles * end / _LEVELS[-1]) for end in _LEVELS]
        self.counts = [end - begin for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
        if min(self.counts) < 1:
            raise ArtifactError(f"codes of {styles} rows cannot be read in four groups; pass a larger style space.")
        self.maps = nn.ModuleList(nn.Linear(count * width, context, bias=False) for count in self.counts)
        self.norm = nn.LayerNorm(context)

    def forward(self, codes: Tensor) -> Tensor:
        """`b styles width` -> `b 4 context`."""
        groups = codes.split(self.counts, dim=1)
        made = [own(group.flatten(1)) for own, group in zip(self.maps, groups, strict=True)]
        return self.norm(torch.stack(made, dim=1))


class ResidualAttention(nn.Module):
    """What a text attention found asks tokens; the answer is added before the output's map.

    Args:
        attention: of the denoiser, whose maps it begins with.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads, self.scale = attention.heads, attention.scale
        inner, context = attention.to_k.weight.shape
        self.to_q = nn.Linear(inner, inner, bias=False)
        self.to_k, self.to_v = (nn.Linear(context, inner, bias=False) for _ in range(2))
        with torch.no_grad():
            for own, theirs in ((self.to_q, attention.to_q), (self.to_k, attention.to_k), (self.to_v, attention.to_v)):
                if own.weight.shape == theirs.weight.shape:
                    own.weight.copy_(theirs.weight)

    def forward(self, found: Tensor, tokens: Tensor) -> Tensor:
        """`b n inner` and `b m context` -> `b n inner`."""
        parts = (self.to_q(found), self.to_k(tokens), self.to_v(tokens))
        query, key, value = (in_heads(part, self.heads) for part in parts)
        return side_by_side(attend(query, key, value, self.scale))


class WPlusAdapter(AbstractReferenceAdapter):
    """The maps to tokens, and a residual attention behind every text cross-attention.

    Differs from W+ adapter in the style space, which is any that is trained here or whose codes another tool wrote; in
    that photos are whole pictures of any subject, cut out by masks, where the paper's are aligned faces; in that both
    parts of the training see the same pictures and captions, where the paper's first one sees faces alone; and in that
    codes are not disturbed along published directions (35 of 100 times there), which belong to one generator. Codes of
    several pictures are averaged.

    Args:
        config: of the adapter.
        reading: of the style space.
        backbone: whose attentions are copied.
    """

    sees: Sees = "codes"
    cuts = True
    enters = True

    def __init__(self, config: WPlusConfig, reading: Reading, backbone: AbstractBackbone) -> None:
        super().__init__()
        self.config, self.width, self.context = config, reading.width, context_width(backbone)
        self.project = StyleTokens(reading.places, reading.width, self.context)
        self.names = {path: path.replace(".", "_") for path in backbone.cross_attention_paths()}
        self.attentions = nn.ModuleDict(
            {name: ResidualAttention(backbone.denoiser.get_submodule(path)) for path, name in self.names.items()}
        )
        self._codes: Tensor | None = None

    @classmethod
    def untrained(cls, config: WPlusConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "WPlusAdapter":
        """Attentions begin as the text's."""
        return cls(config, reading, backbone)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("w-plus-adapter", self.context, backbone)

    @property
    def stages(self) -> tuple[TrainingStage, ...]:
        """See `AbstractReferenceAdapter.stages`."""
        share = self.config.subject_share
        return (
            TrainingStage(name="subject", share=share, trains=("maps", "attention")),
            TrainingStage(name="scene", share=1 - share, trains=("attention",)),
        )

    def groups(self) -> dict[str, tuple[nn.Parameter, ...]]:
        """See `AbstractReferenceAdapter.groups`."""
        return {"maps": tuple(self.project.parameters()), "attention": tuple(self.attentions.parameters())}

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`."""
        codes = asked.shown.to(self.project.norm.weight).sight.object.mean(1)
        self._codes = codes if self.training else None
        return beside(asked.encoded(), _NAME, self.project(codes), asked.scale * asked.seen)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: tokens are asked while rows with photos are denoised."""
        with super().inserted(backbone, scale), reading(backbone, _NAME, lambda read: self._asking(backbone, read)):
            yield

    @contextlib.contextmanager
    def _asking(self, backbone: AbstractBackbone, read: Read) -> Iterator[None]:
        handles = []
        try:
            for path, name in self.names.items():
                output = backbone.denoiser.get_submodule(f"{path}.to_out.0")
                handles.append(output.register_forward_pre_hook(added(self.attentions[name], read)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: in the second part `kept`, and `apart` where masks are known."""
        codes = self._codes
        if self._stage != "scene" or codes is None:
            yield dict
            return
        other = disturbed(codes.detach(), self.config.reach, pairs.generator)
        asked: list[tuple[Tensor, Tensor, Conditioning, Tensor]] = []

        def keep(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            predicted = predict(noisy, timesteps, conditioning)
            asked.append((noisy, timesteps, conditioning, predicted))
            return predicted

        def terms() -> dict[str, Tensor]:
            noisy, timesteps, told, predicted = asked[0]
            strength = (told.shown or {})[_NAME][:, 0, -1]
            with torch.no_grad():
                moved = backbone.predict(noisy, timesteps, beside(told, _NAME, self.project(other), strength))
                plain = backbone.predict(noisy, timesteps, without(told))
            found = {"kept": self.config.kept_weight * changed(predicted, plain)}
            if pairs.masks is not None:
                around = 1 - pairs.masks.amax(1, keepdim=True).to(predicted.device)
                found["apart"] = self.config.apart_weight * changed(predicted, moved, around)
            return found

        with answering(backbone, f"{_NAME}_kept", keep):
            yield terms


def added(attention: nn.Module, read: Read) -> Any:
    """Before an attention's output map: what it found, and times the strength what that finds in the tokens."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        text, rows = inputs[0], read.seen.to(inputs[0].device)
        if not len(rows):
            return inputs
        found = attention(text[rows].to(read.vectors), read.vectors[rows])
        answer = text[rows] + (read.strength[rows][:, None, None] * found).to(text)
        return (text.index_copy(0, rows, answer), *inputs[1:])

    return hook


def without(told: Conditioning) -> Conditioning:
    """The same without tokens."""
    return dataclasses.replace(told, shown={key: own for key, own in (told.shown or {}).items() if key != _NAME})


def changed(one: Tensor, other: Tensor, where: Tensor | None = None) -> Tensor:
    """Squared difference times `where`, a mean over everything, 0-d; only the first learns.

    Args:
        one: `b c h w`.
        other: likewise.
        where: `b 1 h w`; None: everywhere.
    """
    difference = one.float() - other.detach().float()
    return (difference if where is None else where * difference).square().mean()


def disturbed(codes: Tensor, reach: float, generator: torch.Generator | None) -> Tensor:
    """Codes of others, moved far: along the way to the own ones, by the own ones, or by noise (the released code's
    shares 45, 7 and 13, of what is left without directions).

    Args:
        codes: `b styles width`.
        reach: see `WPlusConfig.reach`.
        generator: the only source of randomness.
    """
    kind, amount = torch.rand(2, generator=generator).tolist()
    others = codes[torch.randperm(len(codes), generator=generator).to(codes.device)]
    noise = torch.randn(codes.shape, generator=generator).to(codes) * codes.std() + codes.mean()
    far = 2 * amount - 1
    if kind < 45 / 65:
        return others + far * reach * (codes - others)
    if kind < 52 / 65:
        return others + 6 * far * codes
    return others + 8 * far * noise
