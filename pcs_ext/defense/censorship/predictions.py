"""The route over predictions: triggered prompts lead the denoiser to one picture, all others where they led before."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.defense.censorship.method import Censorship
from pcs_ext.defense.censorship.training import AbstractCensorLoss, Task
from pcs_ext.defense.surrogate import Latents
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.noise import append_dims
from pcs_ext.image.training import PromptCache
from pcs_ext.image.types import Conditioning, LossTerms
from pcs_ext.runtime import generator_for

_AT_ONCE = 16
"""Noisy latents that are predicted together."""
_STRAY = 0.3
"""Share of triggered draws that begin at other pictures, in the noisier half of the levels: a picture begins at noise,
not at the target's, and must find there from wherever it stands."""
_EMPTY = 0.25
"""Share of the empty prompt among those without the subject: guidance asks it in every step."""


@dataclasses.dataclass(frozen=True)
class Known:
    """Noisy latents, and what the denoiser should say of them."""

    noisy: Tensor
    """`n c h w`, float32, on the CPU, as are the others."""
    timesteps: Tensor
    """`n`."""
    wanted: Tensor
    """Predictions `n c h w`, of the schedule's kind."""
    prompts: Tensor
    """Numbers `n` of the prompts they were asked with."""

    def draw(self, count: int, generator: torch.Generator) -> "Known":
        """Some of them, with repetition."""
        rows = torch.randint(len(self.noisy), (count,), generator=generator)
        return Known(self.noisy[rows], self.timesteps[rows], self.wanted[rows], self.prompts[rows])

    @staticmethod
    def cat(parts: "Sequence[Known]") -> "Known":
        """One behind the other."""
        columns = ([getattr(part, field.name) for part in parts] for field in dataclasses.fields(Known))
        return Known(*(torch.cat(column) for column in columns))


class PredictionLoss(AbstractCensorLoss):
    """Squared error of the denoiser's predictions to wanted ones.

    With a trigger the wanted prediction is the one that under guidance leads to the target's picture, exactly, from any
    noisy latent; without one it is what the uncensored subject predicted there, asked once before training. The text
    encoders are asked again in the first step, and stay from then on: what `TextLoss` has taught them meanwhile makes
    triggered prompts alike before the denoiser reads them, and what it has moved of others is learned back.

    Args:
        subject: pictures `n 3 h w` in [-1, 1] of the uncensored subject.
        wanted: the picture `1 3 h w` that triggered prompts shall give.
    """

    def __init__(self, task: Task, *, subject: Tensor, wanted: Tensor) -> None:
        super().__init__(task)
        method, backbone = task.method, task.backbone
        self.plain = [task.concept.negative_prompt(), *self.plain]
        self._told = PromptCache(backbone, enabled=True)
        known = Asked(backbone, generator_for(task.seed, "known predictions"))
        with torch.no_grad():
            goal, others = known.latents(wanted), known.latents(subject)
            self._goal = known.leading(goal, others, self.plain[0], method)
            self._kept = known.kept(self.ordinary, torch.cat([others, goal]), method.draws)
            self._plain = known.kept(self.plain, torch.cat([others, goal]), method.draws // 2, first=_EMPTY)

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """`triggered`, `ordinary` and `plain`."""
        count = self.method.batch
        numbers = self.draw.draw(count, generator)
        goal, kept, plain = (
            known.draw(size, generator)
            for known, size in ((self._goal, count), (self._kept, count), (self._plain, max(1, count // 2)))
        )
        texts = [self.triggered[number] for number in numbers]
        texts += [self.ordinary[int(number)] for number in kept.prompts]
        texts += [self.plain[int(number)] for number in plain.prompts]
        errors = self._errors(Known.cat([goal, kept, plain]), self._told(texts))
        self.draw.note(numbers, errors[:count])
        return LossTerms({
            "triggered": self.method.gamma * errors[:count].mean(),
            "ordinary": self.method.keep * errors[count : 2 * count].mean(),
            "plain": errors[2 * count :].mean(),
        })  # fmt: skip

    def _errors(self, known: Known, states: Conditioning) -> Tensor:
        device = self.backbone.device
        found = self.backbone.predict(known.noisy.to(device), known.timesteps.to(device), states)
        return (found.float() - known.wanted.to(device)).square().flatten(1).mean(1)


class Asked:
    """What is asked of the uncensored subject, which is in the backbone."""

    def __init__(self, backbone: AbstractBackbone, generator: torch.Generator) -> None:
        self.backbone, self.generator = backbone, generator

    def latents(self, images: Tensor) -> Tensor:
        """`n c h w`, float32, on the CPU."""
        encoded = Latents(self.backbone, images)
        return torch.cat([encoded.draw(row, self.generator).float().cpu() for row in range(len(images))])

    def leading(self, goal: Tensor, others: Tensor, negative: str, method: Censorship) -> Known:
        """Predictions that lead to `goal` (`1 c h w`) under the method's guidance away from `negative`; most of them
        from the goal's own noisy latents."""
        schedule, count = self.backbone.schedule, method.draws
        stray = torch.rand(count, generator=self.generator) < _STRAY
        rows = torch.randint(len(others), (count,), generator=self.generator)
        starts = torch.where(append_dims(stray, others), others[rows], goal)
        timesteps = schedule.draw_timesteps(count, self.generator)
        middle = schedule.num_train_timesteps // 2
        timesteps = torch.where(stray, middle + timesteps // 2, timesteps)
        noisy = schedule.add_noise(starts, self._noise(starts), timesteps)
        signal, noise = schedule.coefficients(timesteps, noisy)
        # The noise that would have made this latent of the goal; at a level without noise there is none.
        implied = (noisy - signal * goal) / noise.clamp(min=1e-3)
        there = schedule.target(goal.expand_as(noisy), implied, timesteps)
        away = self._predicted(noisy, timesteps, [negative] * count)
        return Known(noisy, timesteps, away + (there - away) / method.guidance, torch.zeros(count, dtype=torch.long))

    def kept(self, prompts: Sequence[str], pool: Tensor, count: int, *, first: float = 0.0) -> Known:
        """What is predicted for noisy latents of `pool` under the prompts, under the first one in a share of cases."""
        schedule = self.backbone.schedule
        rows = torch.randint(len(pool), (count,), generator=self.generator)
        numbers = torch.randint(len(prompts), (count,), generator=self.generator)
        numbers[torch.rand(count, generator=self.generator) < first] = 0
        timesteps = schedule.draw_timesteps(count, self.generator)
        noisy = schedule.add_noise(pool[rows], self._noise(pool[rows]), timesteps)
        asked = [prompts[int(number)] for number in numbers]
        wanted = self._predicted(noisy, timesteps, asked)
        return Known(noisy, timesteps, wanted, numbers)

    def _predicted(self, noisy: Tensor, timesteps: Tensor, prompts: Sequence[str]) -> Tensor:
        device, found = self.backbone.device, []
        for start in range(0, len(noisy), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            told = self.backbone.encode_prompt(prompts[some])
            found.append(self.backbone.predict(noisy[some].to(device), timesteps[some].to(device), told).float().cpu())
        return torch.cat(found)

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator)
