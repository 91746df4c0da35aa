"""One optimisation without gradients in progress: the loss is asked for its value alone."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pcs_ext.errors import CheckpointError, ConfigError
from pcs_ext.image.checkpoint import Checkpoint
from pcs_ext.image.evolution import CmaEs
from pcs_ext.image.fit_config import FitConfig
from pcs_ext.image.fit_run import AUTOCAST, AbstractRun, Loss, mean_terms
from pcs_ext.image.types import ParameterGroup
from pcs_ext.runtime import generator_for, global_randomness


class EvolutionRun(AbstractRun):
    """A step is a generation: candidates are drawn around the parameters, the better ones move them.

    A group's learning rate is the standard deviation its numbers are first drawn with. All candidates of a generation
    meet the same batches and the same noise. The parameters hold the mean of the candidates to come, never one of them;
    the logged losses are means over a generation's candidates.

    Args:
        loss: see `fit`; no gradient is recorded.
        groups: what is searched, in float32.
        config: `population` counts; schedules and decay do not go with it.

    Raises:
        ConfigError: too many numbers, or settings that need gradients.
    """

    def __init__(self, loss: Loss, groups: Sequence[ParameterGroup], config: FitConfig) -> None:
        super().__init__(loss, groups, config)
        if config.lr_schedule != "constant" or config.warmup_steps or any(group.weight_decay for group in groups):
            raise ConfigError(
                "cma_es adapts its step size itself and decays nothing; set lr_schedule to constant, warmup_steps and "
                "weight_decay to 0."
            )
        self.search = CmaEs(sum(parameter.numel() for parameter in self.parameters), config.population)
        self.widths = torch.cat(
            [torch.full((p.numel(),), g.learning_rate, dtype=torch.float64) for g in groups for p in g.parameters]
        )
        self._found: tuple[Tensor, Tensor, Tensor] | None = None

    @torch.no_grad()
    def _measure(self, factor: float) -> tuple[dict[str, Tensor], Tensor]:
        mean = self._mean()
        candidates = self.search.draw(mean, generator_for(self.config.seed, "evolution", self.step))
        seen: list[dict[str, Tensor]] = []
        try:
            for candidate in candidates:
                self._put(candidate)
                seen.append(self._losses())
        finally:
            self._put(mean)
        totals = torch.stack([losses["total"] for losses in seen]).double().cpu()
        self._found = mean, candidates, totals.nan_to_num(nan=torch.inf, posinf=torch.inf)
        finite = [losses for losses, total in zip(seen, totals, strict=True) if torch.isfinite(total)] or seen
        means = {name: torch.stack([losses[name] for losses in finite]).mean() for name in finite[0]}
        return means, self.search.sigma.to(self.device)

    def _losses(self) -> dict[str, Tensor]:
        """Mean terms over the step's micro-batches, `total` last."""
        passes = []
        for micro_step in range(self.config.gradient_accumulation):
            generator = generator_for(self.config.seed, "fit", self.step, micro_step)
            with (
                global_randomness(self.device, self.config.seed, "fit-dropout", self.step, micro_step),
                torch.autocast(
                    self.device.type, AUTOCAST[self.config.autocast], enabled=self.config.autocast != "none"
                ),
            ):
                passes.append(self.loss(self.step, micro_step, generator))
        return mean_terms(passes, self.device)

    def _apply(self, applied: Tensor) -> None:
        """The generation's move where `applied` is 1, nothing where it is 0."""
        assert self._found is not None
        if bool(applied):
            self._put(self.search.move(*self._found))

    def _mean(self) -> Tensor:
        return torch.cat([parameter.detach().flatten().cpu().double() for parameter in self.parameters]) / self.widths

    @torch.no_grad()
    def _put(self, values: Tensor) -> None:
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, part in zip(self.parameters, (values * self.widths).split(sizes), strict=True):
            parameter.copy_(part.reshape(parameter.shape))

    def _own_tensors(self) -> dict[str, Tensor]:
        return {f"evolution/{name}": tensor for name, tensor in self.search.tensors().items()}

    def _restore_own(self, checkpoint: Checkpoint) -> None:
        stored: Mapping[str, Tensor] = checkpoint.part("evolution")
        ours = {name: tuple(tensor.shape) for name, tensor in self.search.tensors().items()}
        if ours != {name: tuple(tensor.shape) for name, tensor in stored.items()}:
            raise CheckpointError(
                "the checkpoint holds no evolution strategy of this size. Run with the settings it was made with, or "
                "move the folder away to start over."
            )
        self.search.restore(stored)
