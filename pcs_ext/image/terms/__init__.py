"""Terms that recipes add to the denoising loss, one file each."""

from typing import Annotated, TypeAlias

from pydantic import Discriminator

from pcs_ext.image.terms.anchor import AnchorConfig, AnchorTerm
from pcs_ext.image.terms.attention import AttentionConfig, AttentionTerm
from pcs_ext.image.terms.base import AbstractTerm, Noised, Step
from pcs_ext.image.terms.context import ContextConfig, ContextTerm
from pcs_ext.image.terms.decompose import DecomposeConfig, DecomposeTerm
from pcs_ext.image.terms.disentangle import DisentangleConfig, DisentangleTerm
from pcs_ext.image.terms.diversity import DiversityConfig, DiversityTerm
from pcs_ext.image.terms.region import RegionConfig, RegionTerm
from pcs_ext.image.terms.steering import SteeringConfig, SteeringTerm
from pcs_ext.image.terms.text_preserve import TextPreserveConfig, TextPreserveTerm

TermConfig: TypeAlias = Annotated[
    AnchorConfig
    | AttentionConfig
    | ContextConfig
    | DecomposeConfig
    | DisentangleConfig
    | DiversityConfig
    | RegionConfig
    | SteeringConfig
    | TextPreserveConfig,
    Discriminator("kind"),
]
"""Every term's configuration; the field `kind` says which one a JSON object is."""

_CLASSES = {
    AnchorConfig: AnchorTerm,
    AttentionConfig: AttentionTerm,
    ContextConfig: ContextTerm,
    DecomposeConfig: DecomposeTerm,
    DisentangleConfig: DisentangleTerm,
    DiversityConfig: DiversityTerm,
    RegionConfig: RegionTerm,
    SteeringConfig: SteeringTerm,
    TextPreserveConfig: TextPreserveTerm,
}


def build_term(config: TermConfig) -> AbstractTerm:
    """The term a configuration describes."""
    return _CLASSES[type(config)](config)  # type: ignore[arg-type]


__all__ = [
    "AbstractTerm",
    "AnchorConfig",
    "AttentionConfig",
    "ContextConfig",
    "DecomposeConfig",
    "DisentangleConfig",
    "DiversityConfig",
    "Noised",
    "RegionConfig",
    "SteeringConfig",
    "Step",
    "TermConfig",
    "TextPreserveConfig",
    "build_term",
]
