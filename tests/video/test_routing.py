"""Which layers a kind names, on full-size configurations without their weights."""

import itertools
import re
from typing import Any, get_args

import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNet3DConditionModel
from torch import nn

from pcs_ext.video.backbone import LayerKind
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone, _places
from pcs_ext.video.backbones.modelscope import ModelScopeBackbone
from pcs_ext.video.recipes import LayersConfig

ATTENTION_OR_FF = re.compile(r"\.(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))$")


def full_size(family: str) -> dict[str, nn.Module]:
    """Components of Stable Diffusion 1.5 with AnimateDiff's second version, or of ModelScope, on the meta device."""
    with torch.device("meta"):
        if family == "modelscope":
            return {"denoiser": UNet3DConditionModel()}
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        return {"denoiser": unet, "motion": MotionAdapter(motion_max_seq_length=32)}


def named(family: str, components: dict[str, nn.Module], kind: Any) -> set[str]:
    cls: Any = {"animatediff": AnimateDiffBackbone, "modelscope": ModelScopeBackbone}[family]
    targets = cls.targets(None, kind)
    return {
        f"{targets.component}.{path}"
        for path, module in components[targets.component].named_modules()
        if isinstance(module, nn.Linear) and any(re.search(pattern, path) for pattern in targets.patterns)
    }


@pytest.mark.parametrize(
    ("family", "counts"),
    [
        # 16 transformers with 4 + 4 projections and 2 of the feed-forward; 21 motion modules with 10.
        ("animatediff", {"spatial": 96, "cross_attention": 64, "temporal": 210}),
        # The same 16, and 16 temporal ones and transformer_in.
        ("modelscope", {"spatial": 96, "cross_attention": 64, "temporal": 170}),
    ],
)
def test_kinds_share_no_layer_and_name_all(family: str, counts: dict[str, int]) -> None:
    components = full_size(family)
    sets = {kind: named(family, components, kind) for kind in get_args(LayerKind)}
    assert {kind: len(sets[kind]) for kind in counts} == counts
    for one, other in itertools.combinations(counts, 2):
        assert not sets[one] & sets[other]
    everything = {
        f"{name}.{path}"
        for name, component in components.items()
        for path, module in component.named_modules()
        if isinstance(module, nn.Linear) and ATTENTION_OR_FF.search(path)
    }
    assert set.union(*(sets[kind] for kind in counts)) == everything
    assert sets["spatial_self"] < sets["spatial"]
    assert sets["temporal_attention"] < sets["temporal"] == sets["temporal_weights"]
    words = r"temp_attentions|transformer_in|motion_modules"
    assert all(re.search(words, path) for path in sets["temporal"])
    assert not any(re.search(words, path) for path in sets["spatial"] | sets["cross_attention"])


def test_full_size_motion_modules_find_their_places() -> None:
    components = full_size("animatediff")
    places = _places(components["denoiser"], components["motion"])
    assert len(places) == 8 + 12 + 1
    assert len({id(layer) for layer, _ in places}) == len({id(module) for _, module in places}) == 21


def test_all_weights_over_frames_are_those_of_temporal_layers() -> None:
    """NewMove's set: attention, feed-forward and convolutions over frames, and no norm or projection around them."""
    unet = full_size("modelscope")["denoiser"]
    config: Any = LayersConfig(layers="temporal_weights", method="full").adapter(
        ModelScopeBackbone.__new__(ModelScopeBackbone)
    )
    chosen = {name for name, _ in unet.named_parameters() if any(re.search(p, name) for p in config.include)}
    convolutions = {name for name, _ in unet.named_parameters() if ".temp_convs." in name}
    assert convolutions <= chosen
    assert {name for name in chosen - convolutions if not re.search(r"temp_attentions|transformer_in", name)} == set()
    assert len(chosen - convolutions) == 17 * (2 * 5 + 4)  # to_q, to_k, to_v without bias, to_out with; feed-forward
