"""ProFusion (Zhou et al. 2023, arXiv 2305.13579): a word of the picture and of the noisy latents, and fusion sampling.

PromptNet makes the word at every noise level, without any regularisation that would cost detail. What a detailed word
costs in turn, fusion sampling gives back: before every step the latents are denoised a little by picture and words
together and noised as much again (fusion), then the step is guided by both and, separately, by the words (refinement).
It may be tuned to a photo afterwards (`reference tune`).
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import FullAdapter, FullConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.anew import AbstractWordAnew, Drawing
from pcs_ext.image.reference.base import Reading, check_context, context_width, token_widths
from pcs_ext.image.reference.inside import beside, read_of
from pcs_ext.image.reference.shown import Sees, Shown
from pcs_ext.image.reference.words import SeenWords, noun_rows
from pcs_ext.image.sample import Sampling
from pcs_ext.image.types import Conditioning
from pcs_ext.runtime import generator_for

_GROUPS = 8
"""Of PromptNet's norms."""


@config
class ProFusionConfig:
    """PromptNet, and how is sampled with it."""

    kind: Literal["profusion"] = "profusion"
    """Tag in JSON."""
    widths: tuple[int, ...] = (160, 320, 640, 640)
    """Channels of PromptNet's levels, multiples of 8; the released code's."""
    fusions: int = 1
    """Times that latents are denoised and noised again before a step; 0: none. Ours, as far as nothing else is said:
    the released code leaves them to the user."""
    fusion_eta: float = 1.0
    """How far they are, 1 as far as DDPM goes in a step (the released code's)."""
    fusion_guidance: float = 3.0
    """Guidance in that (the released code's)."""
    fusion_strength: float = 0.8
    """Of the word in that (the released code's)."""
    words_guidance: float = 0.5
    """Guidance by the words alone, as a share of the sampling's guidance; 0: none. Ours."""
    denoiser: bool = False
    """Whether all of the denoiser's weights are its own: those of a tuned one are."""

    def __post_init__(self) -> None:
        if not self.widths or any(width < _GROUPS or width % _GROUPS for width in self.widths):
            raise ConfigError(f"widths must be multiples of {_GROUPS} and at least one, got {list(self.widths)}.")
        if self.fusions < 0 or not 0 <= self.fusion_eta <= 1:
            raise ConfigError(
                f"fusions must not be negative and fusion_eta in [0, 1], got {self.fusions} and {self.fusion_eta}."
            )
        if min(self.fusion_guidance, self.fusion_strength, self.words_guidance) < 0:
            raise ConfigError("fusion_guidance, fusion_strength and words_guidance must not be negative.")


