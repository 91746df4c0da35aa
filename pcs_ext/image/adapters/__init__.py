"""What trains: learned tokens, low-rank weights, cross-attention projections, full weights, networks at modules."""

from typing import Annotated, TypeAlias

from pydantic import Discriminator

from pcs_ext.image.adapters.attributes import Attribute, AttributesAdapter, AttributesConfig
from pcs_ext.image.adapters.base import AbstractAdapter, injected
from pcs_ext.image.adapters.basis import BasisAdapter, BasisConfig
from pcs_ext.image.adapters.cross_attention import CrossAttentionAdapter, CrossAttentionConfig
from pcs_ext.image.adapters.distribution import DistributionAdapter, DistributionConfig
from pcs_ext.image.adapters.embedding import EmbeddingAdapter, EmbeddingConfig
from pcs_ext.image.adapters.feature_field import FeatureFieldAdapter, FeatureFieldConfig
from pcs_ext.image.adapters.frame_words import FrameWordAdapter, FrameWordConfig
from pcs_ext.image.adapters.full import FullAdapter, FullConfig
from pcs_ext.image.adapters.guide import GuideAdapter, GuideConfig
from pcs_ext.image.adapters.head_factors import HeadFactorsAdapter, HeadFactorsConfig
from pcs_ext.image.adapters.image_residual import ImageResidualAdapter, ImageResidualConfig
from pcs_ext.image.adapters.image_words import ImageWordsAdapter, ImageWordsConfig
from pcs_ext.image.adapters.lidb import LiDBAdapter, LiDBConfig
from pcs_ext.image.adapters.low_rank import LowRankAdapter
from pcs_ext.image.adapters.low_rank_config import LowRankConfig
from pcs_ext.image.adapters.mixture import MixtureAdapter, MixtureConfig
from pcs_ext.image.adapters.neti import NetiAdapter, NetiConfig
from pcs_ext.image.adapters.neurons import NeuronAdapter, NeuronsConfig
from pcs_ext.image.adapters.pair import PairAdapter, PairConfig
from pcs_ext.image.adapters.rank_one import RankOneAdapter, RankOneConfig
from pcs_ext.image.adapters.reference import ReferenceAdapter, ReferenceConfig
from pcs_ext.image.adapters.residual import ResidualAdapter, ResidualConfig
from pcs_ext.image.adapters.side_network import SideNetworkAdapter, SideNetworkConfig
from pcs_ext.image.adapters.spectral_shift import SpectralShiftAdapter, SpectralShiftConfig
from pcs_ext.image.adapters.spectrum import SpectrumAdapter, SpectrumConfig
from pcs_ext.image.adapters.stage_words import StageWordsAdapter, StageWordsConfig
from pcs_ext.image.adapters.stepwise import StepwiseAdapter, StepwiseConfig
from pcs_ext.image.adapters.tail import TailAdapter, TailConfig
from pcs_ext.image.adapters.text_prefix import TextPrefixAdapter, TextPrefixConfig
from pcs_ext.image.adapters.value_residual import ValueResidualAdapter, ValueResidualConfig

AdapterConfig: TypeAlias = Annotated[
    EmbeddingConfig
    | BasisConfig
    | MixtureConfig
    | AttributesConfig
    | FrameWordConfig
    | SpectrumConfig
    | NetiConfig
    | TailConfig
    | ResidualConfig
    | TextPrefixConfig
    | DistributionConfig
    | StageWordsConfig
    | StepwiseConfig
    | ImageWordsConfig
    | ImageResidualConfig
    | LowRankConfig
    | SpectralShiftConfig
    | RankOneConfig
    | CrossAttentionConfig
    | NeuronsConfig
    | HeadFactorsConfig
    | PairConfig
    | ReferenceConfig
    | ValueResidualConfig
    | SideNetworkConfig
    | LiDBConfig
    | GuideConfig
    | FeatureFieldConfig
    | FullConfig,
    Discriminator("kind"),
]
"""Every adapter's configuration; the field `kind` says which one a JSON object is."""

