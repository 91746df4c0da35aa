"""What every adapter promises, asked of each of them: no trace, exact files, own parameters, any order."""

import itertools

import pytest
import torch

from pcs_ext.config_io import from_jsonable, to_jsonable
from pcs_ext.errors import ArtifactError, ConfigError, NoMatchingModulesError, UsageError
from pcs_ext.image.adapters import (
    AdapterConfig,
    CrossAttentionConfig,
    DistributionConfig,
    EmbeddingConfig,
    FullConfig,
    HeadFactorsConfig,
    ImageWordsAdapter,
    ImageWordsConfig,
    LiDBConfig,
    LowRankConfig,
    NetiConfig,
    SideNetworkConfig,
    SpectralShiftConfig,
    SpectrumConfig,
    StageWordsConfig,
    StepwiseConfig,
    TailConfig,
    TextPrefixConfig,
    ValueResidualConfig,
    build_adapter,
    injected,
)
from pcs_ext.image.adapters.layers import AdapterLayer, merged
from tests.support.tiny import tiny_backbone

BOTH = ("denoiser", "text_encoder")
CONFIGS = {
    "embedding": EmbeddingConfig(placeholder="<rex>", num_vectors=2, initializer="dog"),
    "side_network": SideNetworkConfig(targets=(r"\.attn2$", r"\.ff$")),
    "lora": LowRankConfig(rank=4, alpha=2.0, components=BOTH),
    "lora-conv": LowRankConfig(rank=4, targets="all_linear_conv", components=BOTH),
    "image_words": ImageWordsConfig(placeholder="<rex>", initializer="dog", width=6),
    "dora": LowRankConfig(method="dora", rank=4, targets="all_linear_conv", components=BOTH),
    "stepwise": StepwiseConfig(placeholder="<rex>", stages=3, initializer="dog"),
    "loha": LowRankConfig(method="loha", rank=2, alpha=1.0, targets="all_linear_conv", components=BOTH),
    "stage_words": StageWordsConfig(placeholder="<rex>", initializer="dog", features=16, anchors=4, width=8),
    "lokr": LowRankConfig(method="lokr", rank=2, alpha=1.0, targets="all_linear_conv", components=BOTH),
    "oft": LowRankConfig(method="oft", rank=4, targets="all_linear_conv", components=BOTH),
    "bottleneck": SideNetworkConfig(targets=(r"\.attn2$",), reads="output", activation="relu", width=4),
    "tail": TailConfig(placeholder="<rex>", num_vectors=3, initializer="a photo of the dog"),
    "svd": SpectralShiftConfig(components=BOTH),
    "neti": NetiConfig(placeholder="<rex>", initializer="dog", frequencies=16, anchors=4, width=8, nested_dropout=0.0),
    "cross_attention": CrossAttentionConfig(),
    "distribution": DistributionConfig(placeholder="<rex>", meanings=3, num_vectors=2),
    "full": FullConfig(components=BOTH),
    "text_prefix": TextPrefixConfig(placeholder="<rex>", layers=1),
    "spectrum": SpectrumConfig(placeholder="<rex>", num_vectors=2, initializer="dog"),
    "head_factors": HeadFactorsConfig(),
    "value_residual": ValueResidualConfig(placeholder="<rex>", class_noun="dog"),
    "subspace": EmbeddingConfig(placeholder="<rex>", initializer="dog", subspace=5),
    "lidb": LiDBConfig(up=12, down=6, components=BOTH),
}
TOKENS = (
    "embedding",
    "spectrum",
    "neti",
    "tail",
    "text_prefix",
    "distribution",
    "value_residual",
    "subspace",
    "image_words",
    "stepwise",
    "stage_words",
)
ADAPTERS = pytest.mark.parametrize("key", CONFIGS)


def build(key, name="subject"):
    return build_adapter(name, CONFIGS[key])


