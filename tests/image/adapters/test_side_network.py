"""Networks at modules: what they are told reaches the right rows, and formats that cannot hold them say so."""

from pathlib import Path

import pytest
import torch

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import to_jsonable
from pcs_ext.errors import ConfigError, NoMatchingModulesError, UsageError
from pcs_ext.image.adapters import SideNetworkConfig, build_adapter, injected
from pcs_ext.image.adapters.side_network import SideNetwork, SideNetworkAdapter
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.export import export_artifact
from pcs_ext.image.recipes import RECIPES


def test_what_it_is_told_reaches_the_rows_it_is_meant_for() -> None:
    network = SideNetwork(4, SideNetworkConfig(targets=("attn",), condition_width=3))
    torch.nn.init.normal_(network.up.weight, generator=torch.Generator().manual_seed(0))
    x, told = torch.zeros(6, 5, 4), torch.eye(3)[:2]
    both = network(x, told)  # two clips of three rows each
    assert torch.equal(both[:3], network(x[:3], told[:1]))
    assert torch.equal(both[3:], network(x[3:], told[1:]))
    assert not torch.equal(both[0], both[3])
    assert torch.equal(network(x, None), network(x, torch.zeros(1, 3)))


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_behind_a_module_it_reads_what_comes_out(sd: AbstractBackbone, activation: str) -> None:
    path = sd.cross_attention_paths()[0]
    pattern = f"^{path}$".replace(".", r"\.")
    config = SideNetworkConfig(targets=(pattern,), reads="output", activation=activation, width=3)  # type: ignore[arg-type]
    module, generator = sd.denoiser.get_submodule(path), torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, module.query_dim, generator=generator)
    text = torch.randn(2, 7, module.cross_attention_dim, generator=generator)
    adapter = build_adapter("a", config)
    before = module(x, encoder_hidden_states=text)
    with injected(sd, adapter), torch.no_grad():
        down, down_bias, up, up_bias = adapter.parameters()["denoiser"]
        assert tuple(down.shape) == (3, module.query_dim)
        up += torch.randn(up.shape, generator=generator)
        act = getattr(torch.nn.functional, activation)
        expected = before + act(before @ down.T + down_bias) @ up.T + up_bias
        torch.testing.assert_close(module(x, encoder_hidden_states=text), expected, rtol=1e-5, atol=1e-5)


def test_it_has_the_papers_sizes_and_starts_at_nothing() -> None:
    network = SideNetwork(8, SideNetworkConfig(targets=("attn",)))
    assert {name: tuple(value.shape) for name, value in network.named_parameters()} == {
        "down.weight": (4, 8),
        "down.bias": (4,),
        "up.weight": (8, 4),
        "up.bias": (8,),
    }
    assert not network(torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)), None).any()


def test_no_export_format_drops_it_silently(sd: AbstractBackbone, tmp_path: Path) -> None:
    config = SideNetworkConfig(targets=(r"\.attn2$",))
    adapter = build_adapter("identity", config)
    with injected(sd, adapter):
        state = adapter.state_dict()
    recipe = RECIPES["textual-inversion"].build("dog", "sd")
    data = ArtifactData(
        recipe=to_jsonable(recipe),
        concept=to_jsonable(recipe.concept),
        adapters={"identity": to_jsonable(config)},
        tensors={"identity": state},
        base_name="base",
        base_fingerprint="0",
        base_family="sd",
        training={},
    )
    for format in ("kohya", "diffusers", "peft", "diffusers-model"):
        with pytest.raises(UsageError, match="cannot hold side_network adapters.*no format of other tools can"):
            export_artifact(data, format, tmp_path / format, backbone=sd)
    assert not list(tmp_path.iterdir())


def test_what_it_cannot_stand_beside_is_named(sd: AbstractBackbone) -> None:
    with pytest.raises(UsageError, match="side networks stand at attention or feed-forward modules"):
        SideNetworkAdapter("a", SideNetworkConfig(targets=(r"\.to_q$",))).inject(sd)
    with pytest.raises(NoMatchingModulesError, match="match no module"):
        SideNetworkAdapter("a", SideNetworkConfig(targets=("nowhere",))).inject(sd)
    with pytest.raises(ConfigError, match="reduction must be at least 1"):
        SideNetworkConfig(targets=("a",), reduction=0)
    with pytest.raises(ConfigError, match="width must be at least 1"):
        SideNetworkConfig(targets=("a",), width=0)
