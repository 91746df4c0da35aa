"""BootPIG (Purushwalkam et al. 2024, arXiv 2401.13974): a second denoiser reads the picture, the first one looks over.

A copy of the denoiser is given the latents of the subject alone, as noisy as the picture that is being drawn. In every
self-attention cells attend, in one softmax, to themselves and to what the copy holds at the same place. The copy trains
as a whole, of the base the self-attentions.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import FullAdapter, FullConfig
from pcs_ext.image.attention import self_attention_paths
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading, check_context, context_width
from pcs_ext.image.reference.inside import answering
from pcs_ext.image.reference.own_maps import own_pairs
from pcs_ext.image.reference.second_denoiser import (
    LATENTS,
    ReferenceDenoiser,
    References,
    references_of,
    with_references,
)
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning, Decoupled


@config
class BootPIGConfig:
    """A reference denoiser."""

    kind: Literal["bootpig"] = "bootpig"
    """Tag in JSON."""
    weight: float = 1.0
    """How much a cell of the reference weighs beside one of the picture, in their softmax; 1 as the released code
    trains."""

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ConfigError(f"weight must be positive, got {self.weight}.")


class BootPIG(AbstractReferenceAdapter):
    """The reference denoiser, and the base's self-attentions.

    Differs from BootPIG in its data, which were pictures of a text-to-image model with subjects that another one cut
    out, and are the albums here; in that the noise of references depends on the timestep alone, not drawn anew, so that
    pictures can be drawn again; and in that several pictures share one softmax, each cell of theirs weighing so much
    less, where the released code averages what each finds, in use takes the largest.

    Args:
        config: of the adapter.
        reference: the copy.
        context: of text states.
        channels: of the latents.
    """

    sees: Sees = "latents"
    cuts = True
    asks_noun = True

    def __init__(self, config: BootPIGConfig, reference: ReferenceDenoiser, context: int, channels: int) -> None:
        super().__init__()
        self.config, self.context, self.width = config, context, channels
        self.reference = reference
        self.inside = (FullAdapter("reference", FullConfig(include=(r"\.attn1\.",))),)

    @classmethod
    def untrained(cls, config: BootPIGConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "BootPIG":
        """Both denoisers are the base's."""
        return cls(
            config, ReferenceDenoiser(backbone, self_attention_paths(backbone)), context_width(backbone), reading.width
        )

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("bootpig", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`.

        The text is the prompts' own; what is returned also holds the pictures' latents, read inside `inserted`.
        """
        named = asked.named
        if not any(named):
            return asked.encoded()
        latents = asked.shown.to(next(self.parameters())).sight.object
        counted = asked.scale * torch.tensor(named, device=latents.device)
        # What the reference shows in words, as the copy is told it.
        said = asked.encoded([f"a photo of the {own[0]}" for own in asked.shown.nouns for _ in own])
        return with_references(asked.encoded(), latents, counted, said)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: the copy reads references whenever the denoiser is asked."""
        with super().inserted(backbone, scale), answering(backbone, LATENTS, self._answered(backbone)):
            yield

    def _answered(self, backbone: AbstractBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            given = references_of(conditioning, self.width)
            if given is None:
                return predict(noisy, timesteps, conditioning)
            source = self._looked(backbone, given, timesteps.expand(len(noisy)))
            return predict(noisy, timesteps, conditioning.beside(source))

        return answered

    def _looked(self, backbone: AbstractBackbone, given: References, timesteps: Tensor) -> Decoupled:
        """Keys and values of what the copy holds, for every self-attention of the denoiser."""
        # Euler visits fractional timesteps; noise is added at whole ones.
        clean, at = given.latents, timesteps[given.rows.to(timesteps.device)].round().long()
        count = clean.shape[1]
        noise = torch.stack([timestep_noise(int(time), clean.shape[2:]) for time in at.tolist()])[:, None]
        times = at.repeat_interleave(count)
        dirty = backbone.schedule.add_noise(clean.flatten(0, 1), noise.to(clean).expand_as(clean).flatten(0, 1), times)
        cells = self.reference.read(given, dirty.unflatten(0, (-1, count)), at, len(timesteps))
        return Decoupled(pairs=own_pairs(backbone, cells), joint=self.config.weight * given.counted / count)


def timestep_noise(timestep: int, shape: tuple[int, ...]) -> Tensor:
    """Unit normal numbers that belong to a timestep."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(timestep))
