"""Weight adapters of few numbers, through peft: LoRA, DoRA, LoHa, LoKr, OFT."""

from collections.abc import Mapping

from torch import nn

from pcs_ext.image.adapters.layer_adapter import Found, LayerAdapter, pick_components
from pcs_ext.image.adapters.low_rank_config import LowRankConfig
from pcs_ext.image.adapters.low_rank_layers import LowRankLayer, build_layers
from pcs_ext.image.adapters.targets import matching_layers
from pcs_ext.image.backbone import AbstractBackbone


class LowRankAdapter(LayerAdapter[LowRankLayer]):
    """peft's layers in front of the targets.

    Each layer is built alone by peft around the original module and then chained by this class: peft's own injection
    into a whole model leaves traces (`peft_config`, gradient flags) and cannot stack different methods. At scale s a
    layer computes with W + s (W' - W), whatever the method. State: `<component>.<module path>.<peft's tensor name>`,
    float32: `denoiser.mid_block...to_q.lora_A.weight`.
    """

    def __init__(self, name: str, config: LowRankConfig) -> None:
        super().__init__(name)
        self.config = config

    def _find(self, backbone: AbstractBackbone) -> Found:
        modules = pick_components(backbone, self.config.components)
        return {name: matching_layers(name, module, self.config.targets) for name, module in modules.items()}

    def _make(self, bases: Mapping[str, nn.Module]) -> dict[str, LowRankLayer]:
        layers = {path: base for path, base in bases.items() if isinstance(base, (nn.Linear, nn.Conv2d))}
        return build_layers(self.config, layers)
