"""An identity learned in clips of the model's own making, by what an image encoder sees (PersonalVideo).

Li et al. 2024, arXiv 2411.17048. There is no reconstruction: a clip is sampled from noise, the identity is there in its
last denoising steps alone, and its decoded frames are compared with the photos, and with what the model makes without.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.adapters import AbstractAdapter
from pcs_ext.image.evaluate.encoders import ImageEncoder
from pcs_ext.image.flow import FlowSchedule
from pcs_ext.image.guidance import combine_guidance
from pcs_ext.image.sample import SampleConfig, build_scheduler
from pcs_ext.image.types import Conditioning, LossTerms
from pcs_ext.video.backbone import AbstractVideoBackbone, to_frames


@config
class IdentityConfig:
    """How clips are made to learn from; values are ours unless marked as the paper's."""

    window: float = 0.25
    """Share of the denoising, at its end, in which the identity is there; the paper's last quarter."""
    steps: int = 20
    """Denoising steps of a clip (DDIM)."""
    gradient_steps: int = 1
    """Last steps of the window that gradients go through."""
    guidance_scale: float = 7.5
    """1 = off."""
    frames: int | None = None
    """Of a clip; None: as the model makes them."""
    height: int | None = None
    width: int | None = None
    """Pixels; None: the base's."""
    score_frames: int = 4
    """Frames whose scores are compared with the frozen model's, at least 2."""
    score_weight: float = 1.0
    """Of that comparison beside the identity; 1 is the paper's plain sum. 0: none, for encoders without text."""
    score_scale: float = 100.0
    """Times the similarities before the softmax, as CLIP has it."""

    def __post_init__(self) -> None:
        if not 0 < self.window <= 1 or self.gradient_steps < 1 or self.steps < 1 or self.score_frames < 2:
            raise ConfigError(
                "window must be in (0, 1], steps and gradient_steps at least 1 and score_frames at least 2; got "
                f"{self.window}, {self.steps}, {self.gradient_steps} and {self.score_frames}."
            )


def identity_loss(references: Tensor, made: Tensor) -> Tensor:
    """1 - cosine of embeddings, mean over all pairs: the identity consistency reward, turned round; in [0, 2].

    Args:
        references: `n d`, of the photos.
        made: `m d`, of frames.
    """
    return 1 - (F.normalize(made.float(), dim=-1) @ F.normalize(references.float(), dim=-1).T).mean()


def score_divergence(tuned: Tensor, frozen: Tensor) -> Tensor:
    """KL(softmax(frozen) || softmax(tuned)) of scores per frame, `b f`, mean over clips: semantic consistency.

    The direction is ours. No gradient goes into `frozen`.
    """
    expected = frozen.detach().float().log_softmax(-1)
    return (expected.exp() * (expected - tuned.float().log_softmax(-1))).sum(-1).mean()


