"""Anything that trains, taught by a guidance: the core's `fit` with what the guidance needs in place."""

from collections.abc import Iterator, Mapping, Sequence

from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import FitConfig, Loss, Stateful, fit
from pcs_ext.image.types import FitState, ParameterGroup
from pcs_ext.reporter import Reporter
from pcs_ext.threed.guidance import AbstractGuidance


def taught(
    loss: Loss,
    groups: Sequence[ParameterGroup],
    guidance: AbstractGuidance,
    settings: FitConfig,
    *,
    extra_state: Mapping[str, Stateful] | None = None,
    checkpoints: CheckpointFolder | None = None,
    reporter: Reporter | None = None,
) -> Iterator[FitState]:
    """`fit` of the groups and of what the guidance trains itself; yields after every step.

    Raises:
        DivergedError, CheckpointError, Interrupted: as `fit`.
    """
    with guidance.applied():
        yield from fit(
            loss,
            [*groups, *guidance.groups()],
            settings,
            checkpoints=checkpoints,
            extra_state=extra_state,
            reporter=reporter,
        )
