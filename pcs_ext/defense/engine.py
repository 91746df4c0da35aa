"""The projected-gradient loop, and the rounds around it."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from pcs_ext.defense.ascent import Ascent
from pcs_ext.defense.canvas import Canvas, CanvasViews
from pcs_ext.defense.method import Defense, StepRule
from pcs_ext.defense.surrogate import Surrogate
from pcs_ext.defense.timing import search_timesteps
from pcs_ext.errors import DivergedError, UsageError
from pcs_ext.runtime import generator_for

_PIXELS_PER_PASS = 256 * 256
"""Of views in a backward pass, unless told otherwise."""
Gradient = Callable[[Sequence[Canvas], int], tuple[Sequence[Tensor], Tensor]]
"""(some photos, step) -> gradients shaped like their perturbations, and the photos' gains `n`."""


def projected_gradient(
    canvases: Sequence[Canvas], gradient: Gradient, rule: StepRule, steps: int, *, first: int = 0, batch: int = 1
) -> Iterator[Tensor]:
    """Climb: each photo moves along its gradient, then back into its budget. Yields the gains `n` of each step.

    Args:
        canvases: photos; their perturbations are changed in place.
        gradient: what to climb.
        rule: how far each step goes.
        steps: how many in all.
        first: where to go on.
        batch: photos per backward pass; the result does not depend on it, memory does.

    Raises:
        DivergedError: a gradient is not finite.
    """
    for step in range(first, steps):
        gains = []
        for photos in _batched(canvases, batch):
            gradients, gain = gradient(photos, step)
            for canvas, slope in zip(photos, gradients, strict=True):
                canvas.move(direction(slope, rule, rule.at(step, steps)))
            gains.append(gain)
        yield torch.cat(gains)


def direction(gradient: Tensor, rule: StepRule, size: float) -> Callable[[slice], Tensor]:
    """Rows of a photo -> the step there, `c rows w` in levels: the gradient's sign times `size`, or the gradient scaled
    to a root mean square of `size` over the whole photo.

    Raises:
        DivergedError: the gradient `c h w` is not finite.
    """
    length = float(torch.linalg.vector_norm(gradient)) / math.sqrt(gradient.numel())
    if not math.isfinite(length):
        raise DivergedError("a gradient of the photo is not finite; expected numbers. Use --precision fp32 or bf16.")
    if rule.direction == "sign":
        return lambda rows: size * gradient[:, rows].sign()
    return lambda rows: gradient[:, rows] * (size / max(length, 1e-20))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """What `Protection.run` yields after each gradient step."""

    step: int
    """Steps done, those before a resume included."""
    total: int
    gain: float
    """Of the objective, averaged over the photos."""
    resumable: bool
    """Whether `Protection.state` can be asked for now."""
    zeros: float = 0.0
    """`Ascent.zeros`, of the surrogate with most."""


