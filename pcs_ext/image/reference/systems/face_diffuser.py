"""Face-diffuser (Wang et al. 2023, arXiv 2311.10329): one model draws the scene, another the subjects, by turns.

A text-driven model knows scenes, a subject-augmented one subjects: FastComposer's mixing, and a denoiser that trains
with it. In sampling the first constructs the scene, the last part is the second's, and between them *saliency-adaptive
noise fusion* takes in every cell the prediction of the model whose guidance does more there.
"""

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import FullAdapter
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.fused_adapter import AbstractFusedAdapter
from pcs_ext.image.reference.fusing import fused
from pcs_ext.image.reference.inside import read_of
from pcs_ext.image.reference.localization import placed
from pcs_ext.image.reference.words_alone import WORDS, with_words_alone, without_pictures
from pcs_ext.image.sample import Sampling
from pcs_ext.image.types import Conditioning

_SMOOTHED = 4
"""Cells along the square that responses are averaged over; the released code's."""


@config
class FaceDiffuserConfig:
    """Pictures mixed into words, a denoiser of its own, and the three stages of a sampling."""

    kind: Literal["face-diffuser"] = "face-diffuser"
    """Tag in JSON."""
    scene: float = 0.3
    """Share of the noise levels, from pure noise on, in which the text-driven model draws alone: 15 of 50 steps in the
    released settings."""
    fusion: float = 0.6
    """Share until which both draw together; from there on the subject-augmented model draws alone. 30 of 50 there."""
    localization_weight: float = 1e-3
    """Of the attention outside of a subject's mask less that inside; the released settings'."""
    localization_levels: int = 5
    """Of the denoiser's blocks with cross-attention the middle so many are held to the masks."""

    def __post_init__(self) -> None:
        if not 0 <= self.scene <= self.fusion <= 1:
            raise ConfigError(
                f"scene and fusion must be shares, the first at most the second, got {self.scene} and {self.fusion}."
            )
        if self.localization_weight < 0 or self.localization_levels < 1:
            raise ConfigError(
                "localization_weight must not be negative and localization_levels at least 1, got "
                f"{self.localization_weight} and {self.localization_levels}."
            )


class FaceDiffuser(AbstractFusedAdapter):
    """The subject-augmented model; the text-driven one is the base.

    Differs from Face-diffuser, whose text-driven model is the base trained on with the captions of the same pictures:
    here it is the base as it is. Its stages are shares of the noise levels, not of the steps. As with FastComposer here
    the image encoder stays as it is, and several pictures of one subject are averaged.
    """

    mixes = True
    in_steps = "lets saliency say in every step which of two models draws what"

    @property
    def denoiser(self) -> FullAdapter:
        """Its own, which is set aside where the base draws the scene."""
        (own,) = self.inside
        assert isinstance(own, FullAdapter)
        return own

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. In use the words alone are kept beside, for `mixed`."""
        plain = asked.encoded()
        places, embeddings = placed(asked.backbone, asked.prompts, asked.shown)
        if not places.rows:
            return plain
        told = fused(plain, places, embeddings, self.fuse, asked.scale)
        there = torch.tensor([float(row in places.rows) for row in range(len(plain.states))])
        return told if self.training else with_words_alone(told, plain, there.to(told.states))

    def mixed(
        self,
        backbone: AbstractBackbone,
        sampling: Sampling,
        predict: Predict,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
    ) -> Tensor:
        """See `AbstractReferenceAdapter.mixed`: scene, fusion or subject, by the noise level (section 3.2).

        The text-driven model is guided from the negative prompt to the words, the subject-augmented one from the words
        to words and pictures.
        """
        count = len(sampling.seeds)
        told = conditioning[torch.arange(count) + (count if sampling.guided else 0)]
        words = without_pictures(told)
        nothing = conditioning[torch.arange(count)] if sampling.guided else _nothing(backbone, words)
        noisy, times = noisy_latents[-count:], timesteps[-count:]
        done = 1 - float(times[0]) / backbone.schedule.num_train_timesteps
        read = read_of(told, WORDS)
        strength = torch.zeros(count) if read is None else read.strength
        seen = (strength != 0).to(noisy.device)[:, None, None, None]

        def both(without: Conditioning, full: Conditioning) -> Tensor:
            asked = Conditioning.cat([without, full])
            return predict(torch.cat([noisy] * 2), torch.cat([times] * 2), asked).unflatten(0, (2, count))

        if done >= self.config.fusion and bool(seen.all()):
            return self._halves(both(words, told), sampling)
        with self.denoiser.set_aside():
            scene = both(nothing, words)
        if done < self.config.scene:
            return self._halves(scene, sampling)
        subject = both(words, told)
        if done < self.config.fusion:
            responses = (
                sampling.guidance_scale * response(backbone, model, noisy, times) for model in (scene, subject)
            )
            seen = seen & subject_leads(*responses)
        return self._halves(torch.where(seen, subject, scene), sampling)

    def _halves(self, predictions: Tensor, sampling: Sampling) -> Tensor:
        """`2 n ...` -> what the sampler asked for. Guidance is linear, so where a model leads, so does its guidance."""
        return predictions.flatten(0, 1) if sampling.guided else predictions[1]


def _nothing(backbone: AbstractBackbone, like: Conditioning) -> Conditioning:
    """Empty prompts, as many as `like` has."""
    return dataclasses.replace(backbone.encode_prompt([""] * like.batch_size), time_ids=like.time_ids)


def response(backbone: AbstractBackbone, predictions: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """By how much a condition changes the noise that is seen, `n c h w`, whatever the base predicts.

    Args:
        backbone: its schedule is asked.
        predictions: without and with the condition, `2 n c h w`.
        noisy: `n c h w`.
        timesteps: `n`, whole or not.
    """
    schedule = backbone.schedule
    at = timesteps.round().long().clamp(0, schedule.num_train_timesteps - 1)
    without, full = (schedule.to_epsilon(one.float(), noisy.float(), at) for one in predictions)
    return full - without


def saliency(response: Tensor) -> Tensor:
    """What guidance does, smoothed and brought to the sum 1, so that two models' can be compared (section 3.3).

    Args:
        response: guidance scale times the difference of two predictions, `b c h w`.

    Returns:
        `b h w`, summing to 1.
    """
    smooth = F.avg_pool2d(response.abs(), _SMOOTHED, stride=1, padding=1)
    whole = F.interpolate(smooth, size=response.shape[-2:], mode="bilinear").mean(1)
    return whole.flatten(1).softmax(1).unflatten(1, response.shape[-2:])


def subject_leads(scene: Tensor, subject: Tensor) -> Tensor:
    """Cells where the subject-augmented model's response is the more salient, `b 1 h w` bool.

    Args:
        scene: response of the text-driven model, `b c h w`.
        subject: of the subject-augmented one.
    """
    return (saliency(subject) > saliency(scene)).unsqueeze(1)
