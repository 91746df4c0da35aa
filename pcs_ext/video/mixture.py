"""Several subjects, apart from what is only in one photo: Disen-Mix (VideoDreamer, Chen et al. 2023, arXiv 2311.00990).

Every photo is denoised from the subjects' words plus a visual embedding of that photo, which takes up its background
and pose, and, weakly, from the words alone; the two are pushed apart. Clips are made of the words alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import SubjectDataset
from pcs_ext.image.evaluate.encoders import ImageEncoder
from pcs_ext.image.objectives import MaskNormalisation, denoising_errors, masked_mean
from pcs_ext.image.training import LatentCache
from pcs_ext.image.types import Conditioning, LossTerms


@config
class MixtureConfig:
    """Weights as recalled of DisenBooth (arXiv 2305.03374), which Disen-Mix is recalled to follow; not checked."""

    words_alone: float = 1e-2
    """Weight of denoising from the words alone."""
    apart: float = 1e-3
    """Weight of the cosine between words and visual embedding."""
    visual_learning_rate: float = 1e-4
    """Of the visual branch; ours."""
    collages: int = 8
    """Pictures of all subjects at once, beside the photos of each; ours."""
    collage_side: int = 512
    """Of those, in pixels."""


class VisualBranch(nn.Module):
    """Image features -> an embedding like the text's: a learned gate in (0, 1) per feature, then a network beside it.

    Args:
        width: of the features.
        text_width: of the text's states.
        seed: of the first weights.
    """

    def __init__(self, width: int, text_width: int, *, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.gate = nn.Parameter(torch.zeros(width))
            self.skip = nn.Identity() if width == text_width else nn.Linear(width, text_width, bias=False)
            self.network = nn.Sequential(nn.Linear(width, text_width), nn.GELU(), nn.Linear(text_width, text_width))

    def forward(self, features: Tensor) -> Tensor:
        """`b d` -> `b 1 text_width`, to be added to every token's states."""
        gated = torch.sigmoid(self.gate) * features.float()
        return (self.skip(gated) + self.network(gated)).unsqueeze(1)


def mixture_terms(
    together: Tensor, alone: Tensor, words: Tensor, visual: Tensor, config: MixtureConfig
) -> dict[str, Tensor]:
    """Disen-Mix's three terms, weighted, 0-d each.

    Args:
        together: errors per photo of denoising from words and visual embedding, `b`.
        alone: the same from the words alone, `b`.
        words: the text's states, `b n d`.
        visual: embeddings, `b 1 d`.
        config: weights.
    """
    cosine = F.cosine_similarity(words.float().mean(1), visual.float().squeeze(1), dim=-1)
    return {
        "denoising": together.mean(),
        "words_alone": config.words_alone * alone.mean(),
        "apart": config.apart * cosine.mean(),
    }


class MixtureLoss:
    """The loss of one step, as `fit` wants it.

    Args:
        backbone: with words and LoRA in it.
        data: photos of each subject and of all.
        encoder: of images.
        visual: what learns what is only in one photo.
        config: weights.
        batch_size: photos per step.
    """

    def __init__(
        self,
        backbone: AbstractBackbone,
        data: SubjectDataset,
        encoder: ImageEncoder,
        visual: VisualBranch,
        config: MixtureConfig,
        batch_size: int,
    ) -> None:
        self.backbone, self.data, self.encoder, self.visual = backbone, data, encoder, visual
        self.config, self.batch_size = config, batch_size
        self.latents = LatentCache(backbone)

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Terms of one batch; everything random comes from `generator`."""
        batch, schedule = self.data.batch(self.batch_size, generator), self.backbone.schedule
        latents = self.latents(batch).to(self.backbone.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        timesteps = schedule.draw_timesteps(len(latents), generator).to(latents.device)
        with torch.no_grad():
            features = self.encoder.encode_images(batch.images.to(self.backbone.device))
        words, visual = self.backbone.encode_prompt(batch.captions), self.visual(features)
        noisy = schedule.add_noise(latents, noise, timesteps)
        both = Conditioning(states=torch.cat([words.states + visual.to(words.states.dtype), words.states]))
        prediction = self.backbone.predict(torch.cat([noisy, noisy]), timesteps.repeat(2), both)
        errors = denoising_errors(prediction, schedule.target(latents, noise, timesteps).repeat(2, 1, 1, 1))
        mask = None
        if batch.masks is not None:
            cells = F.interpolate(batch.masks.to(errors), size=errors.shape[-2:], mode="area")
            mask = cells.repeat(2, 1, 1, 1)
        together, alone = masked_mean(errors, mask, MaskNormalisation.PER_SAMPLE_MEAN).chunk(2)
        return LossTerms(mixture_terms(together, alone, words.states, visual, self.config))
