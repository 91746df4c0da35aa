"""The model an attack is aimed at: a frozen base, or one that learns the photos meanwhile, as the attacker's would."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import AdapterConfig, FullAdapter, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.checkpoint import Checkpoint
from pcs_ext.image.class_images import ClassImages
from pcs_ext.image.fit import Fit, FitConfig
from pcs_ext.image.learn import AUTOCAST
from pcs_ext.image.objectives import DenoisingObjective, ObjectiveConfig
from pcs_ext.image.parking import Parked
from pcs_ext.image.training import only_trainable
from pcs_ext.image.types import Batch, Conditioning, LossTerms, ParameterGroup
from pcs_ext.runtime import generator_for


@config
class Training:
    """How a surrogate learns. All zero steps: it stays what it is."""

    adapter: AdapterConfig
    """What of it trains."""
    learning_rate: float
    """AdamW's, constant."""
    weight_decay: float = 1e-2
    """AdamW's."""
    first_steps: int = 0
    """On clean photos, once, before the first round (FSMG)."""
    clean_steps: int = 0
    """On clean photos at the start of each round, forgotten at its end (ASPL, step a)."""
    protected_steps: int = 0
    """On the photos protected so far, at the end of each round (ASPL, step c)."""
    pool: int = 1
    """States of the first training that take turns as the surrogate, evenly spread from none of its steps to all
    (MetaCloak, arXiv 2311.13127); 1: the last one alone."""
    turn: int = 1
    """Rounds that a state of the pool serves, training on as it does; then the next one comes, as it was stored."""
    prior_loss_weight: float = 1.0
    """Of the class images' loss; 0 uses none."""
    class_images: int = 0
    """How many the base makes; only those that will be read are made."""
    order: Literal["drawn", "first"] = "drawn"
    """drawn: photos at random. first: photo 0, 1, 2... anew in each call, so that late ones are never read (released
    scripts)."""
    carry_moments: bool = True
    """Whether AdamW's averages survive from call to call."""
    max_gradient_norm: float | None = 1.0
    """Clip the gradient's norm; None does not."""
    rounding: Literal["none", "bf16"] = "none"
    """bf16: weights and AdamW's averages are rounded after every step, as where the model is cast to bf16: most small
    updates are lost."""

    def __post_init__(self) -> None:
        if self.prior_loss_weight > 0 and self.class_images < 1:
            raise ConfigError("a surrogate with prior_loss_weight above 0 needs class_images of at least 1.")
        if self.pool < 1 or self.turn < 1 or (self.pool > 1 and self.first_steps < self.pool - 1):
            raise ConfigError(
                "pool and turn of a surrogate must be at least 1, and a pool needs a first training of a step for each "
                f"state but the first; got {self.pool}, {self.turn} and first_steps {self.first_steps}."
            )

    @property
    def alternates(self) -> bool:
        """Whether it trains between rounds."""
        return self.clean_steps > 0 or self.protected_steps > 0


class Pictures(Protocol):
    """Pictures `3 h w` in [-1, 1] by number: a tensor `n 3 h w`, or what makes each when it is asked for."""

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, index: int, /) -> Tensor:
        """One of them."""
        ...


class Latents:
    """The posteriors of some images, each encoded once, when it is first drawn from."""

    def __init__(self, backbone: AbstractBackbone, images: Pictures) -> None:
        self.backbone, self.images = backbone, images
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, index: int, generator: torch.Generator) -> Tensor:
        """One draw `1 c h w`."""
        if index not in self._known:
            self._known[index] = self._encoded(self.images[index][None])
        mean, deviation = self._known[index]
        return mean + deviation * torch.randn(mean.shape[1:], generator=generator).to(mean.device)

    @torch.no_grad()
    def _encoded(self, image: Tensor) -> tuple[Tensor, Tensor]:
        device = self.backbone.device
        with torch.autocast(device.type, enabled=False):  # asked for in the middle of a training step
            mean, deviation = self.backbone.encode_posterior(image.to(device))
        return mean.float(), deviation.float()


