"""A photo's latents on their way to the denoiser, beside the prompts."""

import dataclasses

import torch
from torch import Tensor

from pcs_ext.image.types import Conditioning
from pcs_ext.video.reference.base import ShownWithLatents


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoRows:
    """The first photo of each row of a batch."""

    photo: Tensor
    """Clean latents, `b c h w`."""
    noise: Tensor
    """Of unit deviation, likewise."""
    counted: Tensor
    """How strongly each counts, `b`; 0: the row has none."""

    def beside(self, told: Conditioning, name: str) -> Conditioning:
        """Conditioning that carries them as what the adapter of that name reads."""
        both = torch.cat([self.photo, self.noise], dim=1).flatten(2)
        counted = self.counted.to(both)[:, None, None].expand(-1, 1, both.shape[2])
        read = torch.cat([both, counted], dim=1).to(told.states.device)
        return dataclasses.replace(told, shown={**(told.shown or {}), name: read})

    @classmethod
    def of(cls, shown: object, counted: Tensor) -> "PhotoRows":
        """What is shown."""
        assert isinstance(shown, ShownWithLatents), "the photo is read as the clip model draws it"
        return cls(photo=shown.latents[:, 0], noise=shown.noise, counted=counted)

    @classmethod
    def read(cls, conditioning: Conditioning, name: str, noisy: Tensor) -> "PhotoRows | None":
        """A row for each clip of `b c f h w`, or picture of `b c h w`; None where no row was shown any.

        Where every frame has conditioning of its own, a clip takes its first frame's.
        """
        carried = (conditioning.shown or {}).get(name)
        if carried is None:
            return None
        carried = carried[:: conditioning.batch_size // len(noisy)]
        channels = carried.shape[1] // 2
        photo, noise = (
            part.unflatten(2, noisy.shape[-2:]).float() for part in (carried[:, :channels], carried[:, channels:-1])
        )
        return cls(photo=photo, noise=noise, counted=carried[:, -1, 0])