def disturb(adapter, seed=0, size=0.05):
    """Move every parameter, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in itertools.chain(*adapter.parameters().values()):
            parameter += size * torch.randn(parameter.shape, generator=generator)


@ADAPTERS
def test_injection_changes_nothing_until_trained_and_ejection_leaves_no_trace(key, backbone, run, snapshot):
    prompt = "a photo of <rex>" if key not in TOKENS else "a photo of the dog"
    before, output = snapshot(backbone), run(backbone, prompt)
    adapter = build(key)
    adapter.inject(backbone)
    torch.testing.assert_close(
        run(backbone, prompt), output, rtol=0, atol=2e-6 if key in ("dora", "head_factors") else 0
    )
    disturb(adapter)
    assert not torch.equal(run(backbone), output)
    adapter.eject()
    assert snapshot(backbone) == before
    assert torch.equal(run(backbone, prompt), output)


@pytest.mark.parametrize("pair", list(itertools.pairwise(CONFIGS)), ids="+".join)
def test_merged_layers_draw_the_same_and_the_chains_come_back(pair, backbone, run, snapshot):
    adapters = [build(key, f"number_{index}") for index, key in enumerate(pair)]
    with injected(backbone, *adapters):
        for adapter in adapters:
            disturb(adapter)
        before, output = snapshot(backbone), run(backbone)
        with merged(backbone.denoiser):
            assert not any(isinstance(module, AdapterLayer) for module in backbone.denoiser.modules())
            torch.testing.assert_close(run(backbone), output, rtol=1e-4, atol=1e-4)
        assert snapshot(backbone) == before
        assert torch.equal(run(backbone), output)
        with pytest.raises(ZeroDivisionError), merged(backbone.denoiser):
            raise ZeroDivisionError
        with merged(backbone.denoiser, limit=10):
            assert torch.equal(run(backbone), output), "too large: nothing is merged"


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def loaded(request, tmp_path_factory):
    """From a diffusers folder, by the package's own loader; shared, since every adapter must leave it as it was."""
    return tiny_backbone(tmp_path_factory.mktemp("models") / request.param, family=request.param)


@ADAPTERS
def test_the_same_on_backbones_loaded_from_disk(key, loaded, run, snapshot):
    run(loaded)
    before, output = snapshot(loaded), run(loaded, "a photo of the dog")
    adapter = build(key)
    with injected(loaded, adapter):
        torch.testing.assert_close(run(loaded, "a photo of the dog"), output, rtol=0, atol=2e-6)
        disturb(adapter)
        assert not torch.equal(run(loaded), output)
        state = adapter.state_dict()
    assert snapshot(loaded) == before
    again = build(key)
    again.load_state_dict(state)
    with injected(loaded, adapter):
        expected = run(loaded)
    with injected(loaded, again):
        assert torch.equal(run(loaded), expected)


def test_a_second_adapter_does_not_freeze_the_first(sd):
    first, second = build("full", "one"), build("lora", "two")
    with injected(sd, first, second):
        assert all(p.requires_grad for a in (first, second) for p in itertools.chain(*a.parameters().values()))


@ADAPTERS
def test_only_its_own_parameters_train_and_the_gradient_reaches_all_of_them(key, backbone, run):
    adapter = build(key)
    with injected(backbone, adapter):
        disturb(adapter)
        if isinstance(adapter, ImageWordsAdapter):  # of no photo its network would see zeros
            adapter.keep(torch.ones(6))
        own = {id(p) for p in itertools.chain(*adapter.parameters().values())}
        run(backbone, "a photo of <rex> <rex>_1").square().sum().backward()
        for root in backbone.components().values():
            for name, parameter in root.named_parameters():
                assert parameter.requires_grad == (id(parameter) in own), name
                assert id(parameter) in own or parameter.grad is None, name
        idle = [
            i
            for i, p in enumerate(itertools.chain(*adapter.parameters().values()))
            if p.grad is None or not p.grad.any()
        ]
        if (
            key == "full"
        ):  # unused positions and words have no gradient, and neither has the last block of SDXL's encoder
            idle = [] if len(idle) < 40 else idle
        if backbone.family == "sdxl":  # SDXL reads the penultimate layer of its first encoder: the last one is idle
            idle = [] if len(idle) <= 0.1 * len(own) else idle
        assert idle == []


