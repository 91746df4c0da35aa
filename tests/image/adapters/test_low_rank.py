"""Against peft itself, and the algebra of each method."""

import copy
from typing import Any

import peft
import pytest
import torch
from torch import nn

from pcs_ext.image.adapters import LowRankConfig, build_adapter, injected
from pcs_ext.image.adapters.low_rank_layers import build_layers, kept

PEFT = {
    "lora": lambda targets: peft.LoraConfig(r=4, lora_alpha=2, target_modules=targets),
    "rslora": lambda targets: peft.LoraConfig(r=4, lora_alpha=2, use_rslora=True, target_modules=targets),
    "dora": lambda targets: peft.LoraConfig(r=4, lora_alpha=2, use_dora=True, target_modules=targets),
    "loha": lambda targets: peft.LoHaConfig(r=4, alpha=2, target_modules=targets),
    "lokr": lambda targets: peft.LoKrConfig(r=4, alpha=2, target_modules=targets),
    "lokr-both": lambda targets: peft.LoKrConfig(
        r=1, alpha=2, decompose_both=True, decompose_factor=4, target_modules=targets
    ),
    "oft": lambda targets: peft.OFTConfig(r=0, oft_block_size=4, use_cayley_neumann=False, target_modules=targets),
    "coft": lambda targets: peft.OFTConfig(
        r=0, oft_block_size=4, use_cayley_neumann=False, coft=True, eps=0.05, target_modules=targets
    ),
}
OURS = {
    "lora": LowRankConfig(rank=4, alpha=2.0),
    "rslora": LowRankConfig(rank=4, alpha=2.0, use_rslora=True),
    "dora": LowRankConfig(method="dora", rank=4, alpha=2.0),
    "loha": LowRankConfig(method="loha", rank=4, alpha=2.0),
    "lokr": LowRankConfig(method="lokr", rank=4, alpha=2.0),
    "lokr-both": LowRankConfig(method="lokr", rank=1, alpha=2.0, lokr_factor=4, lokr_decompose_both=True),
    "oft": LowRankConfig(method="oft", rank=4),
    "coft": LowRankConfig(method="oft", rank=4, oft_eps=0.05),
}


@pytest.mark.parametrize("key", PEFT)
def test_outputs_equal_those_of_peft_injected_into_the_whole_model(key, sd, run):
    """Same weights through peft's own whole-model injection: attention layers of the UNet."""
    adapter = build_adapter("subject", OURS[key])
    with injected(sd, adapter):
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in adapter.parameters()["denoiser"]:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        ours = run(sd)
        state = {k.removeprefix("denoiser."): v for k, v in adapter.state_dict().items()}
    plain = run(sd)
    reference = copy.deepcopy(sd.denoiser)
    peft.inject_adapter_in_model(PEFT[key](["to_q", "to_k", "to_v", "to_out.0"]), reference, "default")
    loaded = peft.set_peft_model_state_dict(reference, state, "default")
    assert not loaded.unexpected_keys
    reference.eval()
    sd.denoiser, original = reference, sd.denoiser
    theirs = run(sd)
    sd.denoiser = original
    assert float((ours - plain).detach().abs().max()) > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("key", ["lora", "dora", "loha", "lokr"])
def test_starting_values_are_those_of_peft_for_the_seed_and_the_callers_generator_is_untouched(key):
    modules: dict[str, nn.Linear | nn.Conv2d] = {"a": nn.Linear(8, 12), "b": nn.Conv2d(4, 8, 3)}
    before = torch.get_rng_state()
    layers = build_layers(OURS[key], modules)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(OURS[key].init_seed)
        holder = nn.ModuleDict(dict(modules))
        peft.inject_adapter_in_model(PEFT[key](["a", "b"]), holder, "default")
    reference = peft.get_peft_model_state_dict(holder, adapter_name="default")
    ours = {f"{path}.{name}": t for path, layer in layers.items() for name, t in layer.tensors().items()}
    assert ours.keys() == reference.keys()
    assert all(torch.equal(ours[k], reference[k]) for k in ours)


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize("key", OURS)
@pytest.mark.parametrize("module", [nn.Linear(8, 12), nn.Conv2d(4, 8, 3, stride=2, padding=1)], ids=["linear", "conv"])
def test_scale_interpolates_the_weight_for_every_method(key, scale, module):
    x = torch.randn(2, 8) if isinstance(module, nn.Linear) else torch.randn(2, 4, 9, 9)
    (layer,) = build_layers(OURS[key], {"a": module}).values()
    layer.set_below(module)
    with torch.no_grad():
        for parameter in layer.tensors().values():
            parameter += 0.2 * torch.randn_like(parameter)
        base, adapted = module(x), layer(x)
        layer.scale = scale
        torch.testing.assert_close(layer(x), base + scale * (adapted - base), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("module", [nn.Linear(8, 6), nn.Conv2d(4, 6, 3, padding=1)], ids=["linear", "conv"])
def test_oft_rotates_kernels_and_keeps_their_norms(module):
    (layer,) = build_layers(LowRankConfig(method="oft", rank=5), {"a": module}).values()
    layer.set_below(module)
    with torch.no_grad():
        for parameter in layer.tensors().values():
            parameter += torch.randn_like(parameter)
        rotation = layer.tuner.get_delta_weight("default")
        weight = module.weight.flatten(1)
        rotated = weight @ rotation.T
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(len(rotation)), rtol=0, atol=1e-5)
        torch.testing.assert_close(rotated @ rotated.T, weight @ weight.T, rtol=1e-5, atol=1e-5)
        plain = copy.deepcopy(module)
        plain.weight.copy_(rotated.view_as(module.weight))
        x = torch.randn(2, 8) if isinstance(module, nn.Linear) else torch.randn(2, 4, 7, 7)
        torch.testing.assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-5)