_CLASSES = {
    EmbeddingConfig: EmbeddingAdapter,
    BasisConfig: BasisAdapter,
    MixtureConfig: MixtureAdapter,
    AttributesConfig: AttributesAdapter,
    FrameWordConfig: FrameWordAdapter,
    SpectrumConfig: SpectrumAdapter,
    NetiConfig: NetiAdapter,
    TailConfig: TailAdapter,
    ResidualConfig: ResidualAdapter,
    TextPrefixConfig: TextPrefixAdapter,
    DistributionConfig: DistributionAdapter,
    StageWordsConfig: StageWordsAdapter,
    StepwiseConfig: StepwiseAdapter,
    ImageWordsConfig: ImageWordsAdapter,
    ImageResidualConfig: ImageResidualAdapter,
    LowRankConfig: LowRankAdapter,
    RankOneConfig: RankOneAdapter,
    SpectralShiftConfig: SpectralShiftAdapter,
    CrossAttentionConfig: CrossAttentionAdapter,
    NeuronsConfig: NeuronAdapter,
    HeadFactorsConfig: HeadFactorsAdapter,
    PairConfig: PairAdapter,
    ReferenceConfig: ReferenceAdapter,
    ValueResidualConfig: ValueResidualAdapter,
    FullConfig: FullAdapter,
    SideNetworkConfig: SideNetworkAdapter,
    LiDBConfig: LiDBAdapter,
    GuideConfig: GuideAdapter,
    FeatureFieldConfig: FeatureFieldAdapter,
}


PROMPT_ADAPTERS = (
    BasisConfig,
    MixtureConfig,
    FrameWordConfig,
    SpectrumConfig,
    NetiConfig,
    TailConfig,
    ResidualConfig,
    TextPrefixConfig,
    DistributionConfig,
    ImageWordsConfig,
    ValueResidualConfig,
    AttributesConfig,
)
"""Configurations of adapters that change what prompts say by more than rows of the token table."""


def build_adapter(name: str, config: AdapterConfig) -> AbstractAdapter:
    """The adapter a configuration describes, not yet injected.

    Raises:
        UsageError: the name holds anything but letters, digits and underscores.
    """
    return _CLASSES[type(config)](name, config)  # type: ignore[arg-type]


__all__ = [
    "PROMPT_ADAPTERS",
    "AbstractAdapter",
    "AdapterConfig",
    "Attribute",
    "AttributesAdapter",
    "AttributesConfig",
    "BasisAdapter",
    "BasisConfig",
    "CrossAttentionAdapter",
    "CrossAttentionConfig",
    "DistributionAdapter",
    "DistributionConfig",
    "EmbeddingAdapter",
    "EmbeddingConfig",
    "FeatureFieldAdapter",
    "FeatureFieldConfig",
    "FrameWordAdapter",
    "FrameWordConfig",
    "FullAdapter",
    "FullConfig",
    "GuideAdapter",
    "GuideConfig",
    "HeadFactorsAdapter",
    "HeadFactorsConfig",
    "ImageResidualAdapter",
    "ImageResidualConfig",
    "ImageWordsAdapter",
    "ImageWordsConfig",
    "LiDBAdapter",
    "LiDBConfig",
    "LowRankAdapter",
    "LowRankConfig",
    "MixtureAdapter",
    "MixtureConfig",
    "NetiAdapter",
    "NetiConfig",
    "NeuronAdapter",
    "NeuronsConfig",
    "PairAdapter",
    "PairConfig",
    "RankOneAdapter",
    "RankOneConfig",
    "ReferenceAdapter",
    "ReferenceConfig",
    "ResidualAdapter",
    "ResidualConfig",
    "SideNetworkAdapter",
    "SideNetworkConfig",
    "SpectralShiftAdapter",
    "SpectralShiftConfig",
    "SpectrumAdapter",
    "SpectrumConfig",
    "StageWordsAdapter",
    "StageWordsConfig",
    "StepwiseAdapter",
    "StepwiseConfig",
    "TailAdapter",
    "TailConfig",
    "TextPrefixAdapter",
    "TextPrefixConfig",
    "ValueResidualAdapter",
    "ValueResidualConfig",
    "build_adapter",
    "injected",
]
