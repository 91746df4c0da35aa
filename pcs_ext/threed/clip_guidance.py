"""What a video model says about a rendered clip, as a loss: score distillation over frames together."""

import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.types import LossTerms
from pcs_ext.threed.distillation import (
    DistillationConfig,
    distilled_score,
    draw_timesteps,
    encode_views,
    surrogate_loss,
)


class ClipGuidance:
    """SDS of clips (MAV3D, Singer et al. 2023, arXiv 2301.11280), one timestep for all frames.

    Args:
        backbone: its `predict` takes latents of clips `b c f h w`; with a subject's adapters already injected.
        prompt: of the clip, with the subject's words in place.
        config: how the score is taken.
        negative_prompt: what to stay away from.
        noise_share: share of noise that is common to all frames, in [0, 1]: as the model was trained.

    Raises:
        UsageError: kept noise; clips draw theirs anew.
        ConfigError: settings that are about single pictures.
    """

    def __init__(
        self,
        backbone: AbstractBackbone,
        prompt: str,
        config: DistillationConfig,
        *,
        negative_prompt: str = "",
        noise_share: float = 0.0,
    ) -> None:
        if config.noise != "fresh":
            raise UsageError(
                f"clips are judged with noise that is drawn anew, expected noise fresh, got {config.noise}."
            )
        config.refuse("the score of clips", "growth", "perp_neg")
        self.backbone, self.config, self.noise_share = backbone, config, noise_share
        with torch.no_grad():
            self.positive, self.negative = (backbone.encode_prompt([text]) for text in (prompt, negative_prompt))

    def terms(self, frames: Tensor, *, progress: float, generator: torch.Generator) -> LossTerms:
        """`clip`, whose gradient in the frames is the pulled-back score.

        Args:
            frames: of one clip, `f 3 h w` in [-1, 1], with a graph.
            progress: share of training done, in [0, 1].
            generator: on the CPU.
        """
        clip = encode_views(self.backbone, frames).transpose(0, 1)[None]
        total = self.backbone.schedule.num_train_timesteps
        timesteps = draw_timesteps(self.config.timesteps, progress, 1, total, generator).to(clip.device)
        noise = shared(clip.shape, self.noise_share, generator).to(clip)
        score = distilled_score(
            self.backbone, clip.detach(), timesteps, noise, self.negative, self.positive, self.config
        )
        # Per frame: a clip's pull on each of its pictures is that of a picture's own score.
        return LossTerms({"clip": surrogate_loss(clip, score)})


def shared(shape: tuple[int, ...], share: float, generator: torch.Generator) -> Tensor:
    """Unit normal noise `b c f h w`, a share of it common to the frames, as video models may be trained on."""
    own = torch.randn(shape, generator=generator, dtype=torch.float64)
    if share == 0:
        return own
    common = torch.randn((*shape[:2], 1, *shape[3:]), generator=generator, dtype=torch.float64)
    return (share * common + (1 - share) * own) / (share**2 + (1 - share) ** 2) ** 0.5