class Protection:
    """Some photos under one method. Surrogates must be active.

    Args:
        canvases: the photos.
        surrogates: one, or several for an ensemble.
        method: what to do.
        seed: of everything random.
        reference: photos that surrogates train on as clean ones; None: the photos themselves.
        batch: photos per backward pass; 0: one for models of photos, more for small ones, where a pass costs more than
            what is in it.

    Raises:
        UsageError: the method needs an ensemble and there is one model, or the other way round.
    """

    def __init__(
        self,
        canvases: Sequence[Canvas],
        surrogates: Sequence[Surrogate],
        method: Defense,
        *,
        seed: int = 0,
        reference: Sequence[Canvas] | None = None,
        batch: int = 0,
    ) -> None:
        if method.ensemble != (len(surrogates) > 1):
            wanted = "several bases (--base A B)" if method.ensemble else "one base"
            raise UsageError(f"{method.id} works on {wanted}, got {len(surrogates)}.")
        self.canvases, self.surrogates, self.method, self.seed = list(canvases), list(surrogates), method, seed
        largest = max(surrogate.backbone.resolution for surrogate in surrogates)
        self.reference, self.batch = list(reference or canvases), batch or max(1, _PIXELS_PER_PASS // largest**2)
        self.round, self.step, self._gain = 0, 0, 0.0
        self.ascents = [Ascent(surrogate, method, seed) for surrogate in surrogates]
        for canvas in self.canvases:
            canvas.delta = torch.zeros(canvas.pixels.shape)
            if method.start == "random":
                start = _random_start(canvas, method, seed)
                canvas.move(lambda rows, start=start: start[:, rows])

    def run(self) -> Iterator[Progress]:
        """Do what is left; the photos' perturbations are the result.

        Raises:
            DivergedError: a gradient is not finite.
        """
        while self.round < self.method.rounds:
            starts = [canvas.delta for canvas in self.canvases]
            if len(self.ascents) > 1:
                starts = [start.clone() for start in starts]
            ends: list[list[Tensor]] = []
            for ascent in self.ascents:
                for canvas, start in zip(self.canvases, starts, strict=True):
                    canvas.delta = start if len(self.ascents) == 1 else start.clone()
                yield from self._climb(ascent)
                ends.append([canvas.delta for canvas in self.canvases])
            self._finish_round(ends)
            last = self.round == self.method.rounds
            if not last and self._only_between_rounds:
                yield self._progress(self._gain, resumable=True)

    def _climb(self, ascent: Ascent) -> Iterator[Progress]:
        if self.step == 0:
            ascent.surrogate.before_round(self.round, self._views(ascent, self.reference, protected=False))
            self._search(ascent)
        first, offset = self.step, self.round * self.method.steps
        loop = projected_gradient(
            self.canvases,
            lambda photos, step: ascent.gradient(photos, offset + step),
            self.method.rule,
            self.method.steps,
            first=first,
            batch=self.batch,
        )
        for gains in loop:
            self.step += 1
            self._gain = float(gains.mean())
            yield self._progress(self._gain, resumable=not self._only_between_rounds)
        self.step = 0

    def _finish_round(self, ends: Sequence[Sequence[Tensor]]) -> None:
        """Average the members' photos (E-ASPL averages pictures, not gradients) and let them train on the result."""
        for index, canvas in enumerate(self.canvases):
            canvas.delta = ends[0][index] if len(ends) == 1 else torch.stack([end[index] for end in ends]).mean(0)
            canvas.move(lambda rows: torch.zeros(()))
        self.round += 1
        for ascent in self.ascents:
            if ascent.surrogate.training is not None:
                ascent.surrogate.after_round(self._views(ascent, self.canvases, protected=True))

    def _search(self, ascent: Ascent) -> None:
        """SimAC: find each photo's timesteps once, on a copy of the photo, before the first round."""
        search = self.method.timing.search
        for canvas in self.canvases if search is not None and self.round == 0 else ():
            assert search is not None
            trial = Canvas(canvas.photo, canvas.budget)
            # Steps below 0 are the search's own. Each of its trials draws square and noise anew, the same for all of
            # its candidates; then the step draws: else all would be decided by one noise in one square.
            number = [-1]

            def probe(timestep: int, trial: Canvas = trial, number: list[int] = number) -> float:
                return float(ascent.gradient([trial], number[0], timestep)[0][0].abs().sum())

            def step(timestep: int, trial: Canvas = trial, number: list[int] = number) -> None:
                slope = ascent.gradient([trial], number[0] - 1, timestep)[0][0]
                trial.move(direction(slope, self.method.rule, self.method.rule.size))
                number[0] -= 2

            generator = generator_for(self.seed, "search", canvas.key)
            total = ascent.surrogate.backbone.schedule.num_train_timesteps
            ascent.timesteps.kept[canvas.key] = search_timesteps(search, total, probe, step, generator)

    def _views(self, ascent: Ascent, canvases: Sequence[Canvas], *, protected: bool) -> CanvasViews:
        """What a surrogate trains on."""
        return CanvasViews(canvases, self.method.views, ascent.surrogate.backbone.resolution, protected=protected)

    @property
    def _only_between_rounds(self) -> bool:
        """Surrogates that are in the middle of a round hold weights that are forgotten at its end: not worth saving."""
        training = self.method.training
        return self.method.ensemble or (training is not None and training.alternates)

    def _progress(self, gain: float, *, resumable: bool) -> Progress:
        done = self.round * self.method.steps + self.step
        zeros = max(ascent.zeros for ascent in self.ascents)
        return Progress(step=done, total=self.method.gradient_steps, gain=gain, resumable=resumable, zeros=zeros)

    def state(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Tensors and JSON-able values to go on from, at a moment when the last `Progress` was resumable."""
        tensors = {f"delta/{canvas.key}": canvas.delta for canvas in self.canvases}
        for ascent in self.ascents:
            tensors |= {f"kept/{ascent.surrogate.name}/{k}": v for k, v in ascent.timesteps.kept.items()}
            tensors |= {f"weights/{ascent.surrogate.name}/{k}": v for k, v in ascent.surrogate.state().items()}
        trained = [surrogate.trained_steps for surrogate in self.surrogates]
        return tensors, {"round": self.round, "step": self.step, "trained": trained}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, object]) -> None:
        """Go on from what `state` gave, for the same photos and method."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        self.round, self.step = int(str(values["round"])), int(str(values["step"]))
        deltas, trained = part("delta/"), values["trained"]
        assert isinstance(trained, list)
        for canvas in self.canvases:
            canvas.delta = deltas[canvas.key].clone()
        for ascent, steps in zip(self.ascents, trained, strict=True):
            ascent.timesteps.kept = part(f"kept/{ascent.surrogate.name}/")
            ascent.surrogate.load_state(part(f"weights/{ascent.surrogate.name}/"), steps)


def _random_start(canvas: Canvas, method: Defense, seed: int) -> Tensor:
    generator = generator_for(seed, "start", canvas.key)
    return method.budget.levels * (2 * torch.rand(canvas.pixels.shape, generator=generator) - 1)


def _batched(items: Sequence[Canvas], size: int) -> Iterator[Sequence[Canvas]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