@ADAPTERS
def test_state_round_trip_before_and_after_injection_is_exact(key, backbone, run):
    first = build(key)
    with injected(backbone, first):
        disturb(first)
        expected = run(backbone)
    state = first.state_dict()
    assert all(t.device.type == "cpu" and t.is_contiguous() for t in state.values())
    for load_first in (True, False):
        second = build(key)
        if load_first:
            second.load_state_dict(state)
        with injected(backbone, second):
            if not load_first:
                second.load_state_dict(state)
            assert torch.equal(run(backbone), expected)
        again = second.state_dict()
        assert again.keys() == state.keys()
        assert all(torch.equal(again[k], state[k]) for k in state)


@ADAPTERS
def test_injecting_again_keeps_parameters_and_output(key, backbone, run):
    adapter = build(key)
    with injected(backbone, adapter):
        disturb(adapter)
        expected = run(backbone)
        ids = [id(p) for p in itertools.chain(*adapter.parameters().values())]
    with injected(backbone, adapter):
        assert torch.equal(run(backbone), expected)
        assert ids == [id(p) for p in itertools.chain(*adapter.parameters().values())]


@ADAPTERS
@torch.no_grad()
def test_scale_zero_is_the_base_and_scales_are_continuous(key, sd, run):
    adapter, prompt = build(key), "a photo of <rex>"
    if key in TOKENS:  # at 0 the tokens are what they started as
        with injected(sd, adapter):
            adapter.set_scale(0.0)
            base = run(sd, prompt)
            adapter.set_scale(1.0)
    else:
        base = run(sd, prompt)
    with injected(sd, adapter):
        disturb(adapter)
        full = run(sd, prompt)
        adapter.set_scale(0.0)
        assert torch.equal(run(sd, prompt), base)
        adapter.set_scale(0.999)
        torch.testing.assert_close(run(sd, prompt), full, rtol=0, atol=0.05 * float((full - base).abs().max()))
        adapter.set_scale(1.0)
        assert torch.equal(run(sd, prompt), full)


@pytest.mark.parametrize(
    ("first", "second"), list(itertools.permutations(["embedding", "lora", "dora", "oft", "full"], 2))
)
def test_two_adapters_leave_in_the_order_they_came(first, second, sd, run, snapshot):
    """The hard order: the one below is taken out from under the other. `injected` leaves the other way round."""
    before = snapshot(sd)
    adapters = [build(first, "one"), build(second, "two")]
    for adapter in adapters:
        adapter.inject(sd)
    for adapter in adapters:
        disturb(adapter)
    run(sd)
    adapters[0].eject()
    remaining = run(sd)
    last = adapters[1]
    last.eject()
    assert snapshot(sd) == before
    with injected(sd, last):
        torch.testing.assert_close(run(sd), remaining, rtol=1e-4, atol=1e-5)


def test_stacked_additive_adapters_add_their_differences(sd):
    x = torch.randn(3, 24, generator=torch.Generator().manual_seed(2))[:, :8]
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    layer = sd.denoiser.get_submodule(path)
    base = layer(x)
    deltas, adapters = [], []
    for key in ("lora", "loha", "lokr"):
        adapter = build(key, key)
        with injected(sd, adapter):
            disturb(adapter, seed=len(key))
            deltas.append(sd.denoiser.get_submodule(path)(x) - base)
        adapters.append(adapter)
    with injected(sd, *adapters):
        torch.testing.assert_close(sd.denoiser.get_submodule(path)(x), base + sum(deltas), rtol=1e-5, atol=1e-6)


@ADAPTERS
def test_low_precision_base_keeps_float32_masters(key, sd_bf16, run, snapshot):
    before = snapshot(sd_bf16)
    adapter = build(key)
    with injected(sd_bf16, adapter):
        assert {p.dtype for p in itertools.chain(*adapter.parameters().values())} == {torch.float32}
        disturb(adapter)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            run(sd_bf16).float().square().sum().backward()
        assert any(p.grad.any() for p in itertools.chain(*adapter.parameters().values()) if p.grad is not None)
    assert snapshot(sd_bf16) == before


@ADAPTERS
def test_low_precision_base_runs_without_autocast(key, sd_bf16, run):
    adapter = build_adapter("subject", FullConfig()) if key == "full" else build(key)
    with injected(sd_bf16, adapter), torch.no_grad():
        assert run(sd_bf16).dtype == torch.bfloat16


