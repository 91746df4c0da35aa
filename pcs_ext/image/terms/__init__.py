"""Terms that recipes add to the denoising loss, one file each."""

from typing import Annotated, TypeAlias

from pydantic import Discriminator

from pcs_ext.image.terms.anchor import AnchorConfig, AnchorTerm
from pcs_ext.image.terms.apart import ApartConfig, ApartTerm
from pcs_ext.image.terms.attention import AttentionConfig, AttentionTerm
from pcs_ext.image.terms.base import AbstractTerm, Noised, Step
from pcs_ext.image.terms.context import ContextConfig, ContextTerm
from pcs_ext.image.terms.decompose import DecomposeConfig, DecomposeTerm
from pcs_ext.image.terms.decouple import DecoupleConfig, DecoupleTerm
from pcs_ext.image.terms.disentangle import DisentangleConfig, DisentangleTerm
from pcs_ext.image.terms.diversity import DiversityConfig, DiversityTerm
from pcs_ext.image.terms.drift import DriftConfig, DriftTerm
from pcs_ext.image.terms.equilibrium import EquilibriumConfig, EquilibriumTerm
from pcs_ext.image.terms.invariance import InvarianceConfig, InvarianceTerm
from pcs_ext.image.terms.kurtosis import KurtosisConfig, KurtosisTerm
from pcs_ext.image.terms.pair import PairTerm, PairTermConfig
from pcs_ext.image.terms.preserve import PreserveConfig, PreserveTerm
from pcs_ext.image.terms.region import RegionConfig, RegionTerm
from pcs_ext.image.terms.rendering import RenderingConfig, RenderingTerm
from pcs_ext.image.terms.steering import SteeringConfig, SteeringTerm
from pcs_ext.image.terms.text_preserve import TextPreserveConfig, TextPreserveTerm
from pcs_ext.image.terms.tied_look import TiedLookConfig, TiedLookTerm

TermConfig: TypeAlias = Annotated[
    AnchorConfig
    | ApartConfig
    | AttentionConfig
    | ContextConfig
    | DecomposeConfig
    | DisentangleConfig
    | PreserveConfig
    | EquilibriumConfig
    | InvarianceConfig
    | DecoupleConfig
    | DiversityConfig
    | DriftConfig
    | KurtosisConfig
    | PairTermConfig
    | RegionConfig
    | RenderingConfig
    | SteeringConfig
    | TextPreserveConfig
    | TiedLookConfig,
    Discriminator("kind"),
]
"""Every term's configuration; the field `kind` says which one a JSON object is."""

_CLASSES = {
    AnchorConfig: AnchorTerm,
    ApartConfig: ApartTerm,
    AttentionConfig: AttentionTerm,
    ContextConfig: ContextTerm,
    DecomposeConfig: DecomposeTerm,
    DisentangleConfig: DisentangleTerm,
    PreserveConfig: PreserveTerm,
    EquilibriumConfig: EquilibriumTerm,
    InvarianceConfig: InvarianceTerm,
    DecoupleConfig: DecoupleTerm,
    DiversityConfig: DiversityTerm,
    DriftConfig: DriftTerm,
    KurtosisConfig: KurtosisTerm,
    PairTermConfig: PairTerm,
    RegionConfig: RegionTerm,
    RenderingConfig: RenderingTerm,
    SteeringConfig: SteeringTerm,
    TextPreserveConfig: TextPreserveTerm,
    TiedLookConfig: TiedLookTerm,
}


def build_term(config: TermConfig) -> AbstractTerm:
    """The term a configuration describes."""
    return _CLASSES[type(config)](config)  # type: ignore[arg-type]


__all__ = [
    "AbstractTerm",
    "AnchorConfig",
    "ApartConfig",
    "AttentionConfig",
    "ContextConfig",
    "DecomposeConfig",
    "DecoupleConfig",
    "DisentangleConfig",
    "DiversityConfig",
    "DriftConfig",
    "EquilibriumConfig",
    "InvarianceConfig",
    "KurtosisConfig",
    "Noised",
    "PairTermConfig",
    "PreserveConfig",
    "RegionConfig",
    "RenderingConfig",
    "SteeringConfig",
    "Step",
    "TermConfig",
    "TextPreserveConfig",
    "TiedLookConfig",
    "build_term",
]
