"""The kohya file read back by a merge written from the format's description, knowing nothing of the writer."""

import json
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from pcs_ext.artifact import ArtifactData
from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import CrossAttentionConfig, EmbeddingConfig, FullConfig, LowRankConfig
from pcs_ext.image.adapters.layers import merged_weights
from pcs_ext.image.export import ExportOptions, export_kohya

BOTH = ("denoiser", "text_encoder")


# -- the independent reader --------------------------------------------------------------------------------------------


def read(file):
    with safe_open(file, framework="pt") as handle:
        return {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118


def difference(t, shape):
    """What one module of a kohya or LyCORIS file adds to a weight of this shape, before DoRA."""
    alpha = float(t["alpha"]) if "alpha" in t else None

    def scale(dim):
        return 1.0 if alpha is None or alpha == 0 or dim is None else alpha / dim

    if "diff" in t:
        return t["diff"]
    if "lora_down.weight" in t:
        down, up = t["lora_down.weight"], t["lora_up.weight"]
        assert down.dim() == len(shape)
        assert up.shape[2:] == (1,) * (len(shape) - 2)
        return (up.flatten(1) @ down.flatten(1)).reshape(shape) * scale(down.shape[0])
    if "hada_w1_a" in t:
        product = (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"])
        return product.reshape(shape) * scale(t["hada_w1_b"].shape[0])
    dim = None
    first, second = t.get("lokr_w1"), t.get("lokr_w2")
    if first is None:
        dim, first = t["lokr_w1_b"].shape[0], t["lokr_w1_a"] @ t["lokr_w1_b"]
    if second is None:
        dim, second = t["lokr_w2_b"].shape[0], t["lokr_w2_a"] @ t["lokr_w2_b"]
    if second.dim() == 4:
        first = first[:, :, None, None]
    return torch.kron(first, second.contiguous()).reshape(shape) * scale(dim)


def merge(file, components):
    """Names as sd-scripts forms them -> merged weights; every key of the file must be used."""
    tensors = read(file)
    known = {}
    for prefix, root in components.items():
        for path, module in root.named_modules():
            if hasattr(module, "weight"):
                known[f"{prefix}_{path.replace('.', '_')}"] = module.weight
    modules = {}
    for key, tensor in tensors.items():
        name, _, suffix = key.partition(".")
        modules.setdefault(name, {})[suffix] = tensor
    assert modules.keys() <= known.keys(), modules.keys() - known.keys()
    merged = {}
    for name, t in modules.items():
        weight = known[name]
        result = weight + difference(t, weight.shape)
        if "dora_scale" in t:
            assert t["dora_scale"].shape == (len(weight), *[1] * (weight.dim() - 1))
            norm = result.flatten(1).norm(dim=1).view_as(t["dora_scale"])
            result = result * t["dora_scale"] / norm
        merged[name] = result
    return merged


class TextModel(torch.nn.Module):
    """The level that files name and newer transformers do not have."""

    def __init__(self, encoder):
        super().__init__()
        self.text_model = encoder.text_model if "text_model" in dict(encoder.named_children()) else encoder


def named_components(backbone):
    names = ("lora_te1", "lora_te2") if backbone.family == "sdxl" else ("lora_te",)
    texts = dict(zip(names, [TextModel(encoder) for encoder in backbone.text_encoders], strict=True))
    return {"lora_unet": backbone.denoiser, **texts}


def expected_weights(backbone, data, applied):
    with applied(backbone, data), torch.no_grad():
        return {
            f"{prefix}_{path.replace('.', '_')}": weight
            for prefix, root in named_components(backbone).items()
            for path, weight in merged_weights(root).items()
        }


def check(backbone, data, applied, tmp_path, least):
    expected = expected_weights(backbone, data, applied)
    file = export_kohya(data, tmp_path / "rex")
    with torch.no_grad():
        got = merge(file, named_components(backbone))
    assert got.keys() == expected.keys()
    assert len(got) >= least
    changed = 0.0
    for name, weight in got.items():
        assert float((weight - expected[name]).abs().max()) <= 1e-6, name
        changed = max(changed, float(weight.std()))
    assert changed > 0


# -- tests -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize(("rank", "alpha"), [(r, a) for r in (1, 4, 16) for a in sorted({1, r, 2 * r})])
def test_any_rank_and_alpha_linear_conv_and_text_encoders(method, rank, alpha, backbone, learn, applied, tmp_path):
    components = BOTH if backbone.family == "sd" else (*BOTH, "text_encoder_2")
    config = LowRankConfig(
        method=method, rank=rank, alpha=float(alpha), targets="all_linear_conv", components=components
    )
    check(backbone, learn(backbone, layers=config), applied, tmp_path, least=60)


@pytest.mark.parametrize(
    "config",
    [
        LowRankConfig(rank=4, alpha=2.0, use_rslora=True, components=BOTH),
        LowRankConfig(method="loha", rank=3, alpha=1.5, targets="all_linear_conv", components=BOTH),
        LowRankConfig(method="lokr", rank=1, alpha=0.7, targets="all_linear_conv", components=BOTH),
        LowRankConfig(method="lokr", rank=16, alpha=4.0, targets="all_linear_conv", components=BOTH),
        LowRankConfig(
            method="lokr", rank=1, alpha=3.0, lokr_factor=4, lokr_decompose_both=True, targets="all_linear_conv"
        ),
        CrossAttentionConfig(),
    ],
    ids=["rslora", "loha", "lokr", "lokr-full-factors", "lokr-both", "cross_attention"],
)
def test_other_methods(config, backbone, learn, applied, tmp_path):
    check(backbone, learn(backbone, layers=config), applied, tmp_path, least=6)


def test_two_adapters_of_different_rank_share_a_file(sd, learn, applied, tmp_path):
    data = learn(sd, unet=LowRankConfig(rank=4), text=LowRankConfig(rank=2, alpha=1.0, components=("text_encoder",)))
    check(sd, data, applied, tmp_path, least=20)


def test_key_names_are_those_of_sd_scripts(backbone, learn, tmp_path):
    config = LowRankConfig(rank=2, alpha=1.0, components=BOTH)
    tensors = read(export_kohya(learn(backbone, layers=config), tmp_path / "rex"))
    te = "lora_te1" if backbone.family == "sdxl" else "lora_te"
    block = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
    for name in (block, f"{te}_text_model_encoder_layers_0_self_attn_q_proj"):
        assert {k for k in tensors if k.startswith(f"{name}.")} == {
            f"{name}.{suffix}" for suffix in ("alpha", "lora_down.weight", "lora_up.weight")
        }
        assert tensors[f"{name}.alpha"].shape == ()
        assert float(tensors[f"{name}.alpha"]) == 1.0
        assert tensors[f"{name}.lora_down.weight"].shape[0] == 2


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_half_precision_keeps_alpha_exact(precision, dtype, sd, learn, tmp_path):
    data = learn(sd, layers=LowRankConfig(rank=3, alpha=0.1))
    tensors = read(export_kohya(data, tmp_path / "rex", ExportOptions(precision=precision)))
    for key, tensor in tensors.items():
        assert tensor.dtype == (torch.float32 if key.endswith("alpha") else dtype)
    assert float(next(t for k, t in tensors.items() if k.endswith("alpha"))) == pytest.approx(0.1, abs=1e-8)


def test_stock_diffusers_reads_the_file(sd, learn, applied, run, tmp_path):
    from diffusers import StableDiffusionPipeline

    data = learn(sd, layers=LowRankConfig(rank=4, alpha=2.0))
    with applied(sd, data), torch.no_grad():
        expected = run(sd)
    file = export_kohya(data, tmp_path / "rex")
    state, alphas = StableDiffusionPipeline.lora_state_dict(str(file), unet_config=sd.denoiser.config)[:2]
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, sd.denoiser)
    with torch.no_grad():
        torch.testing.assert_close(run(sd), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LowRankConfig(method="oft", rank=4), "cannot hold oft adapters.*peft, diffusers-model"),
        (FullConfig(), "cannot hold full adapters.*diffusers-model"),
        (EmbeddingConfig(placeholder="<rex>", initializer="dog"), "textual-inversion"),
    ],
)
def test_what_it_cannot_hold_is_an_error_that_names_a_format(config, message, sd, learn, tmp_path):
    with pytest.raises(UsageError, match=message):
        export_kohya(learn(sd, layers=config), tmp_path / "rex")
    assert list(tmp_path.iterdir()) == []