class PromptNet(nn.Module):
    """Noisy latents, the noise level and a picture's patches -> a word.

    A level is a residual layer that knows the noise level, an attention to the patches, and a convolution that halves
    the cells; what every level holds, averaged over cells, makes the word.

    Args:
        widths: channels of the levels.
        channels: of latents.
        picture: width of patches.
        made: width of the word.
    """

    def __init__(self, widths: Sequence[int], channels: int, picture: int, made: int) -> None:
        super().__init__()
        first = widths[0]
        self.enter = nn.Conv2d(channels, first, 3, padding=1)
        self.waves = Timesteps(first, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = nn.Sequential(nn.Linear(first, 4 * first), nn.SiLU(), nn.Linear(4 * first, 4 * first))
        pairs = zip((first, *widths[:-1]), widths, strict=True)
        self.levels = nn.ModuleList(_Level(before, own, 4 * first, picture) for before, own in pairs)
        self.out = nn.Linear(sum(widths), made)

    def forward(self, noisy: Tensor, timesteps: Tensor, patches: Tensor) -> Tensor:
        """`b c h w`, `b` and `b k picture` -> `b made`."""
        time = self.time(self.waves(timesteps).to(noisy.dtype))
        cells, pooled = self.enter(noisy), []
        for level in self.levels:
            cells = level(cells, time, patches)
            pooled.append(cells.mean((2, 3)))
        return self.out(torch.cat(pooled, dim=-1))


class _Level(nn.Module):
    def __init__(self, before: int, width: int, time: int, picture: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(before, width, 3, stride=2, padding=1)
        self.norm, self.look_norm = nn.GroupNorm(_GROUPS, width), nn.GroupNorm(_GROUPS, width)
        self.conv, self.time = nn.Conv2d(width, width, 3, padding=1), nn.Linear(time, width)
        self.ask, self.tell, self.out = nn.Linear(width, width), nn.Linear(picture, 2 * width), nn.Linear(width, width)

    def forward(self, cells: Tensor, time: Tensor, patches: Tensor) -> Tensor:
        cells = self.down(cells)
        cells = cells + self.conv(F.silu(self.norm(cells) + self.time(time)[:, :, None, None]))
        asked = self.ask(self.look_norm(cells).flatten(2).transpose(1, 2))
        keys, values = self.tell(patches).chunk(2, -1)
        found = F.scaled_dot_product_attention(*(x[:, None] for x in (asked, keys, values)))[:, 0]
        return cells + self.out(found).transpose(1, 2).unflatten(2, cells.shape[2:])


class ProFusion(AbstractWordAnew):
    """PromptNet.

    Differs from ProFusion in PromptNet's layers, which are fewer, and in that it sees the patches of one frozen encoder
    alone, not the photo's latents; and in that another picture of the subject is shown than the one that is drawn.
    Patches of several pictures are side by side.

    Args:
        config: of the adapter.
        width: of the image encoder's patches.
        channels: of latents.
        context: width of text states.
        tokens: of token rows.
    """

    sees: Sees = "patches"
    asks_noun = True
    in_steps = "changes the picture before every step"

    def __init__(self, config: ProFusionConfig, width: int, channels: int, context: int, tokens: Sequence[int]) -> None:
        super().__init__()
        self.config, self.width, self.context, self.tokens = config, width, context, list(tokens)
        self.net = PromptNet(config.widths, channels, width, sum(tokens))
        self.seen_words = SeenWords(1)
        self.inside = (self.seen_words,)
        if config.denoiser:
            self.inside = (*self.inside, FullAdapter("reference", FullConfig(components=("denoiser",))))
        self.refines = config.fusions > 0
        self._fusing = False
        self._empty: Conditioning | None = None

    @classmethod
    def untrained(cls, config: ProFusionConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "ProFusion":
        """Nothing of it is the base's."""
        channels = backbone.latent_channels
        return cls(config, reading.width, channels, context_width(backbone), token_widths(backbone))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("profusion", self.context, backbone)

    def seen_of(self, shown: Shown) -> Tensor:
        """See `AbstractWordAnew.seen_of`."""
        return shown.sight.features.flatten(1, 2)

    def words(self, backbone: AbstractBackbone, drawing: Drawing) -> list[Tensor]:
        """See `AbstractWordAnew.words`: at lower strengths nearer to the noun's row."""
        like = self.net.out.weight
        made = self.net(drawing.noisy.to(like), drawing.timesteps, drawing.read.vectors.to(like)).float()
        nouns = [noun_rows(backbone, noun) for noun in drawing.nouns]
        strength = drawing.read.strength.float()[:, None]
        return [
            torch.lerp(torch.stack([rows[index] for rows in nouns]), part, strength)[:, None]
            for index, part in enumerate(made.split(self.tokens, dim=-1))
        ]

    def asked_with(
        self, predict: Predict, noisy: Tensor, timesteps: Tensor, told: Conditioning, plain: Conditioning
    ) -> Tensor:
        """See `AbstractWordAnew.asked_with`. In use guidance by the words alone is added (refinement)."""
        joint = predict(noisy, timesteps, told)
        share = self.config.words_guidance
        read = read_of(plain, self._name)
        if self.training or self._fusing or share == 0 or read is None:
            return joint
        rows = read.seen
        at = rows.to(noisy.device)
        times, latents = timesteps.expand(len(noisy))[at], noisy[at]
        words = plain[rows]
        nothing = self._nothing(words)
        both = predict(torch.cat([latents] * 2), torch.cat([times] * 2), Conditioning.cat([words, nothing]))
        said, unsaid = both.chunk(2)
        return joint.index_copy(0, at, refinement(joint[at], said, unsaid, share))

    def _nothing(self, like: Conditioning) -> Conditioning:
        """Empty prompts, as many as `like` has."""
        assert self._empty is not None
        return dataclasses.replace(self._empty[[0] * like.batch_size], time_ids=like.time_ids)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`."""
        with super().inserted(backbone, scale):
            with torch.no_grad():
                self._empty = backbone.encode_prompt([""])
            yield

    def forget(self) -> None:
        """See `AbstractWordAnew.forget`."""
        self._empty = None

    def refined(
        self, backbone: AbstractBackbone, sampling: Sampling, step: int, timestep: Tensor, latents: Tensor
    ) -> Tensor:
        """See `AbstractReferenceAdapter.refined`: the fusion stage."""
        count = len(latents)
        told = sampling.conditioning[torch.arange(len(sampling.seeds)) + (count if sampling.guided else 0)]
        read = read_of(told, self._name)
        if read is None or not len(read.seen):
            return latents
        weaker = beside(told, self._name, read.vectors, self.config.fusion_strength * read.strength)
        without = sampling.conditioning[torch.arange(count)] if sampling.guided else self._nothing(told)
        asked = Conditioning.cat([without, weaker])
        # What samplers call latents is scaled alike, but for Euler's, which are as large as their noise.
        shrink = sampling.scheduler.scale_model_input(torch.ones_like(latents[:1]), timestep)
        at = timestep.round().long().clamp(0, backbone.schedule.num_train_timesteps - 1).to(latents.device)
        kept, next_kept = _kept(backbone, sampling, step, at)
        drawn = latents * shrink
        self._fusing = True
        try:
            for number in range(self.config.fusions):
                prediction = backbone.predict(torch.cat([drawn] * 2), at.expand(2 * count), asked).float()
                noises = backbone.schedule.to_epsilon(prediction, torch.cat([drawn] * 2), at.expand(2 * count))
                bare, full = noises.chunk(2)
                noise = bare + self.config.fusion_guidance * (full - bare)
                fresh = [
                    torch.randn(drawn.shape[1:], generator=generator_for(seed, "fusion", step, number))
                    for seed in sampling.seeds
                ]
                drawn = fusion(drawn, noise, torch.stack(fresh).to(drawn), kept, next_kept, self.config.fusion_eta)
        finally:
            self._fusing = False
        return drawn / shrink


def _kept(backbone: AbstractBackbone, sampling: Sampling, step: int, at: Tensor) -> tuple[float, float]:
    """abar at a step and at the one after it."""
    abar, times = backbone.schedule.alphas_cumprod, sampling.scheduler.timesteps
    after = int(times[step + 1].round()) if step + 1 < len(times) else 0
    return float(abar[int(at)]), float(abar[after])


def fusion(noisy: Tensor, epsilon: Tensor, fresh: Tensor, kept: float, next_kept: float, eta: float) -> Tensor:
    """Denoised a step and noised back, in one formula: x - u sqrt(1 - abar) eps + sqrt(1 - abar) sqrt(u (2 - u)) z.

    u = sigma^2 / (1 - abar'), sigma that of a DDIM step with `eta`. Where eps is right, so is the noise level
    afterwards: (1 - u)^2 + u (2 - u) = 1.

    Args:
        noisy: `b c h w` at the level of `kept`.
        epsilon: the noise that is seen in it.
        fresh: unit normal noise.
        kept: abar.
        next_kept: abar', after the step.
        eta: 1 as DDPM, 0 nothing changes.
    """
    u = eta**2 * (1 - kept / next_kept) / (1 - kept)
    spread = (1 - kept) ** 0.5
    return noisy - u * spread * epsilon + spread * (u * (2 - u)) ** 0.5 * fresh


def refinement(joint: Tensor, words: Tensor, nothing: Tensor, share: float) -> Tensor:
    """joint + share (words - nothing): guidance by s makes of it nothing + s (joint - nothing) + s share (words -
    nothing), the paper's independent guidance."""
    return joint + share * (words - nothing)
