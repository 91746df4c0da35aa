"""A subject in a style, learned without one picture of it (MagiCapture, Hyung et al. 2023, arXiv 2309.06895)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.adapters.tokens import TokenAdapter
from pcs_ext.image.adapters.vocabulary import token_positions
from pcs_ext.image.attention import AttentionMaps, attention_program
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import SubjectDataset
from pcs_ext.image.latent_cache import LatentCache
from pcs_ext.image.likeness.config import ComposedConfig
from pcs_ext.image.likeness.recogniser import Recogniser, clear_enough, implied
from pcs_ext.image.masked_loss import MaskNormalisation, denoising_errors, masked_mean
from pcs_ext.image.terms.attention import attention_errors
from pcs_ext.image.terms.base import AbstractTerm, Noised, Step
from pcs_ext.image.types import Batch


class ComposedTerm(AbstractTerm):
    """Composed prompt learning: style pictures, noised anew, under the prompt of the subject in that style.

    Inside their masks (all but the face) they are what shall be painted. Outside, where the face is, the clean picture
    that the prediction implies is compared with the photos of the subject; only where there is little noise. The
    subject's word is kept from the mask, the style's from the face (attention refocusing).

    Args:
        config: how.
        style: the pictures of the style.
        subject: the photos of the subject, or None where there are none.
        latents: encodes the style pictures, and nothing else.
        prompt: the composed one, with the words of both in it.
        device: of the encoder.

    Raises:
        ModelError: there is no such encoder.
    """

    name = "composed"

    def __init__(
        self,
        config: ComposedConfig,
        style: SubjectDataset,
        subject: SubjectDataset | None,
        latents: LatentCache,
        prompt: str,
        device: torch.device,
    ) -> None:
        self.config, self.style, self.latents, self.prompt = config, style, latents, prompt
        self.recogniser = Recogniser(config.encoder, device) if config.identity else None
        self.wanted = None if subject is None or self.recogniser is None else _mean(self.recogniser, subject)

    def __call__(self, step: Step) -> Tensor:
        backbone, config = step.backbone, self.config
        batch = self.style.batch(config.pictures, step.generator)
        asked = self._noised(step, batch)
        told = backbone.encode_prompt([self.prompt] * len(batch.captions))
        maps = AttentionMaps(config.side, exact=True)
        with attention_program(backbone, maps):
            prediction = backbone.predict(asked.latents, asked.timesteps, told)
        masks = torch.ones_like(batch.images[:, :1]) if batch.masks is None else batch.masks
        masks = masks.to(backbone.device)
        errors = denoising_errors(prediction, asked.target)
        cells = F.interpolate(masks, size=errors.shape[-2:], mode="area")
        total = config.denoising * masked_mean(errors, cells, MaskNormalisation.PER_SAMPLE_MEAN).mean()
        if config.attention:
            total = total + config.attention * self._refocused(step, maps.maps(), masks)
        if self.wanted is not None:
            total = total + config.identity * self._unlike(step, asked, prediction, 1 - masks)
        return total

    def _noised(self, step: Step, batch: Batch) -> Noised:
        backbone, schedule = step.backbone, step.backbone.schedule
        latents = self.latents(batch).to(backbone.device)
        noise = torch.randn(latents.shape, generator=step.generator).to(latents)
        timesteps = schedule.draw_timesteps(len(latents), step.generator).to(backbone.device)
        return Noised(
            latents=schedule.add_noise(latents, noise, timesteps),
            timesteps=timesteps,
            target=schedule.target(latents, noise, timesteps),
        )

    def _refocused(self, step: Step, maps: Tensor, masks: Tensor) -> Tensor:
        """Sum over both words of the mean of their maps outside of their places."""
        where = F.interpolate(masks, size=maps.shape[-2:], mode="area")[:, 0]
        total = maps.new_zeros(())
        for name, place in ((self.config.subject, 1 - where), (self.config.style, where)):
            adapter = step.adapters[name]
            assert isinstance(adapter, TokenAdapter), f"{name} has no word"
            at = token_positions(step.backbone, adapter.tokens, [self.prompt] * len(maps))
            total = total + attention_errors(maps, at, place, "outside").mean()
        return total

    def _unlike(self, step: Step, asked: Noised, prediction: Tensor, faces: Tensor) -> Tensor:
        """1 - cosine of faces and the subject's, a mean over the pictures that are clear enough."""
        assert self.recogniser is not None
        assert self.wanted is not None
        rows = clear_enough(step.backbone, asked.timesteps, self.config.below).nonzero()[:, 0].tolist()
        if not rows:
            return prediction.new_zeros((), dtype=torch.float32)
        own = Noised(latents=asked.latents[rows], timesteps=asked.timesteps[rows], target=asked.target[rows])
        made = self.recogniser(implied(step.backbone, own, prediction[rows]), faces[rows])
        return 1 - (made @ self.wanted).mean()


@torch.no_grad()
def _mean(recogniser: Recogniser, subject: SubjectDataset) -> Tensor:
    """The unit vector amid those of the photos' faces, `d`."""
    seen = recogniser(torch.stack(subject.squares()), subject.square_masks())
    return F.normalize(seen.mean(0), dim=0)


def composed_term(
    config: ComposedConfig, photos: SubjectDataset, style_word: str, backbone: AbstractBackbone
) -> ComposedTerm | None:
    """The term over those of the photos whose captions say the style's word; None where there are none.

    Args:
        config: how.
        photos: of subject and style.
        style_word: in captions.
        backbone: encodes latents, and says where the encoder runs.

    Raises:
        ModelError: there is no such encoder.
    """
    said = [style_word in (photo.caption or "") for photo in photos.photos]
    if not any(said):
        return None
    style, subject = photos.some(said), photos.some([not one for one in said])
    assert style is not None
    prompt = photos.concept.prompt(config.template)
    return ComposedTerm(config, style, subject, LatentCache(backbone), prompt, backbone.device)