def test_two_adapters_on_one_layer_are_refused(sd, learn, tmp_path):
    data = learn(sd, one=LowRankConfig(rank=2), two=LowRankConfig(rank=4))
    with pytest.raises(UsageError, match="two adapters"):
        export_kohya(data, tmp_path / "rex")


def test_an_existing_file_is_kept_unless_told(sd, learn, tmp_path):
    data = learn(sd, layers=LowRankConfig(rank=2))
    (tmp_path / "rex.safetensors").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists already"):
        export_kohya(data, tmp_path / "rex.safetensors")
    assert (tmp_path / "rex.safetensors").read_bytes() == b"mine"
    export_kohya(data, tmp_path / "rex.safetensors", ExportOptions(overwrite=True))
    assert read(tmp_path / "rex.safetensors")


@settings(max_examples=60, deadline=None)
@given(
    rank=st.integers(1, 40),
    alpha=st.floats(0.01, 200),
    rslora=st.booleans(),
    shape=st.tuples(st.integers(1, 24), st.integers(1, 24), st.sampled_from([None, 1, 3])),
    seed=st.integers(0, 1000),
)
def test_the_effective_weight_survives_for_any_shape_rank_and_alpha(rank, alpha, rslora, shape, seed, tmp_path_factory):
    generator = torch.Generator().manual_seed(seed)
    out, width, kernel = shape
    tail = () if kernel is None else (kernel, kernel)
    a = torch.randn(rank, width, *tail, generator=generator)
    b = torch.randn(out, rank, *([1] * len(tail)), generator=generator)
    config = {"kind": "low_rank", "method": "lora", "rank": rank, "alpha": alpha, "use_rslora": rslora}
    data = ArtifactData(
        recipe={"id": "x"},
        concept={"class_noun": "dog", "mode": "plain"},
        adapters={"layers": config},
        tensors={"layers": {"denoiser.mid.to_q.lora_A.weight": a, "denoiser.mid.to_q.lora_B.weight": b}},
        base_name="x",
        base_fingerprint="0",
        base_family="sd",
        training={},
    )
    file = export_kohya(data, tmp_path_factory.mktemp("kohya") / "x")
    stored = {k.partition(".")[2]: t for k, t in read(file).items()}
    expected = (b.flatten(1).double() @ a.flatten(1).double()).reshape(out, width, *tail)
    expected = expected * alpha / (rank**0.5 if rslora else rank)
    got = difference({k: t.double() for k, t in stored.items()}, (out, width, *tail))
    assert float((got - expected).abs().max()) <= 1e-6 * max(1.0, float(expected.abs().max()))


def test_header_is_a_json_object_of_strings(sd, learn, tmp_path):
    content = export_kohya(learn(sd, layers=LowRankConfig(rank=2)), tmp_path / "rex").read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    assert all(isinstance(value, str) for value in header["__metadata__"].values())
    names = [key for key in header if key != "__metadata__"]
    assert size <= 1 << 20
    assert names == sorted(names, key=lambda k: header[k]["data_offsets"])
