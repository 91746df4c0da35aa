import dataclasses
import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import atomic_folder
from pcs_ext.errors import ArtifactError

PNG = b"\x89PNG\r\n\x1a\n rest"


def make(**changes):
    fields = {
        "recipe": {"id": "dreambooth-lora", "phases": [{"steps": 3}]},
        "concept": {"class_noun": "dog"},
        "adapters": {"lora": {"kind": "low_rank", "rank": 2}, "words": {"kind": "embedding"}},
        "tensors": {
            "lora": {"denoiser.a.lora_A.weight": torch.randn(2, 3), "b": torch.randn(1).half()},
            "words": {"text_encoder.weight": torch.randn(2, 4).T},
        },
        "base_name": "toybox",
        "base_fingerprint": "0123456789abcdef",
        "base_family": "sd",
        "training": {"steps": 3, "losses": [0.3, 0.25]},
    }
    return ArtifactData(**{**fields, **changes})


@pytest.fixture
def saved(tmp_path):
    make().save(tmp_path / "rex")
    return tmp_path / "rex"


def rewrite(folder, change):
    """Apply `change` to config.json as data."""
    data = json.loads((folder / "config.json").read_text())
    change(data)
    (folder / "config.json").write_text(json.dumps(data))


@pytest.mark.parametrize("preview", [None, PNG])
def test_round_trip_is_exact(tmp_path, preview):
    data = make(preview=preview)
    data.save(tmp_path / "rex")
    back = ArtifactData.load(tmp_path / "rex")
    for field in dataclasses.fields(data):
        if field.name != "tensors":
            assert getattr(back, field.name) == getattr(data, field.name)
    assert back.tensors.keys() == data.tensors.keys()
    for name, state in data.tensors.items():
        assert back.tensors_of(name).keys() == state.keys()
        for key, tensor in state.items():
            assert back.tensors[name][key].dtype == tensor.dtype
            assert torch.equal(back.tensors[name][key], tensor)
    assert back.content_hash == data.content_hash
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rex"]


def test_content_hash_depends_on_every_tensor_and_on_the_recipe():
    data = make()
    state = {**data.tensors["lora"], "b": data.tensors["lora"]["b"] + 1}
    other = dataclasses.replace(data, tensors={**data.tensors, "lora": state})
    assert other.content_hash != data.content_hash
    assert dataclasses.replace(data, recipe={"id": "other"}).content_hash != data.content_hash
    assert dataclasses.replace(data, training={}).content_hash == data.content_hash


def test_save_replaces_an_artifact_but_nothing_else(tmp_path, saved):
    second = make()
    second.save(saved)
    assert ArtifactData.load(saved).content_hash == second.content_hash
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(PNG)
    with pytest.raises(ArtifactError, match="not a learned subject, so it is not replaced"):
        make().save(photos)
    assert (photos / "a.png").read_bytes() == PNG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema_version=2), "schema_version 2, this version reads 1"),
        (lambda d: d.update(kind="video-subject"), "expected 'image-subject'"),
        (lambda d: d.update(extra=1), "extra"),
        (lambda d: d.pop("recipe"), "recipe"),
        (lambda d: d["base"].update(path="x"), "path"),
        (lambda d: d.update(training=[1]), "training"),
        (lambda d: d["files"].update({"../../etc/passwd": "0"}), "unknown file"),
        (lambda d: d["files"].pop("adapter.safetensors"), "does not list"),
        (lambda d: d["files"].update({"preview.png": "0"}), "has no preview.png"),
        (lambda d: d["adapters"].pop("words"), "belongs to none of the adapters"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(ArtifactError, match=message):
        ArtifactData.load(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "kind 'list'"),
        ("[" * 200_000, "nested too deeply"),
        (" " * (17 << 20), "at most"),
    ],
)
def test_a_config_that_is_no_config_is_refused(saved, text, message):
    (saved / "config.json").write_text(text)
    with pytest.raises(ArtifactError, match=message):
        ArtifactData.load(saved)


@pytest.mark.parametrize("name", ["config.json", "adapter.safetensors", "environment.json"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=f"has no {name}"):
        ArtifactData.load(saved)


def test_nothing_there(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        ArtifactData.load(tmp_path / "rex")


def reseal(folder):
    """Record the tensors' present sha256, as someone who forges the folder would."""
    from pcs_ext.config_io import file_sha256

    rewrite(folder, lambda d: d["files"].update({"adapter.safetensors": file_sha256(folder / "adapter.safetensors")}))


def test_changed_bytes_are_noticed(saved):
    file = saved / "adapter.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"sha256 is .* config.json says"):
        ArtifactData.load(saved)


@pytest.mark.parametrize(
    "forge",
    [
        lambda content: content[:-1],
        lambda content: content[:20],
        lambda content: b"",
        # A header that claims a petabyte, and a tensor that claims more bytes than there are.
        lambda content: struct.pack("<Q", 1 << 50) + content[8:],
        lambda content: (
            struct.pack("<Q", 80)
            + json.dumps({"lora/a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}})
            .ljust(80)
            .encode()
        ),
        lambda content: pickle.dumps({"a": 1}),
    ],
)
def test_forged_tensors_are_refused(saved, forge):
    file = saved / "adapter.safetensors"
    file.write_bytes(forge(file.read_bytes()))
    reseal(saved)
    with pytest.raises(ArtifactError, match="corrupt or not a safetensors file"):
        ArtifactData.load(saved)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    make(tensors={"lora": {"a": torch.tensor([float("nan")])}, "words": {}}).save(tmp_path / "rex")
    with pytest.raises(ArtifactError, match="not finite"):
        ArtifactData.load(tmp_path / "rex")


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin", ".PTH"])
def test_pickles_are_refused_unopened_with_the_conversion_command(tmp_path, suffix):
    class Bomb:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/exploded",))

    file = tmp_path / f"learned{suffix}"
    file.write_bytes(pickle.dumps(Bomb()))
    for path in (file, tmp_path):
        with pytest.raises(ArtifactError, match=r"never loaded[\s\S]*python -c .*save_file"):
            ArtifactData.load(path)
    assert not (tmp_path / "exploded").exists()


def test_a_preview_must_be_a_png(tmp_path):
    make(preview=b"GIF89a").save(tmp_path / "rex")
    with pytest.raises(ArtifactError, match="not a PNG"):
        ArtifactData.load(tmp_path / "rex")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1), value=st.integers(0, 255), cut=st.booleans(), seal=st.booleans())
def test_any_damage_to_the_tensors_gives_a_clear_error_or_valid_tensors(saved, position, value, cut, seal):
    file = saved / "adapter.safetensors"
    intact = file.read_bytes()
    config = (saved / "config.json").read_text()
    index = int(position * (len(intact) - 1))
    file.write_bytes(intact[:index] if cut else intact[:index] + bytes([value]) + intact[index + 1 :])
    message = None
    try:
        if seal:
            reseal(saved)
        ArtifactData.load(saved)
    except ArtifactError as error:
        message = str(error)
    damaged = file.read_bytes() != intact
    file.write_bytes(intact)
    (saved / "config.json").write_text(config)
    assert "adapter.safetensors" in message if message else seal or not damaged


def test_a_folder_that_cannot_take_its_name_leaves_the_old_one_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "rex"
    with atomic_folder(target) as folder:
        (folder / "weights").write_text("old")
    rename, calls = os.replace, []

    def refuse(source: Path, destination: Path) -> None:
        calls.append(destination)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, destination)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as folder:
        (folder / "weights").write_text("new")
    assert (target / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["rex"], "a hidden folder was left behind"
