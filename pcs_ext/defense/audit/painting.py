"""What a prompt paints on average, from one call of the denoiser: the clean latents it expects behind heavy noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.defense.audit.likelihood import Explanation, errors, explanation, paint
from pcs_ext.defense.audit.method import AuditMethod
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.runtime import generator_for

_BATCH = 8
"""Prompts per call."""


@torch.no_grad()
def mean_pictures(backbone: AbstractBackbone, prompts: Sequence[str], method: AuditMethod) -> Tensor:
    """Expected clean latents `n d` of prompts, float32 on the CPU: those of all draws, one behind the other.

    The input is noise alone, the same for every prompt, at timestep `level * T`: what differs between two rows is the
    prompts' doing.
    """
    schedule = backbone.schedule
    timestep = round(method.level * (schedule.num_train_timesteps - 1))
    side = backbone.resolution // backbone.vae_factor
    shape = (method.draws, backbone.latent_channels, side, side)
    noise = torch.randn(shape, generator=generator_for("audit", method.seed)).to(backbone.device)
    rows = []
    for first in range(0, len(prompts), _BATCH):
        chunk = list(prompts[first : first + _BATCH])
        which = torch.arange(len(chunk)).repeat_interleave(method.draws)
        timesteps = torch.full((len(which),), timestep, device=backbone.device)
        noisy = schedule.add_noise(torch.zeros_like(noise), noise, timesteps[: method.draws]).repeat(
            len(chunk), 1, 1, 1
        )
        prediction = backbone.predict(noisy.to(backbone.dtype), timesteps, backbone.encode_prompt(chunk)[which])
        rows.append(schedule.to_x0(prediction.float(), noisy, timesteps).reshape(len(chunk), -1).cpu())
    return torch.cat(rows)


@torch.no_grad()
def last_states(backbone: AbstractBackbone, prompts: Sequence[str]) -> Tensor:
    """The text encoder's last state of each prompt, which has read all of it, `n d`, float32 on the CPU."""
    chunks = [list(prompts[first : first + 4 * _BATCH]) for first in range(0, len(prompts), 4 * _BATCH)]
    return torch.cat([backbone.encode_prompt(chunk).states[:, -1].float().cpu() for chunk in chunks])


class Reference:
    """A base without the file: everything that was asked once is remembered, for one audit or for many.

    Ask it only while nothing is applied to the backbone.
    """

    def __init__(self, backbone: AbstractBackbone, method: AuditMethod) -> None:
        self.backbone, self.method = backbone, method
        self._pictures: dict[str, Tensor] = {}
        self._states: dict[str, Tensor] = {}
        self._explanations: dict[tuple[str, ...], Explanation] = {}

    def pictures(self, prompts: Sequence[str]) -> Tensor:
        """As `mean_pictures`."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._pictures]
        if missing:
            self._pictures |= dict(zip(missing, mean_pictures(self.backbone, missing, self.method), strict=True))
        return torch.stack([self._pictures[prompt] for prompt in prompts])

    def states(self, prompts: Sequence[str]) -> Tensor:
        """As `last_states`."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._states]
        if missing:
            self._states |= dict(zip(missing, last_states(self.backbone, missing), strict=True))
        return torch.stack([self._states[prompt] for prompt in prompts])

    def explanation(self, prompt: str, prompts: Sequence[str], claims: int, others: Sequence[str]) -> Explanation:
        """How the base explains its own pictures of `prompt`, see `likelihood.explanation`.

        Args:
            prompt: of the pictures.
            prompts: that explain them: first the claim's wordings, then the other nouns.
            claims: number of wordings.
            others: the nouns.
        """
        key = (prompt, *prompts)
        if key not in self._explanations:
            found = errors(self.backbone, paint(self.backbone, prompt, self.method), prompts, self.method)
            self._explanations[key] = explanation(found, claims, others)
        return self._explanations[key]
