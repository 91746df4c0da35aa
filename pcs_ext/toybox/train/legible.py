"""The denoiser's last lesson: to draw what a critic would have corrected.

Denoising true pictures teaches what a noisy picture was; whether a picture that the denoiser began itself becomes what
its caption says is never asked. A critic that pulls at every step of drawing (classifier guidance, Dhariwal and Nichol
2021, arXiv 2105.05233) gets it there, but stock pipelines have no critic. So a student learns the critic's pull
(distilled guidance, Meng et al. 2023, arXiv 2210.03142): it draws pictures as `image` does, and at every step is told
what the frozen denoiser, pulled, would have said. True pictures keep it a denoiser.

To follow the critic's gradient freely instead was tried and gave gaudy heaps that only the critic could read: the pull
must stay a step of a given length from a denoiser that stays as it is.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from pcs_ext.errors import ModelError
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.noise import NoiseSchedule, append_dims
from pcs_ext.image.types import LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import generator_for
from pcs_ext.toybox.train.critic import NOISIEST, Critic, load_critic
from pcs_ext.toybox.train.data import TrainingData, labels_of, load_data, single_rows
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.stage import rows, run_stage
from pcs_ext.toybox.train.unet import (
    STREAMS,
    Captions,
    build_schedule,
    draw_timesteps,
    load_latents,
    loss_weights,
    prepared,
)

_DRAWN, _TRUE = 32, 12
"""Pictures on their way, and true ones, in a step."""
_STEPS = 20
"""From noise to picture."""
_GUIDANCE = 5.0
_PULL = 1.25
"""Root mean square of the pull on the guided prediction. At 0, 0.3, 0.6 and 1 the oracle read 0.56, 0.75, 0.83 and
0.94 of the classes and 0.44, 0.64, 0.78 and 0.91 of the views of 64 pictures; a student learns a part of it."""
_CLEAR = 0.02
"""Root mean square of the critic's gradient below which the pull falls with it: what is read well is let be."""
_EARLIEST = 900
"""Timestep from which on nothing pulls: little but place and colour is to be seen yet."""
_PULLED_WEIGHT = 4.0
"""Of the error against the pulled denoiser, where that on true pictures is 1."""
_ATTRIBUTES = {"class": 1.0, "view": 1.0, "color": 0.5, "accessory": 0.5}
"""What is asked for, with weights."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What captions ask for."""

    states: Tensor
    """Text states `b n d`."""
    labels: dict[str, Tensor]
    """Number of the attribute's value, `b`."""
    said: dict[str, Tensor]
    """1 where the caption names it, else 0, `b`."""


class Asking:
    """Draws captions of the training pictures that show one toy, those that name the view more often."""

    def __init__(self, data: TrainingData, captions: Captions, encode: Callable[[Tensor], Tensor]) -> None:
        self._captions, self._encode = captions, encode
        self._labels = labels_of(data)
        single = single_rows(data).tolist()
        spoken = [(row, variant) for row in single for variant in range(len(data.captions[row]))]
        viewed = [(row, variant) for row, variant in spoken if " view" in data.captions[row][variant]]
        self._spoken = torch.tensor(spoken + viewed)
        self._said = {
            name: torch.tensor([said(data, name, row, variant) for row, variant in spoken + viewed])
            for name in _ATTRIBUTES
        }

    def draw(self, count: int, generator: torch.Generator) -> Asked:
        """`count` of them, with replacement."""
        chosen = rows(len(self._spoken), count, generator)
        row, variant = self._spoken[chosen].unbind(1)
        return Asked(
            states=self._encode(self._captions.ids(row, variant)),
            labels={name: self._labels[name][row] for name in _ATTRIBUTES},
            said={name: said[chosen] for name, said in self._said.items()},
        )


def said(data: TrainingData, name: str, row: int, variant: int) -> float:
    """1 if the caption names that attribute of its picture, else 0; none is named by saying nothing of it."""
    value = data.attributes[row][name]
    return float(bool(value) and value in data.captions[row][variant])


