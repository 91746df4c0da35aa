"""Lengths of learned words that stay as they are during a part of training (CoRe, arXiv 2408.15914, equation 6)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pcs_ext.errors import ConfigError
from pcs_ext.image.recipes.base import Phase
from pcs_ext.image.types import ParameterGroup


def kept_norms(phase: Phase, groups: Sequence[ParameterGroup]) -> "dict[str, TokenNorms]":
    """The hook a phase asks for, by the name it has in checkpoints; empty: it asks for none.

    Raises:
        ConfigError: it asks for one, but no word trains.
    """
    if phase.keep_norms is None:
        return {}
    first, last = (round(part * phase.fit.steps) for part in phase.keep_norms)
    return {"token_norms": TokenNorms(groups, first, last)}


class TokenNorms:
    """After each step of an interval every learned row gets back the length it had before the step.

    A hook of `fit`, and a part of its state.

    Args:
        groups: of the run; rows are the parameters of those named `.../embedding`.
        first, last: steps; of those after `first`, up to `last`.

    Raises:
        ConfigError: no word trains.
    """

    def __init__(self, groups: Sequence[ParameterGroup], first: int, last: int) -> None:
        words = [group for group in groups if group.name.endswith("/embedding")]
        self.rows = [parameter for group in words for parameter in group.parameters]
        if not self.rows:
            raise ConfigError("keep_norms is about learned words, but no word trains in this phase; set it to null.")
        self.first, self.last = first, last
        self.norms = self._norms()

    @torch.no_grad()
    def __call__(self, done: int) -> None:
        """After step `done`."""
        if self.first < done <= self.last:
            for rows, norms in zip(self.rows, self.norms, strict=True):
                rows.mul_(norms / rows.norm(dim=-1, keepdim=True).clamp_min(1e-12))
        else:
            self.norms = self._norms()

    def _norms(self) -> list[Tensor]:
        return [rows.detach().norm(dim=-1, keepdim=True) for rows in self.rows]

    def state_dict(self) -> dict[str, Any]:
        """The lengths to be kept."""
        return {f"norms_{index}": norms for index, norms in enumerate(self.norms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.norms = [state[f"norms_{index}"].to(rows.device) for index, rows in enumerate(self.rows)]
