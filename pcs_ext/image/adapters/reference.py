"""A subject's picture looked at while others are painted (ViCo, Hao et al. 2023, arXiv 2306.00971).

The denoiser also reads a picture of the subject, clean, under the same prompt. In the decoder each cell looks, in
blocks of its own, at those cells of that picture that the subject's word looks at.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.pass_adapter import AbstractPass, AbstractPassAdapter
from pcs_ext.image.adapters.tokens import check_placeholder
from pcs_ext.image.adapters.vocabulary import token_positions
from pcs_ext.image.attention import attention_program, decoder_paths
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import recomputing_inside
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.prompt_programs import Encode
from pcs_ext.image.types import Conditioning

_BINS = 10
_REFERENCE = "reference"


@config
class ReferenceConfig:
    """Transformer blocks behind some of the decoder's, that look at a picture of the subject."""

    kind: Literal["reference"] = "reference"
    """Tag of this adapter in JSON."""
    placeholder: str = "<subject>"
    """The subject's word, which another adapter learns; prompts without it are answered by the base alone."""
    every: int = 2
    """Every so many of the decoder's text cross-attentions get a block, the first among them; the released code's."""
    init_seed: int = 0
    """Seed of the blocks."""

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder, 1)
        if self.every < 1:
            raise ConfigError(f"every must be at least 1, got {self.every}.")