class Surrogate:
    """One base model under attack. Use it inside `active`.

    Args:
        backbone: the model.
        prompts: with the subject's words filled in; the attacks draw one per photo and step, training takes the first.
        training: how it learns; None: frozen.
        class_images: for prior preservation.
        seed: of its training.
        name: distinguishes the members of an ensemble in seeds and checkpoints.
    """

    def __init__(
        self,
        backbone: AbstractBackbone,
        prompts: Sequence[str],
        *,
        training: Training | None = None,
        class_images: ClassImages | None = None,
        seed: int = 0,
        name: str = "0",
    ) -> None:
        self.backbone, self.prompts, self.training = backbone, tuple(prompts), training
        self.seed, self.name, self.trained_steps = seed, name, 0
        self.adapter = None if training is None else build_adapter("surrogate", training.adapter)
        self._class_images = class_images
        self._clean: Latents | None = None
        self._prior: Latents | None = None
        self._fit: Fit | None = None
        self._before: Parked | None = None
        self._pool: list[dict[str, Tensor]] = []
        self._conditioning: Conditioning | None = None
        self._captions: Conditioning | None = None

    @contextlib.contextmanager
    def active(self) -> Iterator["Surrogate"]:
        """Inside, the adapter is in the backbone; afterwards the backbone is as it was."""
        with contextlib.ExitStack() as stack:
            if self.adapter is not None:
                stack.enter_context(injected(self.backbone, self.adapter))
                if isinstance(self.adapter, FullAdapter):
                    stack.enter_context(self.adapter.base_parked())
                self._prepare()
            try:
                yield self
            finally:
                self._fit = self._prior = self._clean = self._before = None
                self._conditioning = self._captions = None

    def conditioning(self, rows: Sequence[int]) -> Conditioning:
        """Of the prompts with these numbers, without gradient; computed once, or once per phase where the text encoder
        trains."""
        if self._conditioning is None:
            with torch.no_grad():
                self._conditioning = self.backbone.encode_prompt(self.prompts)
        return self._conditioning[list(rows)]

    def before_round(self, number: int, clean: Pictures) -> None:
        """Train as the method does before the photos move.

        Args:
            number: of the round, from 0.
            clean: views, the same in every round (they are encoded once).
        """
        if self.training is None:
            return
        if self._clean is None:
            self._clean = Latents(self.backbone, clean)
        if number == 0 and self.training.first_steps:
            self._train_first(self._clean)
        if self._pool and number % self.training.turn == 0:
            self._restore(self._pool[number // self.training.turn % len(self._pool)])
        if self.training.clean_steps:
            self._before = Parked(self._lasting())
            self._train(self._clean, self.training.clean_steps)

    def _train_first(self, clean: Latents) -> None:
        """All steps at once, or in parts with a state of the pool stored before each and after the last."""
        assert self.training is not None
        parts = self.training.pool - 1
        if not parts:
            self._train(clean, self.training.first_steps)
            return
        self._pool = [self._snapshot()]
        for part in range(1, parts + 1):
            done = round(self.training.first_steps * (part - 1) / parts)
            self._train(clean, round(self.training.first_steps * part / parts) - done)
            self._pool.append(self._snapshot())

    def after_round(self, protected: Pictures) -> None:
        """Forget the clean steps and train on what the photos are now; of the views `protected` only those that are
        drawn are looked at."""
        if self.training is None:
            return
        if self._before is not None:
            self._restore(self._before.tensors())
            self._before = None
        if self.training.protected_steps:
            self._train(Latents(self.backbone, protected), self.training.protected_steps)

    def rehearse(self, views: Tensor) -> None:
        """One training step on views `n 3 h w`, to see what it costs; the surrogate is no longer a fresh one then."""
        self._train(Latents(self.backbone, views), 1)

    def state(self) -> dict[str, Tensor]:
        """Weights and averages between rounds, and those of the pool, copied to the CPU."""
        if self._fit is None:
            return {}
        states = {"": self._snapshot()} | {f"pool/{index}/": state for index, state in enumerate(self._pool)}
        return {prefix + key: value.detach().cpu() for prefix, state in states.items() for key, value in state.items()}

    def load_state(self, state: dict[str, Tensor], trained_steps: int) -> None:
        """Go on from `state`; inside `active`."""
        self.trained_steps = trained_steps
        if self._fit is None:
            return
        self._pool = [
            {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            for prefix in (f"pool/{index}/" for index in range(self.training.pool if self.training else 0))
            if any(key.startswith(prefix) for key in state)
        ]
        self._restore({key: value for key, value in state.items() if not key.startswith("pool/")})

    @property
    def _text_trains(self) -> bool:
        return self.adapter is not None and any(name != "denoiser" for name in self.adapter.parameters())

    def _prepare(self) -> None:
        assert self.training is not None
        assert self.adapter is not None
        for parameter in (p for group in self.adapter.parameters().values() for p in group):
            parameter.requires_grad_(False)
        groups = [
            ParameterGroup(
                name=name,
                parameters=tuple(parameters),
                learning_rate=self.training.learning_rate,
                weight_decay=self.training.weight_decay,
            )
            for name, parameters in self.adapter.parameters().items()
        ]
        fit = FitConfig(
            steps=10**9,
            seed=self.seed,
            max_gradient_norm=self.training.max_gradient_norm,
            autocast=AUTOCAST[self.backbone.dtype],
        )
        whole = isinstance(self.adapter, FullAdapter) and fit.max_gradient_norm is None and fit.autocast != "fp16"
        self._fit = Fit(self._loss, groups, fit, in_backward=whole)
        with torch.no_grad():
            self._round(0)
        if self._class_images is not None and self.training.prior_loss_weight > 0:
            self._prior = Latents(self.backbone, self._class_images.images)

    def _conditions(self, captions: Sequence[str]) -> Conditioning:
        """Of a training step's captions, which are the same in every step: encoded once, unless the text encoder
        trains."""
        if self._text_trains:
            return self.backbone.encode_prompt(captions)
        if self._captions is None:
            with torch.no_grad():
                self._captions = self.backbone.encode_prompt(captions)
        return self._captions

    def _forget_prompts(self) -> None:
        if self._text_trains:
            self._conditioning = None

    def _train(self, data: Latents, steps: int) -> None:
        assert self._fit is not None
        assert self.training is not None
        self._data = data
        if not self.training.carry_moments:
            self._fit.optimizer.state.clear()
        with only_trainable(self._fit.groups), torch.enable_grad():
            for self._step in range(steps):
                self._fit.advance([self._round])
                self.trained_steps += 1
        if not self.training.carry_moments:
            self._fit.optimizer.state.clear()
        self._forget_prompts()

    def _loss(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Loss of one photo and one class image. Draws, in this order: index, posterior noise, prior's, noise, t."""
        assert self.training is not None
        generator = generator_for(self.seed, "surrogate", self.name, self.trained_steps)
        first = self.training.order == "first"
        parts, captions = [], [self.prompts[0]]
        for data in (self._data, self._prior):
            if data is not None:
                index = self._step % len(data) if first else int(torch.randint(len(data), (), generator=generator))
                parts.append(data.draw(index, generator))
        if self._prior is not None and self._class_images is not None:
            captions.append(self._class_images.prompt)
        conditioning = self._conditions(captions)
        prior = None if self._prior is None else torch.tensor([False, True])
        # The objective reads latents; the pictures behind them may not even be made.
        batch = Batch(images=torch.empty(len(captions), 3, 0, 0), captions=tuple(captions), is_prior=prior)
        objective = DenoisingObjective(ObjectiveConfig(prior_loss_weight=self.training.prior_loss_weight))
        return objective(self.backbone, batch, torch.cat(parts), conditioning, generator)

    def _round(self, step: int) -> None:
        """What is left of weights and averages in the precision the method keeps them in."""
        assert self._fit is not None
        if self.training is None or self.training.rounding == "none":
            return
        for parameter in self._fit.parameters:
            parameter.copy_(parameter.bfloat16())
            for key, value in self._fit.optimizer.state.get(parameter, {}).items():
                if key != "step":
                    value.copy_(value.bfloat16())

    def _lasting(self) -> dict[str, Tensor]:
        """What a call of training leaves to the next one: the weights and, if they are carried on, AdamW's averages."""
        assert self._fit is not None
        return self._fit.tensors()

    def _snapshot(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self._lasting().items()}

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        assert self._fit is not None
        state: dict[str, Any] = {"skipped_in_a_row": 0}
        self._fit.restore(Checkpoint(step=self._fit.step, tensors=tensors, state=state))
        self._forget_prompts()
