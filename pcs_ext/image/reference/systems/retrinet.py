"""RetriNet (Tang et al. 2023, arXiv 2312.02521): a second encoder fetches from pictures what a word asks for.

A copy of the denoiser's downward half reads every reference, with the concept's word as its text, at every timestep;
what it holds is read by layers in the denoiser's upward half that begin at nothing. References are never the picture
that is drawn, and what is around the concept is taken out of them, so that neither pose nor place leaks. Several
references may be asked for a concept each.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.attention import path_level, self_attention_paths
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import recomputing_inside
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import (
    AbstractReferenceAdapter,
    Reading,
    check_context,
    context_width,
    query_widths,
)
from pcs_ext.image.reference.gated import GatedPatches, gated
from pcs_ext.image.reference.inside import answering
from pcs_ext.image.reference.second_denoiser import LATENTS, ReferenceDenoiser, references_of, with_references
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning


@config
class RetriNetConfig:
    """A retrieval encoder, and layers that read it."""

    kind: Literal["retrinet"] = "retrinet"
    """Tag in JSON."""
    heads: int = 8
    """Of the reading layers' attention. Ours."""

    def __post_init__(self) -> None:
        if self.heads < 1:
            raise ConfigError(f"heads must be at least 1, got {self.heads}.")


class RetriNet(AbstractReferenceAdapter):
    """The retrieval encoder and the layers that read it; the base stays as it is.

    Differs from RetriNet in how what was fetched enters, which is by gated layers (GLIGEN's) here, their gates shut at
    first; and in that its pictures are of any albums with masks, not of anime figures with a face and clothes.

    Args:
        config: of the adapter.
        encoder: the copy.
        blocks: by path of a block of the upward half, its width and the path in the copy whose cells it reads.
        context: of text states.
        channels: of the latents.
    """

    sees: Sees = "latents"
    cuts = True
    asks_noun = True
    several = True
    enters = True

    def __init__(
        self,
        config: RetriNetConfig,
        encoder: ReferenceDenoiser,
        blocks: Mapping[str, tuple[int, str]],
        context: int,
        channels: int,
    ) -> None:
        super().__init__()
        self.context, self.width, self.encoder = context, channels, encoder
        self.names = {path: path.replace(".", "_") for path in blocks}
        self.read = {path: source for path, (_, source) in blocks.items()}
        self.gates = nn.ModuleDict(
            {self.names[path]: GatedPatches(width, config.heads) for path, (width, _) in blocks.items()}
        )

    @classmethod
    def untrained(cls, config: RetriNetConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "RetriNet":
        """The copy is the base's, and gates are shut."""
        paths = self_attention_paths(backbone)
        fetched = {path_level(backbone, path): path for path in paths if not path.startswith("up_blocks.")}
        blocks = {
            path.removesuffix(".attn2"): (width, fetched[path_level(backbone, path)])
            for path, width in query_widths(backbone).items()
            if path.startswith("up_blocks.") and path_level(backbone, path) in fetched
        }
        sources = [path for path in paths if path in {source for _, source in blocks.values()}]
        encoder = ReferenceDenoiser(backbone, sources)
        return cls(config, encoder, blocks, context_width(backbone), reading.width)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("retrinet", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. What several pictures hold stands side by side."""
        present = asked.present
        if not present.any():
            return asked.encoded()
        latents = asked.shown.to(next(self.parameters())).sight.object * present[..., None, None, None]
        concepts = asked.encoded([noun for own in asked.shown.nouns for noun in own])
        return with_references(asked.encoded(), latents, asked.scale * present.any(1), concepts)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: concepts are fetched whenever the denoiser is asked."""
        with super().inserted(backbone, scale), answering(backbone, LATENTS, self._answered(backbone)):
            yield

    def _answered(self, backbone: AbstractBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            given = references_of(conditioning, self.width)
            if given is None:
                return predict(noisy, timesteps, conditioning)
            at = timesteps.expand(len(noisy))[given.rows.to(timesteps.device)]
            cells = self.encoder.read(given, given.latents, at, len(noisy))
            gates = {path: self.gates[name] for path, name in self.names.items()}
            patches = {path: cells[source] for path, source in self.read.items()}
            within = lambda: gated(backbone.denoiser, gates, patches, given.counted)  # noqa: E731
            with recomputing_inside(backbone.denoiser, within), within():
                return predict(noisy, timesteps, conditioning)

        return answered