def test_dropout_is_on_only_where_gradients_are_recorded(sd, run):
    adapter = build_adapter("subject", LowRankConfig(rank=4, dropout=0.5))
    with injected(sd, adapter):
        with torch.no_grad():
            for parameter in adapter.parameters()["denoiser"]:
                parameter += 0.5
            assert torch.equal(run(sd), run(sd))
        assert not torch.equal(run(sd), run(sd))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_dropout_keeps_are_independent_ones_in_the_share_asked_for(dtype):
    torch.manual_seed(0)
    mask = kept(torch.empty(401, 501, dtype=dtype), 0.1)
    assert (mask.shape, mask.dtype) == ((401, 501), dtype)
    mask = mask.float()
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    # Four standard deviations of 200,901 draws; elements 1 to 4 apart may share a 64-bit number.
    assert float(mask.mean()) == pytest.approx(0.9, abs=4 * (0.09 / mask.numel()) ** 0.5)
    flat = mask.flatten() - 0.9
    for apart in (1, 2, 3, 4, 501):
        assert abs(float((flat[apart:] * flat[:-apart]).mean())) < 4 * 0.09 / mask.numel() ** 0.5
    torch.manual_seed(0)
    assert torch.equal(kept(torch.empty(401, 501, dtype=dtype), 0.1).float(), mask)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 1), (0, 4)])
def test_dropout_masks_have_any_shape(shape):
    assert kept(torch.empty(shape), 0.5).shape == shape


@pytest.mark.parametrize("module", [nn.Linear(8, 64), nn.Conv2d(4, 64, 3, padding=1)], ids=["linear", "conv"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_is_of_the_update(module, dtype):
    module = copy.deepcopy(module).requires_grad_(False).to(dtype)
    (layer,) = build_layers(LowRankConfig(rank=2, alpha=6.0, dropout=0.25), {"a": module}).values()
    layer.set_below(module)
    x = (torch.randn(5, 8) if isinstance(module, nn.Linear) else torch.randn(5, 4, 7, 7)).to(dtype)
    down, up = layer.tensors().values()
    with torch.no_grad():
        up += torch.randn_like(up)
    layer.scale = 0.5
    hidden = x.float() @ down.T if isinstance(module, nn.Linear) else nn.functional.conv2d(x.float(), down, padding=1)
    update = 0.5 * 3 * (hidden @ up.T if isinstance(module, nn.Linear) else nn.functional.conv2d(hidden, up))
    torch.manual_seed(0)
    mask = kept(module(x), 0.25)
    expected = module(x) + (mask.float() * update / 0.75).to(dtype)
    torch.manual_seed(0)
    made = layer(x)
    torch.testing.assert_close(made, expected)
    assert float((made == module(x)).float().mean()) == pytest.approx(0.25, abs=0.08)
    made.float().sum().backward()
    assert down.grad is not None
    with torch.no_grad():
        whole = module(x) + update.to(dtype)
        torch.testing.assert_close(
            layer(x),
            whole,
            rtol=1e-2 if dtype == torch.bfloat16 else 1e-5,
            atol=1e-5 if dtype == torch.float32 else 2e-2,
        )


def test_presets_pick_the_layers_they_name(sd):
    def paths(targets, component: Any = "denoiser"):
        adapter = build_adapter("a", LowRankConfig(rank=2, targets=targets, components=(component,)))
        with injected(sd, adapter):
            return {k.split(".lora_")[0].removeprefix(f"{component}.") for k in adapter.state_dict()}

    assert {p.split(".attn")[1][:1] for p in paths("cross_attention")} == {"2"}
    assert {p.split(".")[-1] for p in paths("attention")} == {"to_q", "to_k", "to_v", "0"}
    assert paths("attention+ff") > paths("attention")
    everything = paths("all_linear_conv")
    assert everything > paths("attention+ff")
    assert any(p.endswith("conv1") for p in everything)
    assert any(p.endswith("proj_in") for p in everything)
    assert not {"conv_in", "conv_out", "time_embedding.linear_1"} & everything
    assert paths((r"^conv_in$",)) == {"conv_in"}
    text = paths("attention", "text_encoder")
    assert all(p.startswith("text_model.encoder.layers.") for p in text)
    assert {p.split(".")[-1] for p in text} == {"q_proj", "k_proj", "v_proj", "out_proj"}
    assert {p.split(".")[-1] for p in paths("attention+ff", "text_encoder")} >= {"fc1", "fc2"}
