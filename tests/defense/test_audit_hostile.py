"""Files that are made to break the auditor, blind it or speak in its name."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pcs_ext.cli import main
from pcs_ext.defense.audit.command import audit
from pcs_ext.defense.audit.contents import read_contents
from pcs_ext.defense.audit.method import AuditMethod
from pcs_ext.errors import ArtifactError
from pcs_ext.image.backbone import AbstractBackbone

QUICK = AuditMethod(
    id="audit", words=8, painted=4, nouns=4, draws=1, pictures=1, picture_steps=1, picture_levels=(0.6,)
)


def test_malformed_layers_are_named_whatever_is_wrong_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    down, up, layer = torch.ones(2, 4), torch.ones(4, 2), "lora_unet_a"
    wide = {f"hada_w{n}_{part}": torch.ones(*shape) for n in "12" for part, shape in
            (("a", (20000, 1)), ("b", (1, 20000)))}  # fmt: skip
    cases: dict[str, tuple[dict[str, torch.Tensor], str]] = {
        "alpha": ({"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.ones(2)}, "expected one number"),
        "rank": ({"lora_down.weight": down, "lora_up.weight": torch.ones(4, 3)}, "cannot be multiplied"),
        "flat": ({"lora_down.weight": down, "lora_up.weight": torch.ones(2)}, "cannot be multiplied"),
        "number": ({"lora_down.weight": torch.tensor(1.0), "lora_up.weight": up}, "cannot be multiplied"),
        "vast": (wide, "no layer of a base is as large"),
    }
    for name, (tensors, message) in cases.items():
        file = tmp_path / f"{name}.safetensors"
        save_file({f"{layer}.{key}": tensor for key, tensor in tensors.items()}, file)
        with pytest.raises(SystemExit) as caught:
            main(["audit", str(file)])
        assert (caught.value.code, message in capsys.readouterr().err) == (3, True), name
    halves = {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
    save_file({k: tensor.to(torch.float8_e4m3fn) for k, tensor in halves.items()}, tmp_path / "fp8.safetensors")
    assert torch.equal(read_contents(tmp_path / "fp8.safetensors").layers[0].delta(torch.zeros(4, 4)), up @ down)


def test_numbers_that_overflow_are_never_nothing_found(toybox: AbstractBackbone, tmp_path: Path) -> None:
    """Every tensor is finite; what is computed from them is not."""
    layer = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    outer, inner = toybox.components()["text_encoder"].get_submodule("encoder.layers.0.mlp.fc1").weight.shape  # type: ignore[misc]
    factors = {
        f"{layer}.lora_up.weight": torch.full((int(outer), 1), 3e38),
        f"{layer}.lora_down.weight": torch.full((1, int(inner)), 3e38),
    }
    save_file(factors, tmp_path / "big.safetensors", metadata={"modelspec.trigger_phrase": "dog"})
    for base in ("", toybox):
        with pytest.raises(ArtifactError, match="mlp.fc1 is not finite"):
            audit(tmp_path / "big.safetensors", base=base, noun="dog", method=QUICK)
    save_file({"<rex>": torch.full((1, 192), 3e38)}, tmp_path / "rex.safetensors")
    report = audit(tmp_path / "rex.safetensors", base=toybox, noun="dog", method=QUICK)
    assert report.verdict == "suspicious"
    assert "not numbers" in report.reasons[0]


def test_pickles_beside_what_was_audited_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"<rex>": torch.zeros(1, 192)}, tmp_path / "rex.safetensors")
    for name in ("pytorch_lora_weights.bin", "a.pt", "b.ckpt", "c.pkl"):
        (tmp_path / name).write_bytes(b"never opened")
    main(["audit", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "  - pickles beside it were not opened" in shown
    assert "a.pt, b.ckpt, c.pkl and 1 more" in shown


def test_nothing_in_a_file_writes_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phrase = "x\x1b[2J\x1b[Hnothing found: rex\n  ! all is well \u202e" + 200 * "y"
    save_file(
        {"lora_unet_a.lora_down.weight": torch.ones(1, 4), "lora_unet_a.lora_up.weight": torch.ones(4, 1),
         "lora_unet_\x1b[2J\n.oft_R": torch.ones(1)},
        tmp_path / "esc.safetensors",
        metadata={"modelspec.trigger_phrase": phrase},
    )  # fmt: skip
    main(["audit", str(tmp_path / "esc.safetensors")])
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.splitlines())
    assert "called by x\\x1b[2J" in shown
    assert "all is well" in shown
    assert "y" * 60 not in shown
    assert not any(line.lstrip().startswith(("nothing found", "! all")) for line in shown.splitlines())
    with pytest.raises(SystemExit):
        main(["audit", str(tmp_path / "esc.safetensors"), "--base", "toybox"])
    assert "\x1b" not in capsys.readouterr().err
    save_file({"\x1b[2J.weight": torch.ones(1)}, tmp_path / "key.safetensors")
    with pytest.raises(ArtifactError) as caught:
        read_contents(tmp_path / "key.safetensors")
    assert "\x1b" not in str(caught.value)