class ReferenceAdapter(AbstractPassAdapter[BasicTransformerBlock]):
    """The blocks and a picture's latents; state: `block.<module path>.<tensor>` and `reference` (`c h w`).

    Blocks are as those of the base: self-attention, attention to the picture, feed-forward. Their outputs start at
    zero, which in the released code is left to training. Conditioning of single layers does not go together with this
    adapter.
    """

    def __init__(self, name: str, config: ReferenceConfig) -> None:
        super().__init__(name, prefix="block", kept=_REFERENCE)
        self.config = config
        self.maps: tuple[Tensor, Tensor] | None = None
        """Of the last block in the last pass: where the word and the end of the text look in the picture, `m n`."""
        self._given: Tensor | None = None

    @property
    def blocks(self) -> dict[str, BasicTransformerBlock]:
        """By the block of the denoiser behind which they stand."""
        return self.networks

    @property
    def reference(self) -> Tensor | None:
        """The picture's latents, `c h w`; None: not known yet."""
        return self.kept.get(_REFERENCE)

    @reference.setter
    def reference(self, latents: Tensor) -> None:
        self.kept = {_REFERENCE: latents}

    def standing(self, backbone: AbstractBackbone) -> AbstractPass:
        """See `AbstractPassAdapter.standing`."""
        return _Pass(self, backbone)

    def built(self, backbone: AbstractBackbone) -> dict[str, BasicTransformerBlock]:
        """See `AbstractPassAdapter.built`."""
        paths = decoder_paths(backbone.cross_attention_paths())[:: self.config.every]
        if not paths:
            raise ConfigError(f"the decoder of {backbone.name} has no text cross-attention to put a block behind.")
        blocks: dict[str, BasicTransformerBlock] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.init_seed)
            for path in paths:
                like: Any = backbone.denoiser.get_submodule(path)
                width = like.to_out[0].out_features
                block = BasicTransformerBlock(width, like.heads, width // like.heads, cross_attention_dim=width).eval()
                for last in (block.attn1.to_out[0], block.attn2.to_out[0], block.ff.net[2]):  # type: ignore[union-attr]
                    nn.init.zeros_(last.weight)  # type: ignore[arg-type]
                    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
                blocks[path.removesuffix(".attn2")] = block
        return blocks

    def eject(self) -> None:
        super().eject()
        self.maps = None

    @contextlib.contextmanager
    def referring(self, latents: Tensor) -> Iterator[None]:
        """Inside, each row of a pass looks at its own of these pictures, `b c h w`, clean."""
        self._given = latents
        try:
            yield
        finally:
            self._given = None

    def pictures(self, latents: Tensor, rows: Tensor) -> Tensor | None:
        """What the marked rows of a pass look at, `m c h w`; None: no picture is known yet."""
        if self._given is not None:
            return self._given[rows.to(self._given.device)].to(latents)
        if self.reference is None:
            return None
        known = self.reference[None].to(latents)
        if known.shape[-2:] != latents.shape[-2:]:
            known = F.interpolate(known, size=latents.shape[-2:], mode="bilinear", antialias=True)
        return known.expand(int(rows.sum()), -1, -1, -1)


class _Pass(AbstractPass):
    """Around `encode_prompt`, to mark the subject's word and the end of the text, and around `predict`."""

    def __init__(self, adapter: ReferenceAdapter, backbone: AbstractBackbone) -> None:
        super().__init__(backbone, f"reference_{adapter.name}")
        self.adapter, self.end = adapter, f"{self.word}_end"

    def __call__(self, encode: Encode, prompts: Sequence[str], size: tuple[int, int] | None) -> Conditioning:
        told = encode(prompts, size=size)
        named = [self.adapter.config.placeholder in prompt for prompt in prompts]
        if not any(named):
            return told
        word = token_positions(self.backbone, [self.adapter.config.placeholder], prompts).cpu().float()
        end = torch.zeros_like(word)
        for row, prompt in enumerate(prompts):
            end[row, min(1 + self.backbone.token_count(prompt), end.shape[1] - 1)] = float(named[row])
        return told.marked({self.word: word, self.end: end})

    def answered(
        self, predict: Predict, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """`predict`, the marked rows with a picture of the subject beside them."""
        marks = (conditioning.marks or {}).get(self.word)
        if marks is None or not marks.any() or self.adapter.scale == 0:
            return predict(noisy_latents, timesteps, conditioning)
        rows = marks.any(1)
        pictures = self.adapter.pictures(noisy_latents, rows)
        if pictures is None:
            return predict(noisy_latents, timesteps, conditioning)
        at = rows.to(noisy_latents.device)
        latents, times = torch.cat([noisy_latents, pictures]), torch.cat([timesteps, timesteps[at]])
        told = Conditioning.cat([conditioning, conditioning[rows]])
        inside = lambda: self._inside(conditioning, rows)  # noqa: E731
        with recomputing_inside(self.backbone.denoiser, inside), inside():
            return predict(latents, times, told)[: len(noisy_latents)]

    @contextlib.contextmanager
    def _inside(self, conditioning: Conditioning, rows: Tensor) -> Iterator[None]:
        looks: dict[str, Tensor] = {}
        marks = conditioning.marks or {}
        word, end = (marks[name][rows] for name in (self.word, self.end))

        def keep(path: str, probabilities: Tensor) -> Tensor:
            looks[path] = probabilities[len(rows) :].mean(1)
            return probabilities

        def hook(path: str):
            def joined(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
                own, pictured = output[: len(rows)], output[len(rows) :]
                seen = [_looked_at(looks[f"{path}.attn2"], mark) for mark in (word, end)]
                self.adapter.maps = seen[0], seen[1].detach()
                at = rows.to(own.device)
                moved = self._looked(path, own[at], pictured, otsu_mask(seen[0].detach()))
                return torch.cat([own.index_put((at,), moved), pictured])

            return joined

        paths = list(self.adapter.blocks)
        handles = [self.backbone.denoiser.get_submodule(path).register_forward_hook(hook(path)) for path in paths]
        try:
            with attention_program(self.backbone, keep, [f"{path}.attn2" for path in paths]):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _looked(self, path: str, own: Tensor, pictured: Tensor, mask: Tensor) -> Tensor:
        """The cells `m n d` after they looked at the picture's cells `m k d` where the mask `m k` is true."""
        block = self.adapter.blocks[path]
        moved = block(own.float(), encoder_hidden_states=pictured.float(), encoder_attention_mask=_bias(mask))
        return torch.lerp(own, moved.to(own.dtype), self.adapter.scale)


def _looked_at(probabilities: Tensor, mark: Tensor) -> Tensor:
    """How much of each cell's look falls on marked tokens: `m cells tokens` and `m tokens` -> `m cells`, float32."""
    weights = mark.to(probabilities.device, torch.float32)
    return torch.einsum("mct,mt->mc", probabilities.float(), weights) / weights.sum(1, keepdim=True).clamp_min(1)


def _bias(mask: Tensor) -> Tensor:
    """`m 1 k`: 0 where the mask is true, far below elsewhere."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -10000.0).unsqueeze(1)


def otsu_mask(values: Tensor) -> Tensor:
    """Which values of each row `m n` lie above Otsu's threshold, of nine between its smallest and largest; bool.

    The threshold parts a row so that share below x share above x (difference of their means)^2 is largest.
    """
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    scaled = (values - low) / (high - low).clamp_min(1e-12)
    thresholds = torch.arange(1, _BINS, device=values.device) / _BINS
    above = scaled.unsqueeze(1) >= thresholds[:, None]
    share = above.float().mean(2)
    mean_above = (scaled.unsqueeze(1) * above).mean(2) / share.clamp_min(1e-12)
    mean_below = (scaled.unsqueeze(1) * ~above).mean(2) / (1 - share).clamp_min(1e-12)
    best = (share * (1 - share) * (mean_above - mean_below).square()).argmax(1)
    chosen = above[torch.arange(len(values), device=values.device), best]
    return torch.where(high > low, chosen, torch.ones_like(chosen))
