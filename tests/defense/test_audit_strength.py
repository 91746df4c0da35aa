"""Settings beside the tensors decide how strongly loaders apply a file: the audit applies it as strongly, or not at
all."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from pcs_ext.defense.audit.applied import applied
from pcs_ext.defense.audit.contents import read_contents
from pcs_ext.errors import ArtifactError
from pcs_ext.image.adapters.layers import original_modules
from pcs_ext.image.backbone import AbstractBackbone

UNET = Path(__file__).parents[2] / "pcs_ext" / "toybox" / "weights" / "base" / "unet"


def projections(toybox: AbstractBackbone) -> dict[str, torch.nn.Module]:
    """Two cross-attentions' keys."""
    modules = dict(original_modules(toybox.components()["denoiser"]))
    return dict([(name, module) for name, module in modules.items() if name.endswith("attn2.to_k")][:2])


def low_rank(toybox: AbstractBackbone, prefix: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tensors = {}
    for name, module in projections(toybox).items():
        assert isinstance(module.weight, torch.Tensor)
        outer, inner = module.weight.shape
        tensors[f"{prefix}{name}.lora_A.weight"] = 0.01 * torch.randn(2, inner)
        tensors[f"{prefix}{name}.lora_B.weight"] = 0.01 * torch.randn(outer, 2)
    return tensors


def audited(path: Path, toybox: AbstractBackbone) -> list[float]:
    """How far the audit moves the two weights."""
    before = [module.weight.detach().clone() for module in projections(toybox).values()]  # type: ignore[operator]
    with applied(read_contents(path), toybox):
        now = [module.weight.detach() for module in projections(toybox).values()]  # type: ignore[union-attr]
        return [float((one - other).norm()) for one, other in zip(now, before, strict=True)]


def loaded(model: Any, toybox: AbstractBackbone) -> list[float]:
    """How far the loader moves them."""
    found = []
    for name, module in projections(toybox).items():
        layer = model.get_submodule(name)
        found.append(float(layer.get_delta_weight(layer.active_adapters[0]).detach().norm()))
        assert layer.base_layer.weight.shape == module.weight.shape
    return found


@pytest.mark.parametrize("pattern", [False, True])
def test_the_header_of_diffusers_counts_as_in_diffusers(
    pattern: bool, toybox: AbstractBackbone, tmp_path: Path
) -> None:
    first, _ = projections(toybox)
    settings: dict[str, object] = {"r": 2, "lora_alpha": 2000, "target_modules": list(projections(toybox))}
    if pattern:
        settings["alpha_pattern"] = {f"^{first}": 8}
    header = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in settings.items()})}
    save_file(low_rank(toybox, "unet."), tmp_path / "pytorch_lora_weights.safetensors", metadata=header)
    unet = UNet2DConditionModel.from_pretrained(UNET)
    unet.load_lora_adapter(
        str(tmp_path), weight_name="pytorch_lora_weights.safetensors", prefix="unet", local_files_only=True
    )
    found = audited(tmp_path / "pytorch_lora_weights.safetensors", toybox)
    assert found == pytest.approx(loaded(unet, toybox), rel=1e-3)
    assert found[1] > 1, "a thousand times what the tensors say"
    assert (found[0] < 0.1) is pattern


@pytest.mark.parametrize("key", ["to_k", "attn2.to_k", ".*to_k", ""])
def test_patterns_of_a_peft_folder_count_as_in_peft(key: str, toybox: AbstractBackbone, tmp_path: Path) -> None:
    from peft import PeftModel

    first, _ = projections(toybox)
    patterns = {key or first.replace(".", r"\."): 200}
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 0.02, "target_modules": list(projections(toybox)),
              "alpha_pattern": patterns}  # fmt: skip
    save_file(low_rank(toybox, "base_model.model."), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    model = PeftModel.from_pretrained(UNet2DConditionModel.from_pretrained(UNET), str(tmp_path))  # type: ignore[arg-type]
    found = audited(tmp_path, toybox)
    assert found == pytest.approx(loaded(model.base_model.model, toybox), rel=1e-3)
    assert found[0] > 0.01
    assert (found[1] > 0.01) is bool(key)


def test_what_loaders_take_in_two_ways_is_refused(toybox: AbstractBackbone, tmp_path: Path) -> None:
    def header(**settings: object) -> dict[str, str]:
        return {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in settings.items()})}

    file = tmp_path / "lora.safetensors"
    tensors = low_rank(toybox, "unet.")
    for metadata, message in (
        (header(r=2, lora_alpha=0.001), "weakens .* to 0.0005 of its tensors"),
        (header(r=4, lora_alpha=4), "does not fit .* of rank 2"),
        (header(r=2, lora_alpha=float("nan")), "expected numbers lora_alpha and r"),
        (header(r=2, lora_alpha=10**400), "expected numbers lora_alpha and r"),
        (header(r=2, lora_alpha=2, alpha_pattern={"(a*)*b": 3}), "expected patterns of module names"),
        (header(r=2, lora_alpha=2, init_lora_weights="pissa"), "sets init_lora_weights"),
        ({"lora_adapter_metadata": "[" * 100000}, "is not JSON"),
    ):
        save_file(tensors, file, metadata=metadata)
        with pytest.raises(ArtifactError, match=message):
            read_contents(file)
    name = next(iter(projections(toybox)))
    save_file({**tensors, f"unet.{name}.alpha": torch.tensor(1.0)}, file, metadata=header(r=2, lora_alpha=8))
    with pytest.raises(ArtifactError, match=r"two strengths: 0\.5 by its tensor alpha, 4 by the settings"):
        read_contents(file)
    flat = {f"lora_unet_{name.replace('.', '_')}.lora_{part}.weight": tensors[f"unet.{name}.lora_{old}.weight"]
            for part, old in (("down", "A"), ("up", "B"))}  # fmt: skip
    save_file(flat, file, metadata=header(r=2, lora_alpha=2, alpha_pattern={"to_k": 2000}))
    with pytest.raises(ArtifactError, match="has patterns for names with dots"):
        read_contents(file)
    save_file(tensors, file, metadata=header(r=2, lora_alpha=1))
    assert "apply them 2 times as strongly" in read_contents(file).notes[0]
    save_file(low_rank(toybox, "base_model.model."), tmp_path / "adapter_model.safetensors")
    for text in ("[" * 100000, '{"r": ' + 5000 * "9" + "}"):
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(ArtifactError, match="nested too deeply, or its numbers"):
            read_contents(tmp_path / "adapter_model.safetensors")
