"""What attention programs are made of: capture, replace and blend, in chosen layers, over a part of the steps."""

import contextlib
import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.attention import AttentionProgram, Place, attention_program, token_grid
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.sample import Predict
from pcs_ext.image.types import Conditioning


class Capture:
    """A program that keeps what it sees of some rows of the batch, by module path, the latest call last.

    Args:
        rows: of the batch; None keeps all.
        detach: keep values only, no graph.
    """

    def __init__(self, rows: Sequence[int] | None = None, *, detach: bool = True) -> None:
        self.rows, self.detach = rows, detach
        self.seen: dict[str, Tensor] = {}

    def __call__(self, path: str, tensor: Tensor) -> Tensor:
        kept = tensor if self.rows is None else tensor[list(self.rows)]
        self.seen[path] = kept.detach() if self.detach else kept
        return tensor


class Blend:
    """A program that brings rows of the batch (or captured ones) into other rows: `lerp(target, source, weight)`.

    Weight 1 replaces, weight 0 leaves the target's bits alone.

    Args:
        sources: row of the batch for every target; with `captured`, row of what was captured.
        targets: rows that change.
        weight: one number, or a picture `1 1 h w` in [0, 1] of latent size, brought to each layer's cells by area.
        captured: take the sources from there, path by path.
    """

    def __init__(
        self,
        sources: Sequence[int],
        targets: Sequence[int],
        *,
        weight: float | Tensor = 1.0,
        captured: Capture | None = None,
    ) -> None:
        assert len(sources) == len(targets), f"{len(sources)} sources for {len(targets)} targets"
        self.sources, self.targets, self.weight, self.captured = list(sources), list(targets), weight, captured

    def __call__(self, path: str, tensor: Tensor) -> Tensor:
        origin = tensor if self.captured is None else self.captured.seen[path]
        return with_rows(tensor, self.targets, self._mixed(tensor[self.targets], origin[self.sources]))

    def _mixed(self, target: Tensor, source: Tensor) -> Tensor:
        if isinstance(self.weight, Tensor):
            return torch.lerp(target, source, on_cells(self.weight, target.shape[-2]).to(target))
        return torch.lerp(target, source, self.weight)


def with_rows(tensor: Tensor, rows: Sequence[int], values: Tensor) -> Tensor:
    """A copy of `tensor` with other values in some rows of its batch. Differentiable."""
    return tensor.index_copy(0, torch.tensor(list(rows), device=tensor.device), values.to(tensor.dtype))


def on_cells(picture: Tensor, queries: int) -> Tensor:
    """A picture `1 1 h w` of latent size as weights `queries 1` of a layer's cells, averaged by area."""
    rows, columns = picture.shape[-2:]
    grid = token_grid(queries, (rows, columns))
    return F.interpolate(picture.float(), size=grid, mode="area").flatten()[:, None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionEdit:
    """A program, where it acts, and when."""

    program: AttentionProgram
    paths: tuple[str, ...]
    """Attention modules of the denoiser."""
    at: Place = "probabilities"
    first: float = 0.0
    """Share of the sampling at which it sets in: 0 is pure noise, 1 the finished picture."""
    last: float = 1.0
    """Share at which it ends (exclusive)."""

    def is_active(self, progress: float) -> bool:
        """Whether it acts at this share of the sampling."""
        return self.first <= progress < self.last


def progress_at(backbone: AbstractBackbone, timestep: float | Tensor) -> float:
    """Share of the noise schedule that lies behind a sampler at a timestep, in [0, 1): 0 at the noisiest."""
    count = backbone.schedule.num_train_timesteps
    # One division of whole numbers: 1 - 680 / 1000 is less than 0.32, and shares are compared with steps.
    return (count - 1 - float(timestep)) / count


def edited(backbone: AbstractBackbone, edits: Sequence[AttentionEdit]):
    """A `SampleHooks.predict` in which each edit acts over its share of the steps.

    Where no edit is active the denoiser runs as it is, fused kernels and all: an edit of no duration changes no bit.
    """

    def wrap(predict: Predict) -> Predict:
        def edited_predict(latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            progress = progress_at(backbone, timesteps.flatten()[0])
            with contextlib.ExitStack() as stack:
                for edit in edits:
                    if edit.is_active(progress):
                        stack.enter_context(attention_program(backbone, edit.program, edit.paths, at=edit.at))
                return predict(latents, timesteps, conditioning)

        return edited_predict

    return wrap


def branch_rows(branch: int, branches: int, *, guided: bool) -> list[int]:
    """Rows of a branch in the denoiser's batch: under guidance `[negative, positive]`, else one."""
    return [branch, branches + branch] if guided else [branch]