class OnTheirWay:
    """Pictures between noise and clean, each at a step of its own, so that every batch has all levels of noise."""

    def __init__(self, asking: Asking, schedule: NoiseSchedule, cells: int, generator: torch.Generator) -> None:
        self._asking, self._schedule = asking, schedule
        self._timesteps = torch.arange(0, 1000, 1000 // _STEPS).flip(0) + 1
        self._step = torch.arange(_DRAWN) % _STEPS
        self.noisy = torch.randn(_DRAWN, 4, cells, cells, generator=generator)
        self.asked = asking.draw(_DRAWN, generator)

    @property
    def timesteps(self) -> Tensor:
        """Of every picture now, `b` int64."""
        return self._timesteps[self._step]

    def advance(self, prediction: Tensor, generator: torch.Generator) -> None:
        """A DDIM step (eta 0) by the guided `prediction`; those that arrived begin anew with another caption."""
        noisy = self.noisy.to(prediction)
        clean = self._schedule.to_x0(prediction, noisy, self.timesteps)
        noise = self._schedule.to_epsilon(prediction, noisy, self.timesteps)
        arrived = self._step == _STEPS - 1
        self._step = torch.where(arrived, 0, self._step + 1)
        self.noisy = self._schedule.add_noise(clean, noise, self.timesteps)
        if count := int(arrived.sum()):
            self.noisy[arrived] = torch.randn(count, *noisy.shape[1:], generator=generator).to(noisy)
            self._ask_again(arrived, self._asking.draw(count, generator))

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed training goes on with."""
        held = {"noisy": self.noisy, "step": self._step, "states": self.asked.states}
        held |= {f"labels.{name}": values for name, values in self.asked.labels.items()}
        return {**held, **{f"said.{name}": values for name, values in self.asked.said.items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        self.noisy, self._step = state["noisy"], state["step"]
        labels, said = ({name: state[f"{kind}.{name}"] for name in _ATTRIBUTES} for kind in ("labels", "said"))
        self.asked = Asked(states=state["states"], labels=labels, said=said)

    def _ask_again(self, where: Tensor, new: Asked) -> None:
        held = self.asked
        # Copies: what was asked so far is still to be differentiated.
        self.asked = Asked(
            states=_replaced(held.states, where, new.states),
            labels={name: _replaced(values, where, new.labels[name]) for name, values in held.labels.items()},
            said={name: _replaced(values, where, new.said[name]) for name, values in held.said.items()},
        )


def _replaced(values: Tensor, where: Tensor, by: Tensor) -> Tensor:
    values = values.clone()
    values[where.to(values.device)] = by.to(values)
    return values


def unread(logits: dict[str, Tensor], asked: Asked) -> Tensor:
    """What is not read as asked (0-d): weighted cross entropies of what the captions name, summed over attributes and
    pictures."""
    total = torch.zeros((), device=next(iter(logits.values())).device)
    for name, weight in _ATTRIBUTES.items():
        errors = F.cross_entropy(logits[name].float(), asked.labels[name].to(total.device), reduction="none")
        total = total + weight * (errors * asked.said[name].to(total.device)).sum()
    return total


def pull(
    critic: Critic, coming: Tensor, asked: Asked, schedule: NoiseSchedule, at: Tensor, generator: torch.Generator
) -> Tensor:
    """What to add to the guided v-prediction, `b 4 h w`, so that the critic reads more of what is asked.

    Args:
        critic: frozen; it reads the coming pictures noised again, less than they are now.
        coming: clean latents that the guided prediction implies, `b 4 h w`.
        asked: what their captions ask for.
        schedule: of the noise.
        at: timesteps now, `b`.
        generator: on the CPU.
    """
    share = 0.1 + 0.7 * torch.rand(len(at), generator=generator).to(at.device)
    again = (share * at).long().clamp(max=NOISIEST - 1)
    noise = torch.randn(coming.shape, generator=generator).to(coming)
    with torch.enable_grad():
        shown = coming.detach().requires_grad_(True)
        misread = unread(critic(schedule.add_noise(shown, noise, again), again), asked)
        (gradient,) = torch.autograd.grad(misread, shown)
    size = gradient.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=_CLEAR)
    # Less of v is more of the clean picture: the gradient that is to fall is added.
    return _PULL * gradient / size * append_dims(at < _EARLIEST, coming)


def train_legible(settings: Settings, steps: int, minutes: float | None, reporter: Reporter) -> None:
    """Teach a copy of the denoiser in `models/unet`; save it to `models/unet_legible`, which `export` prefers.

    Raises:
        InputError: the latents are not cached yet, or of other pictures.
        ModelError: there is no denoiser or no critic yet.
    """
    data, models = load_data(settings, *STREAMS), settings.folder / "models"
    latents = load_latents(settings, len(data)).to(settings.device)
    if not (models / "unet").is_dir():
        raise ModelError(f"{models} holds no denoiser; run the stage unet or adopt first.")
    unet, teacher = (
        prepared(UNet2DConditionModel.from_pretrained(models / "unet"), settings).requires_grad_(False)
        for _ in range(2)
    )
    text_encoder: Any = CLIPTextModel.from_pretrained(models / "text_encoder")
    text_encoder = text_encoder.to(settings.device).eval().requires_grad_(False)
    critic, captions = load_critic(settings), Captions(settings, data)
    schedule = build_schedule()

    def encode(ids: Tensor) -> Tensor:
        with torch.no_grad():
            return text_encoder(input_ids=ids.to(settings.device)).last_hidden_state

    unsaid = encode(captions.empty[None]).expand(_DRAWN, -1, -1)
    drawn = OnTheirWay(Asking(data, captions, encode), schedule, latents.shape[-1], generator_for("toybox", "legible"))

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        chosen = rows(len(latents), _TRUE, generator)
        clean = latents[chosen].float()
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        timesteps = draw_timesteps(_TRUE, generator).to(clean.device)
        noisy, at, asked = drawn.noisy.to(clean), drawn.timesteps.to(clean.device), drawn.asked
        with torch.no_grad():
            told = torch.cat([unsaid, asked.states])
            plain, known = teacher(noisy.repeat(2, 1, 1, 1), at.repeat(2), told).sample.float().chunk(2)
            coming = schedule.to_x0(plain + _GUIDANCE * (known - plain), noisy, at)
            # Guidance multiplies whatever the prediction with words gains over the one without.
            wanted = known + pull(critic, coming, asked, schedule, at, generator) / _GUIDANCE
        # One call for both: kernels of a few pictures do not fill a core.
        predicted, answered = (
            unet(
                torch.cat([schedule.add_noise(clean, noise, timesteps), noisy]),
                torch.cat([timesteps, at]),
                torch.cat([encode(captions.draw(chosen, generator)), asked.states]),
            )
            .sample.float()
            .split([_TRUE, _DRAWN])
        )
        errors = (predicted - schedule.target(clean, noise, timesteps)).square().mean((1, 2, 3))
        drawn.advance(plain + _GUIDANCE * (answered.detach() - plain), generator)
        return LossTerms(
            {
                "v": (errors * loss_weights(schedule, timesteps)).mean(),
                "pulled": _PULLED_WEIGHT * (answered - wanted).square().mean(),
            }
        )

    run_stage(
        "legible",
        {"unet": unet},
        loss,
        settings,
        FitConfig(steps=steps, lr_schedule="cooldown", warmup_steps=50, autocast="bf16", ema_decay=0.998),
        reporter,
        learning_rate=2e-4,
        weight_decay=0.01,
        minutes=minutes,
        extra_state={"drawn": drawn},
        finish=lambda: unet.save_pretrained(models / "unet_legible"),
    )