@ADAPTERS
def test_gradient_checkpointing_gives_the_same_gradients(key, sd, run):
    adapter = build(key)
    gradients = []
    with injected(sd, adapter):
        disturb(adapter)
        for enabled in (False, True):
            if enabled:
                sd.denoiser.train()
                sd.denoiser.enable_gradient_checkpointing()
            run(sd).square().sum().backward()
            parameters = list(itertools.chain(*adapter.parameters().values()))
            gradients.append([None if p.grad is None else p.grad.clone() for p in parameters])
            for parameter in parameters:
                parameter.grad = None
    for plain, checkpointed in zip(*gradients, strict=True):
        assert (plain is None) == (checkpointed is None)
        if plain is not None:
            torch.testing.assert_close(checkpointed, plain)


@ADAPTERS
def test_state_of_another_shape_is_refused(key, sd):
    adapter = build(key)
    with injected(sd, adapter):
        state = adapter.state_dict()
        name, tensor = next(iter(state.items()))
        with pytest.raises(ArtifactError, match=f"missing {name}"):
            adapter.load_state_dict({k: v for k, v in state.items() if k != name})
        with pytest.raises(ArtifactError, match="unexpected other"):
            adapter.load_state_dict({**state, "other": tensor})
        with pytest.raises(ArtifactError, match=r"expected .*, got"):
            adapter.load_state_dict({**state, name: torch.zeros(*tensor.shape, 2)})
    fresh = build(key)
    fresh.load_state_dict({"other": tensor})
    with pytest.raises(ArtifactError, match="unexpected other"):
        fresh.inject(sd)


@ADAPTERS
def test_config_survives_json(key):
    config = CONFIGS[key]
    assert from_jsonable(AdapterConfig, to_jsonable(config)) == config  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "low_rank", "rnak": 4}, "rnak"),
        ({"kind": "nothing"}, "nothing"),
        ({"rank": 4}, "kind"),
        ({"kind": "low_rank", "rank": 0}, "rank must be at least 1"),
        ({"kind": "low_rank", "method": "oft", "alpha": 1.0}, "no alpha"),
        ({"kind": "low_rank", "method": "loha", "dropout": 0.1}, "lora only"),
        ({"kind": "low_rank", "method": "lokr", "use_rslora": True}, "use_rslora"),
        ({"kind": "low_rank", "targets": ["("]}, "regular expression"),
        ({"kind": "low_rank", "targets": []}, "empty list"),
        ({"kind": "low_rank", "components": []}, "at least one"),
        ({"kind": "embedding", "placeholder": "my dog"}, "without blanks"),
        ({"kind": "embedding", "num_vectors": 0}, "num_vectors"),
        ({"kind": "cross_attention", "projections": ["to_w"]}, "projections"),
        ({"kind": "full", "include": ["("]}, "regular expression"),
    ],
)
def test_bad_configs_are_refused(data, message):
    with pytest.raises(ConfigError, match=message):
        from_jsonable(AdapterConfig, data)  # type: ignore[arg-type]


def test_names_are_checked():
    with pytest.raises(UsageError, match="letters, digits"):
        build_adapter("a.b", LowRankConfig())


def test_targets_that_match_nothing_say_what_there_is(sd):
    with pytest.raises(NoMatchingModulesError, match=r"'nowhere'.*for example: .*conv"):
        build_adapter("a", LowRankConfig(targets=("nowhere",))).inject(sd)
    with pytest.raises(NoMatchingModulesError, match="text_encoder"):
        build_adapter("a", LowRankConfig(targets="cross_attention", components=BOTH)).inject(sd)
    with pytest.raises(NoMatchingModulesError, match="names no parameter of denoiser"):
        build_adapter("a", FullConfig(include=("nowhere",))).inject(sd)
    with pytest.raises(ConfigError, match="no component text_encoder_2"):
        build_adapter("a", LowRankConfig(components=("text_encoder_2",))).inject(sd)


def test_a_failed_injection_leaves_no_trace(sd, snapshot):
    before = snapshot(sd)
    bad = build_adapter("a", LowRankConfig(targets="cross_attention", components=BOTH))
    with pytest.raises(NoMatchingModulesError), injected(sd, build("lora"), build("embedding", "e"), bad):
        pass
    assert snapshot(sd) == before
