"""Where in the picture each of several subjects shall be, read by a branch beside the denoiser.

The branch is a ControlNet (Zhang et al. 2023, arXiv 2302.05543) over a segmentation map with a channel for every
subject, as it is learned together with the subjects (Matsuda et al., ICASSP 2024).
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.batch_reader import AbstractBatchReader
from pcs_ext.image.adapters.layers import check_name, check_state, copy_into, to_storage
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import recomputing_inside
from pcs_ext.image.control_branch import ControlBranch, added_of, controlled
from pcs_ext.image.predict_programs import Predict, add_prediction, remove_prediction
from pcs_ext.image.types import Batch, Conditioning


@config
class GuideConfig:
    """A ControlNet over segmentation maps."""

    kind: Literal["guide"] = "guide"
    """Tag of this adapter in JSON."""
    regions: tuple[str, ...]
    """The subjects' words, in the order of the map's channels."""
    init_seed: int = 0
    """Seed of what reads the maps; all else is copied from the denoiser or starts at zero."""

    def __post_init__(self) -> None:
        if not self.regions or len(set(self.regions)) < len(self.regions):
            raise ConfigError(f"a guide has a region for each of different words, got {list(self.regions)}.")


class GuideAdapter(AbstractBatchReader):
    """The branch; state: `branch.<tensor>`. Rows without a map are answered by the denoiser alone.

    It copies the denoiser when it is first injected: adapters that put layers there come after it.
    """

    def __init__(self, name: str, config: GuideConfig) -> None:
        self.name = check_name(name)
        self.config = config
        self._branch: ControlBranch | None = None
        self._pending: dict[str, Tensor] | None = None
        self._backbone: AbstractBackbone | None = None
        self._maps: Tensor | None = None
        self._scale = 1.0

    def inject(self, backbone: AbstractBackbone) -> None:
        """Stand around `predict`.

        Raises:
            ArtifactError: loaded tensors do not fit this backbone, or its cells are larger than a ControlNet reads.
        """
        assert self._backbone is None, f"adapter {self.name!r} is injected already"
        if self._branch is None:
            self._branch = self._built(backbone)
            if self._pending is not None:
                _load(self.name, self._branch, self._pending)
            self._branch.requires_grad_(False)
            self._pending = None
        self._branch.to(backbone.device)
        self._backbone = backbone
        add_prediction(backbone, f"guide_{self.name}", self._answered)

    def _built(self, backbone: AbstractBackbone) -> ControlBranch:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.init_seed)
            return ControlBranch(backbone, len(self.config.regions))

    def eject(self) -> None:
        assert self._backbone is not None, f"adapter {self.name!r} is not injected"
        remove_prediction(self._backbone, f"guide_{self.name}")
        self._backbone = None

    @contextlib.contextmanager
    def guiding(self, maps: Tensor) -> Iterator[None]:
        """Inside, rows are led by these maps, `b k h w` in [0, 1], or all by one, `1 k h w`; all zeros lead nowhere.

        Args:
            maps: a channel for each of the configuration's regions; of any size, it is brought to the picture's.
        """
        expected = len(self.config.regions)
        assert maps.shape[1] == expected, f"a map has {expected} channels here, got {maps.shape[1]}"
        before, self._maps = self._maps, maps
        try:
            yield
        finally:
            self._maps = before

    def reading(
        self, batch: Batch, latents: Tensor, generator: torch.Generator
    ) -> contextlib.AbstractContextManager[None]:
        """See `AbstractBatchReader.reading`: the batch's `guides`."""
        return contextlib.nullcontext() if batch.guides is None else self.guiding(batch.guides)

    def _answered(
        self, predict: Predict, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning
    ) -> Tensor:
        noisy = noisy_latents
        if self._maps is None or self._scale == 0 or not self._maps.any():
            return predict(noisy, timesteps, conditioning)
        assert self._branch is not None
        assert self._backbone is not None
        maps = self._maps.to(noisy.device).expand(len(noisy), -1, -1, -1)
        side = [size * self._backbone.vae_factor for size in noisy.shape[-2:]]
        hints = F.interpolate(maps.float(), size=side, mode="area")
        strength = self._scale * maps.flatten(1).any(1).float()
        added = self._branch(noisy, timesteps, conditioning.states, hints, added_of(conditioning, noisy))
        residuals = added.rows(strength)
        denoiser = self._backbone.denoiser
        inside = lambda: controlled(denoiser, residuals)  # noqa: E731
        with recomputing_inside(denoiser, inside), inside():
            return predict(noisy, timesteps, conditioning)

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        assert self._branch is not None, f"adapter {self.name!r} has no parameters before it is injected"
        return {"denoiser": tuple(_tensors(self._branch).values())}

    def state_dict(self) -> dict[str, Tensor]:
        if self._branch is None:
            return dict(self._pending or {})
        return {key: to_storage(tensor) for key, tensor in _tensors(self._branch).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if self._branch is None:
            self._pending = {key: to_storage(tensor) for key, tensor in state.items()}
        else:
            _load(self.name, self._branch, state)

    def set_scale(self, scale: float) -> None:
        self._scale = scale


def _tensors(branch: nn.Module) -> dict[str, nn.Parameter]:
    return {f"branch.{name.removeprefix('net.')}": value for name, value in branch.named_parameters()}


def _load(name: str, branch: nn.Module, state: Mapping[str, Tensor]) -> None:
    check_state(name, _tensors(branch), state)
    copy_into(_tensors(branch), state)
