"""Reference adapters on disk: published layouts are found and read, all else gets one message."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pcs_ext.config_io import read_json, write_json
from pcs_ext.errors import ArtifactError, ModelError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.encoder import open_encoder
from pcs_ext.image.reference.files import CONFIG, WEIGHTS, ReferenceConfig, open_adapter, save_adapter
from tests.support.encoders import tiny_clip, tiny_dino, tiny_resnet, tiny_vit
from tests.support.tiny_reference import HIDDEN, WIDTH, published, tiny_adapter, tiny_vision


@pytest.mark.parametrize("plus", [False, True])
def test_a_published_file_finds_the_encoder_beside_it(sd: AbstractBackbone, tmp_path: Path, plus: bool) -> None:
    opened = open_adapter(sd, str(published(tmp_path, sd, plus=plus)))
    assert (opened.adapter.sees, opened.encoder.width) == (("patches", HIDDEN) if plus else ("embedding", WIDTH))
    state = tiny_adapter(sd, plus=plus).published()
    again = opened.adapter.published()
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], state[key]) for key in state)
    seen = opened.encoder(torch.zeros(1, 3, 50, 40))
    assert seen.shape == ((1, 17, HIDDEN) if plus else (1, WIDTH))
    assert torch.count_nonzero(opened.encoder.blank(seen)) == (seen.numel() if plus else 0)


def test_the_encoder_of_the_right_width_is_taken(sd: AbstractBackbone, tmp_path: Path) -> None:
    """SDXL files lie in sdxl_models/ beside a wider encoder, and some of them read the one of models/."""
    path = published(tmp_path, sd)
    (tmp_path / "sdxl_models").mkdir()
    moved = shutil.move(path, tmp_path / "sdxl_models" / path.name)
    tiny_clip(tmp_path / "sdxl_models" / "image_encoder", width=24)
    wide = read_json(tmp_path / "sdxl_models" / "image_encoder" / CONFIG) | {"projection_dim": 40}
    write_json(tmp_path / "sdxl_models" / "image_encoder" / CONFIG, wide)
    opened = open_adapter(sd, str(moved))
    assert opened.encoder.digest == open_encoder(tmp_path / "models" / "image_encoder", "embedding").digest


def test_a_file_of_the_hub_is_found_in_its_cache(
    sd: AbstractBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "hub" / "models--h94--IP-Adapter" / "snapshots" / "0" / "x"
    published(snapshot.parent, sd)
    (snapshot.parents[2] / "refs").mkdir()
    (snapshot.parents[2] / "refs" / "main").write_text("0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    opened = open_adapter(sd, "h94/IP-Adapter/models/ip-adapter.safetensors")
    assert opened.encoder.width == WIDTH
    with pytest.raises(ModelError, match="hf download h94/IP-Adapter models/other.safetensors"):
        open_adapter(sd, "h94/IP-Adapter/models/other.safetensors")


def settings(encoder: str, digest: str) -> ReferenceConfig:
    return ReferenceConfig(
        encoder=encoder, encoder_digest=digest, base="some", base_fingerprint="0", family="sd", steps=1
    )  # fmt: skip


def test_a_folder_of_ours_comes_back_and_knows_its_encoder(sd: AbstractBackbone, tmp_path: Path) -> None:
    eye = tiny_vision(tmp_path / "eye")
    digest = open_encoder(eye, "embedding").digest
    adapter = tiny_adapter(sd)
    save_adapter(adapter, settings(str(eye), digest), tmp_path / "ours", half=False)
    opened = open_adapter(sd, str(tmp_path / "ours"))
    assert all(torch.equal(opened.adapter.published()[key], value) for key, value in adapter.published().items())
    save_adapter(adapter, settings(str(eye), digest), tmp_path / "ours", half=True)
    assert load_file(tmp_path / "ours" / WEIGHTS)["image_proj.proj.weight"].dtype == torch.float16
    save_adapter(adapter, settings(str(eye), "12345678"), tmp_path / "ours", half=False)
    with pytest.raises(ArtifactError, match="was trained with .*12345678.* pictures look different"):
        open_adapter(sd, str(tmp_path / "ours"))


@pytest.mark.parametrize("make", [tiny_clip, tiny_dino, tiny_vit, tiny_resnet])
@pytest.mark.parametrize("sees", ["embedding", "patches"])
def test_any_encoder_can_be_the_eye(tmp_path: Path, make, sees) -> None:
    encoder = open_encoder(make(tmp_path / "eye"), sees)
    pictures = torch.rand(2, 3, 40, 36, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = encoder(pictures)
    assert features.shape[-1] == encoder.width
    assert features.dim() == (2 if sees == "embedding" else 3)
    assert not torch.allclose(features[0], features[1])
    assert encoder.blank(features).shape == features.shape


def test_mistakes_get_one_message(sd: AbstractBackbone, sdxl: AbstractBackbone, tmp_path: Path) -> None:
    path = published(tmp_path, sd)
    cases: list[tuple[AbstractBackbone, str, type[Exception], str]] = [
        (sd, "", ModelError, "needs a reference adapter .* h94/IP-Adapter/models/ip-adapter_sd15.safetensors"),
        (sdxl, "", ModelError, "ip-adapter_sdxl_vit-h.safetensors"),
        (sd, str(tmp_path / "ip.bin"), ModelError, "is a pickle.* weights_only=True"),
        (sd, str(tmp_path / "no.safetensors"), ModelError, "was not found|not in the hub cache"),
        (sd, "words", ModelError, "was not found: it is no folder"),
        (sd, str(tmp_path), ModelError, "holds no adapter"),
        (sdxl, str(path), ArtifactError, "was made for .*text width 16; .*sdxl has"),
    ]
    for backbone, name, kind, message in cases:
        with pytest.raises(kind, match=message):
            open_adapter(backbone, name)
    (tmp_path / "broken.safetensors").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged"):
        open_adapter(sd, str(tmp_path / "broken.safetensors"))
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "ip-adapter.bin").write_bytes(b"\x80")
    with pytest.raises(ModelError, match="is a pickle"):
        open_adapter(sd, str(tmp_path / "pickled"))


def test_foreign_files_and_encoders_are_refused(sd: AbstractBackbone, tmp_path: Path) -> None:
    path = published(tmp_path, sd)
    state = load_file(path)
    odd = tmp_path / "models" / "odd.safetensors"
    lora = {"lora.up.weight": torch.zeros(2, 2)}
    face = {key.replace("proj.weight", "proj.0.weight"): value for key, value in state.items()}
    short = {key: value for key, value in state.items() if key != "ip_adapter.3.to_v_ip.weight"}
    gap = {key: value for key, value in state.items() if not key.startswith("ip_adapter.3.")}
    for broken, message in (
        (lora, "holds lora.up.weight.* expected an IP-Adapter"),
        (face, "FaceID"),
        (short, "ip_adapter.3.to_v_ip.weight is missing"),
        (gap, "ip_adapter.1.to_k_ip.weight, ip_adapter.3"),
    ):
        save_file(broken, odd)
        with pytest.raises(ArtifactError, match=message):
            open_adapter(sd, str(odd))
    with pytest.raises(ArtifactError, match="reads vectors of width 16, .* gives 32"):
        open_adapter(sd, str(path), encoder=str(tiny_dino(tmp_path / "dino")))
    shutil.rmtree(tmp_path / "models" / "image_encoder")
    with pytest.raises(ModelError, match="no image encoder for vectors of width 16 .*--reference-encoder"):
        open_adapter(sd, str(path))
