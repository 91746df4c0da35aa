"""A base that knows a scene, and where in it something is to be: TIP-Editor's first step.

Two losses take turns (Zhuang et al. 2024, arXiv 2401.14828, sec. 4.1): pictures of the scene are denoised under the
scene's words, and under the edited words the new thing's attention is held to the box.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import LowRankConfig, build_adapter
from pcs_ext.image.attention import AttentionMaps, attention_program
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.phrases import phrase_positions
from pcs_ext.image.types import LossTerms, ParameterGroup
from pcs_ext.threed.box import Box
from pcs_ext.threed.cameras import Cameras


@config
class LocalizationConfig:
    """How the scene and the place are learned."""

    fit: FitConfig
    """Steps and optimiser."""
    views: int = 20
    """Pictures of the scene, evenly around it."""
    rank: int = 8
    """Of the low-rank updates. Differs from TIP-Editor, which tunes the whole denoiser at 5e-6."""
    learning_rate: float = 1e-4
    """Of the updates."""
    side: int = 16
    """Cells per side of the attention maps that count (TIP-Editor: 16 at 512 pixels); on a base without such ones the
    coarsest that are finer."""
    outside: float = 0.1
    """Weight of attention outside the box (TIP-Editor: 0.1)."""
    inside: float = 1.0
    """Weight of 1 minus the strongest attention inside it (TIP-Editor: 1)."""
    sharpness: float = 100.0
    """Attention is multiplied by this before a softmax over words (TIP-Editor: 100)."""

    def __post_init__(self) -> None:
        if self.views < 1 or self.rank < 1 or self.learning_rate <= 0:
            raise ConfigError(
                f"expected views, a rank and a positive learning rate, got {self.views}, {self.rank}, "
                f"{self.learning_rate}."
            )


def localization_loss(maps: Tensor, words: tuple[int, ...], masks: Tensor, settings: LocalizationConfig) -> Tensor:
    """outside * mean attention where the mask is not + inside * (1 - strongest attention where it is), 0-d.

    Pictures that do not see the box count outside alone.

    Args:
        maps: `b tokens s s`: mean attention probabilities.
        words: tokens of the new thing; their maps are averaged.
        masks: `b s s` in [0, 1].
        settings: weights.
    """
    looks = torch.softmax(settings.sharpness * maps, 1)[:, list(words)].mean(1)
    away = 1 - masks
    outside = (looks * away).sum((1, 2)) / away.sum((1, 2)).clamp_min(1e-6)
    strongest = torch.where(masks > 0.5, looks, torch.zeros_like(looks)).amax((1, 2))
    seen = (masks > 0.5).any(2).any(1)
    return (settings.outside * outside + settings.inside * (1 - strongest) * seen).mean()


class SceneUpdates:
    """Low-rank updates that hold the scene; in the backbone only inside `applied`."""

    def __init__(self, backbone: AbstractUnetBackbone, settings: LocalizationConfig, seed: int = 0) -> None:
        self.backbone, self.settings = backbone, settings
        rank = LowRankConfig(rank=settings.rank, alpha=float(settings.rank), targets="attention", init_seed=seed)
        self.updates = build_adapter("scene", rank)

    @contextlib.contextmanager
    def applied(self, *, training: bool) -> Iterator[None]:
        """Inside, the base knows the scene."""
        self.updates.inject(self.backbone)
        parameters = self.updates.parameters()["denoiser"]
        try:
            for parameter in parameters:
                parameter.requires_grad_(training)
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)
            self.updates.eject()

    def groups(self) -> list[ParameterGroup]:
        """What trains; only inside `applied`."""
        trained = tuple(self.updates.parameters()["denoiser"])
        return [ParameterGroup(name="scene", parameters=trained, learning_rate=self.settings.learning_rate)]


class SceneLoss:
    """The terms of one step: a `Loss` for `fit`. Even steps denoise, odd ones locate.

    Args:
        backbone: with the subject and the scene's updates in it.
        pictures: of the scene, `v 3 h w` in [-1, 1].
        cameras: `v`.
        box: where the new thing is to be.
        scene_prompt: what the pictures show.
        edited_prompt: what they are to show.
        thing: the words of the edited prompt that name the new thing.
        settings: weights.

    Raises:
        UsageError: the words do not stand in the prompt.
    """

    def __init__(
        self,
        backbone: AbstractUnetBackbone,
        pictures: Tensor,
        cameras: Cameras,
        box: Box,
        scene_prompt: str,
        edited_prompt: str,
        thing: str,
        settings: LocalizationConfig,
    ) -> None:
        self.backbone, self.settings = backbone, settings
        self.words = phrase_positions(backbone, edited_prompt, thing)
        with torch.no_grad():
            self.latents = backbone.encode_images(pictures)
            self.scene, self.edited = (backbone.encode_prompt([text]) for text in (scene_prompt, edited_prompt))
        self.masks = box.masks(cameras, pictures.shape[-1])[:, None]

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Terms of one picture, timestep and noise."""
        schedule, index = self.backbone.schedule, torch.randint(len(self.latents), (1,), generator=generator)
        clean = self.latents[index.to(self.latents.device)]
        level = torch.randint(schedule.num_train_timesteps, (1,), generator=generator).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64).to(clean)
        noisy = schedule.add_noise(clean, noise, level)
        if step % 2 == 0:
            guess = schedule.to_epsilon(self.backbone.predict(noisy, level, self.scene), noisy, level)
            return LossTerms({"scene": F.mse_loss(guess.float(), noise.float())})
        kept = AttentionMaps(side=self.settings.side, exact=True)
        with attention_program(self.backbone, kept):
            self.backbone.predict(noisy, level, self.edited)
        maps = kept.maps()
        masks = F.interpolate(self.masks[index], size=maps.shape[2:], mode="area")[:, 0].to(maps)
        return LossTerms({"place": localization_loss(maps, self.words, masks, self.settings)})