class IdentityLoss:
    """The loss of one step, as `fit` wants it: terms `identity` and `semantics`.

    Args:
        backbone: with the adapters in it.
        adapters: the identity.
        encoder: of images, and of texts for the scores.
        references: photos `3 h w` in [-1, 1].
        prompts: what clips are made of, the subject's words in them.
        config: how.

    Raises:
        UsageError: scores are asked for and the encoder reads no text, or the backbone follows a flow.
    """

    def __init__(
        self,
        backbone: AbstractVideoBackbone,
        adapters: Mapping[str, AbstractAdapter],
        encoder: ImageEncoder,
        references: Sequence[Tensor],
        prompts: Sequence[str],
        config: IdentityConfig,
    ) -> None:
        self.backbone, self.adapters, self.encoder, self.config = backbone, adapters, encoder, config
        self.prompts = list(prompts)
        if isinstance(backbone.schedule, FlowSchedule):
            raise UsageError(f"{backbone.name} follows a flow; an identity is learned where DDIM samples clips.")
        if config.score_weight > 0 and not hasattr(encoder, "encode_texts"):
            raise UsageError(
                f"{encoder.id} reads no text, which comparing frames with their prompt needs; give --image-encoder a "
                "CLIP folder, or set score_weight to 0."
            )
        with torch.no_grad():
            self.references = torch.cat(
                [encoder.encode_images(photo[None].to(backbone.device)) for photo in references]
            )
        self.sampling = SampleConfig(
            scheduler="ddim", num_inference_steps=config.steps, guidance_scale=config.guidance_scale
        )

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Sample a clip and compare it; everything random comes from `generator`."""
        prompt = self.prompts[int(torch.randint(len(self.prompts), (), generator=generator))]
        noise = torch.randn(self._shape(), generator=generator).to(self.backbone.device)
        frames = noise.shape[2]
        shown = int(torch.randint(frames, (), generator=generator))
        scored = torch.randperm(frames, generator=generator)[: min(self.config.score_frames, frames)].sort().values
        conditioning = self._conditioning(prompt)
        with torch.no_grad():
            early, late = self._parts()
            start = self._denoise(noise, early, conditioning, there=False)
            inner = late[: -self.config.gradient_steps] if len(late) > self.config.gradient_steps else late[:0]
            before = self._denoise(start, inner, conditioning, there=True)
        clip = self._denoise(before, late[len(inner) :], conditioning, there=True)
        terms = {"identity": identity_loss(self.references, self.encoder.encode_images(self._frames(clip, [shown])))}
        if self.config.score_weight > 0 and len(scored) > 1:
            with torch.no_grad():
                frozen = self._scores(self._denoise(start, late, conditioning, there=False), scored, prompt)
            self._set(there=True)
            tuned = self._scores(clip, scored, prompt)
            terms["semantics"] = self.config.score_weight * score_divergence(tuned, frozen)
        return LossTerms(terms)

    def _shape(self) -> tuple[int, ...]:
        backbone, config = self.backbone, self.config
        frames = backbone.latent_frames(config.frames or backbone.frames)
        sides = (config.height or backbone.resolution, config.width or backbone.resolution)
        return (1, backbone.latent_channels, frames, *(side // backbone.vae_factor for side in sides))

    @torch.no_grad()
    def _conditioning(self, prompt: str) -> Conditioning:
        own = self.backbone.encode_prompt([prompt])
        if self.config.guidance_scale == 1:
            return own
        return Conditioning.cat([self.backbone.encode_prompt([""]), own])

    def _parts(self) -> tuple[list[Tensor], list[Tensor]]:
        """Timesteps without and with the identity; at least one with it."""
        self.scheduler = build_scheduler(self.backbone, self.sampling)
        edge = self.config.window * self.backbone.schedule.num_train_timesteps
        times = list(self.scheduler.timesteps)
        first = min(next((i for i, t in enumerate(times) if float(t) < edge), len(times) - 1), len(times) - 1)
        return times[:first], times[first:]

    def _set(self, *, there: bool) -> None:
        for adapter in self.adapters.values():
            adapter.set_scale(1.0 if there else 0.0)

    def _denoise(self, latents: Tensor, times: Sequence[Tensor], conditioning: Conditioning, *, there: bool) -> Tensor:
        self._set(there=there)
        guided = self.config.guidance_scale != 1
        for time in times:
            doubled = torch.cat([latents, latents]) if guided else latents
            prediction = self.backbone.predict(doubled, time.expand(len(doubled)), conditioning).float()
            if guided:
                prediction = combine_guidance(*prediction.chunk(2), self.config.guidance_scale)
            latents = self.scheduler.step(prediction, time, latents).prev_sample
        return latents

    def _frames(self, clip: Tensor, which: Sequence[int]) -> Tensor:
        """Decoded frames `m 3 h w` in [-1, 1]; where time is inside the latents, of the decoded clip."""
        if self.backbone.time_factor == 1:
            return self.backbone.decode_latents(to_frames(clip[:, :, list(which)])).float()
        decoded = self.backbone.decode_clips(clip).float()
        last = decoded.shape[2] - 1
        return to_frames(decoded[:, :, [min(index * self.backbone.time_factor, last) for index in which]])

    def _scores(self, clip: Tensor, which: Tensor, prompt: str) -> Tensor:
        """Similarity of frames and prompt, `1 f`, times `score_scale`."""
        images = self.encoder.encode_images(self._frames(clip, which.tolist()))
        with torch.no_grad():
            text = self.encoder.encode_texts([prompt])  # pyright: ignore[reportAttributeAccessIssue]
        return self.config.score_scale * (images @ text.T).T
