"""W+ adapter: tokens of a code's coarse to fine rows, residual attention, terms that keep the scene, and edits."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pcs_ext.config_io import write_json
from pcs_ext.errors import ArtifactError, ConfigError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.files import ReferenceConfig, save_adapter
from pcs_ext.image.reference.learn import learn_reference
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.reference import generate
from pcs_ext.image.reference.restyle import moved, restyle
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.w_plus_adapter import (
    StyleTokens,
    WPlusAdapter,
    WPlusConfig,
    changed,
    disturbed,
)
from pcs_ext.reporter import SilentReporter
from tests.support.command_line import run
from tests.support.tiny_albums import albums
from tests.support.tiny_reference import HIDDEN, TINY, at_random, drawn, eye_of, tiny_system

NAME = "w_plus_tokens"


def ready(sd: AbstractBackbone, eye: Path) -> WPlusAdapter:
    adapter, _ = tiny_system("w-plus-adapter", sd, eye)
    assert isinstance(adapter, WPlusAdapter)
    at_random(adapter, sd)
    return adapter


def codes(pictures: int = 1, rows: int = 1) -> Shown:
    return Shown(sight=Sight(features=drawn(rows, pictures, 6, HIDDEN)))


@torch.no_grad()
def test_four_tokens_are_of_the_coarse_to_the_fine_rows() -> None:
    torch.manual_seed(0)
    assert [StyleTokens(count, 2, 4).counts for count in (18, 10, 4)] == [[4, 4, 4, 6], [2, 2, 3, 3], [1, 1, 1, 1]]
    with pytest.raises(ArtifactError, match="codes of 3 rows"):
        StyleTokens(3, 2, 4)
    tokens, code = StyleTokens(18, 2, 8), drawn(1, 18, 2)
    before = tokens(code)
    for row, group in ((0, 0), (3, 0), (4, 1), (11, 2), (12, 3), (17, 3)):
        other = code.clone()
        other[:, row] += 1
        different = (tokens(other) - before).abs().amax((0, 2)) > 1e-6
        assert different.tolist() == [number == group for number in range(4)]


@torch.no_grad()
def test_what_the_text_found_asks_the_tokens_before_the_outputs_map(sd: AbstractBackbone, eye: Path) -> None:
    adapter, shown = ready(sd, eye).eval(), codes(pictures=2)
    path = sd.cross_attention_paths()[0]
    attention: Any = sd.denoiser.get_submodule(path)
    found: list[Tensor] = []
    noisy, timesteps = drawn(1, 4, 8, 8, seed=4), torch.tensor([300])

    def record(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        found.append(given[0])

    first = attention.to_out[0].register_forward_pre_hook(record)  # before the adapter's, which is put in later
    last = attention.to_out[1].register_forward_pre_hook(record)
    with adapter.inserted(sd):
        told = adapter.conditioned(sd, sd.encode_prompt, ["the dog"], shown, scale=0.5)
        sd.predict(noisy, timesteps, told)
    first.remove()
    last.remove()
    tokens = adapter.project(shown.sight.features.mean(1))
    own: Any = adapter.attentions[adapter.names[path]]
    heads = lambda x: x.unflatten(2, (attention.heads, -1)).transpose(1, 2)  # noqa: E731
    query, key, value = heads(own.to_q(found[0])), heads(own.to_k(tokens)), heads(own.to_v(tokens))
    answer = ((attention.scale * query @ key.transpose(-1, -2)).softmax(-1) @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(found[1], attention.to_out[0](found[0] + 0.5 * answer), atol=1e-5, rtol=1e-4)


def test_attentions_begin_as_the_texts(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("w-plus-adapter", sd, eye)
    assert isinstance(adapter, WPlusAdapter)
    for path, name in adapter.names.items():
        for part in ("to_q", "to_k", "to_v"):
            theirs = sd.denoiser.get_submodule(f"{path}.{part}").weight
            assert torch.equal(adapter.attentions[name].get_submodule(part).weight, theirs)  # type: ignore[arg-type]


def test_the_second_part_keeps_the_scene(sd: AbstractBackbone, eye: Path) -> None:
    adapter, shown = ready(sd, eye).train(), codes(rows=2)
    masks = torch.zeros(2, 1, 8, 8).index_fill(3, torch.arange(4), 1.0)
    noisy, timesteps = drawn(2, 4, 8, 8, seed=4), torch.tensor([300, 20])

    def pairs(seed: int = 3) -> Pairs:
        return Pairs(
            latents=noisy, captions=("the dog", "the cat"), shown=shown, weights=None, masks=masks,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip

    with adapter.inserted(sd):
        told = adapter.conditioned(sd, sd.encode_prompt, ["the dog", "the cat"], shown)
        adapter.begin_stage("subject")
        with adapter.watching(sd, pairs()) as terms:
            sd.predict(noisy, timesteps, told)
            assert terms() == {}
        adapter.begin_stage("scene")
        with adapter.watching(sd, pairs()) as terms:
            predicted = sd.predict(noisy, timesteps, told)
            found = terms()
        with torch.no_grad():
            other = disturbed(shown.sight.features[:, 0], 2.0, torch.Generator().manual_seed(3))
            sight = Sight(features=other[:, None])
            away = adapter.conditioned(sd, sd.encode_prompt, ["the dog", "the cat"], Shown(sight=sight))
            moved_to = sd.predict(noisy, timesteps, away)
            plain = sd.predict(noisy, timesteps, sd.encode_prompt(["the dog", "the cat"]))
    torch.testing.assert_close(found["kept"], 0.4 * (predicted - plain).square().mean(), atol=1e-6, rtol=1e-4)
    around = (1 - masks) * (predicted - moved_to)
    torch.testing.assert_close(found["apart"], 0.6 * around.square().mean(), atol=1e-6, rtol=1e-4)
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in adapter.groups()["attention"])
    assert [stage.trains for stage in adapter.stages] == [("maps", "attention"), ("attention",)]
    with pytest.raises(ConfigError, match="subject_share"):
        WPlusConfig(subject_share=1.0)


def test_only_the_first_prediction_learns_from_a_change() -> None:
    one, other = torch.tensor([[[[3.0]]]], requires_grad=True), torch.tensor([[[[1.0]]]], requires_grad=True)
    changed(one, other, torch.tensor([[[[0.5]]]])).backward()
    assert one.grad is not None
    assert other.grad is None
    assert float(changed(one.detach(), other, torch.tensor([[[[0.5]]]]))) == 1.0


def test_codes_are_disturbed_in_three_ways() -> None:
    own = torch.stack([torch.zeros(6, 4), torch.ones(6, 4)])
    kinds = set()
    for seed in range(40):
        other = disturbed(own, 10.0, torch.Generator().manual_seed(seed))
        assert torch.equal(other, disturbed(own, 10.0, torch.Generator().manual_seed(seed)))
        noisy = other[0].std() > 1e-3
        # Along the way from 1 to 0 and from 0 to 1, or stretched by the own code, which is zeros in the first.
        kinds.add("noise" if noisy else "own" if float(other[0, 0, 0]) in (0.0, 1.0) else "way")
        if not noisy:
            assert other.abs().max() <= 11
    assert kinds == {"noise", "own", "way"}


def test_codes_are_moved_in_some_rows_along_a_direction() -> None:
    code, direction = torch.zeros(1, 6, 2), torch.ones(1, 6, 2)
    assert moved(code, direction, 2.0).unique().tolist() == [2.0]
    assert moved(code, direction, -1.0, (2, 3))[0, :, 0].tolist() == [0, -1, -1, 0, 0, 0]
    for rows in ((0, 2), (3, 2), (1, 7), (1,), (1, 2, 3)):
        with pytest.raises(UsageError, match="from 1 to 6"):
            moved(code, direction, 1.0, rows)


def stored(sd: AbstractBackbone, eye: Path, folder: Path) -> Path:
    adapter, encoder = tiny_system("w-plus-adapter", sd, eye)
    at_random(adapter, sd)
    said = ReferenceConfig(
        kind="w-plus-adapter", adapter=TINY["w-plus-adapter"], encoder=str(eye_of("w-plus-adapter", eye)),
        encoder_digest=encoder.digest, base=sd.name, base_fingerprint=sd.fingerprint, family=sd.family, steps=1,
    )  # fmt: skip
    save_adapter(adapter, said, folder, half=False)
    return folder


def test_a_subject_is_edited_in_the_style_space(sd: AbstractBackbone, eye: Path, photos: Path, tmp_path: Path) -> None:
    folder = stored(sd, eye, tmp_path / "ours")
    asked: dict[str, Any] = {"adapter": str(folder), "base": sd, "steps": 2, "seeds": [1]}
    plain = generate("a photo", photos / "0.png", **asked)[0].image.tobytes()
    given: dict[str, Any] = {"toward": [photos / "1.png"], **asked}

    def drawn_at(strength: float, **more: Any) -> bytes:
        return restyle(["a photo"], [photos / "0.png"], strength=strength, **given, **more)[0].image.tobytes()

    assert drawn_at(0.0) == plain
    there = generate("a photo", photos / "1.png", **asked)[0].image.tobytes()
    assert drawn_at(1.0) == there, "all the way from the own code to another's is that code"
    assert len({plain, drawn_at(3.0), drawn_at(3.0, rows=(1, 2)), drawn_at(-3.0)}) == 4
    image = restyle(["a photo"], [photos / "0.png"], strength=0.5, away=[photos / "2.png"], **given)[0]
    assert image.facts["restyle_strength"] == 0.5
    with pytest.raises(UsageError, match="needs a prompt"):
        restyle([], [photos / "0.png"], **given)
    other, encoder = tiny_system("omni-id", sd, eye)
    with other.inserted(sd):
        said = ReferenceConfig(
            kind="omni-id", adapter=TINY["omni-id"], encoder=str(eye),
            encoder_digest=encoder.digest, base=sd.name, base_fingerprint=sd.fingerprint, family=sd.family, steps=1,
        )  # fmt: skip
        save_adapter(other, said, tmp_path / "other", half=False)
    with pytest.raises(UsageError, match="reads no style space"):
        restyle(["a photo"], [photos / "0.png"], **{**given, "adapter": str(tmp_path / "other")})


def with_mask(photo: Path) -> None:
    """Lay a mask beside a photo that covers its left half."""
    with Image.open(photo) as image:
        mask = Image.new("L", image.size)
    mask.paste(255, (0, 0, mask.width // 2, mask.height))
    mask.save(photo.with_name(f"{photo.stem}_mask.png"))


def test_photos_that_are_compared_are_seen_alike(sd: AbstractBackbone, eye: Path, photos: Path, tmp_path: Path) -> None:
    folder = stored(sd, eye, tmp_path / "ours")
    told: list[str] = []

    class Told(SilentReporter):
        def event(self, name: str, message: str = "", **fields: Any) -> None:
            told.append(message)

    def drawn_now() -> bytes:
        image = restyle(
            ["a photo"], [photos / "0.png"], toward=[photos / "1.png"], away=[photos / "2.png"], adapter=str(folder),
            base=sd, steps=1, seeds=[1], reporter=Told(),
        )[0].image  # fmt: skip
        return image.tobytes()

    whole = drawn_now()
    with_mask(photos / "0.png")
    with_mask(photos / "1.png")
    assert told == []
    assert drawn_now() == whole, "one has no mask: masks of the others do not count"
    assert told == [f"{photos / '2.png'} has no mask: all photos are compared whole, without their masks"]
    with_mask(photos / "2.png")
    assert drawn_now() != whole
    assert len(told) == 1


def test_a_style_space_that_has_moved_is_named(
    sd: AbstractBackbone, tiny_sd_path: Path, eye: Path, photos: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = stored(sd, eye, tmp_path / "ours")
    shutil.move(eye_of("w-plus-adapter", eye), tmp_path / "moved")
    asked = [
        "reference", "restyle", "a photo", "--reference", photos / "0.png", "--toward", photos / "1.png", "--adapter",
        folder, "--steps", "1", "--base", tiny_sd_path, "--device", "cpu", "--precision", "fp32", "-o",
        tmp_path / "out.png",
    ]  # fmt: skip
    code, _, err = run(*asked, capture=capsys)
    assert code == 3, err
    code, out, err = run(*asked, "--encoder", tmp_path / "moved", capture=capsys)
    assert (code, out.split()) == (0, [str(tmp_path / "out.png")]), err


def test_a_style_space_must_be_named(tmp_path: Path) -> None:
    pairs = albums(tmp_path / "pairs")
    with pytest.raises(UsageError, match="--encoder is needed for w-plus-adapter: a style space"):
        learn_reference(pairs, tmp_path / "ours", system="w-plus-adapter", device="cpu")


def test_commands_as_users_type_them(
    sd: AbstractBackbone, tiny_sd_path: Path, eye: Path, photos: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = stored(sd, eye, tmp_path / "ours")
    given = ["--reference", photos / "0.png", "--toward", photos / "1.png", "--adapter", folder, "--steps", "2"]
    machine = ["--base", tiny_sd_path, "--device", "cpu", "--precision", "fp32"]
    output = tmp_path / "moved.png"
    asked = ["reference", "restyle", "a photo", *given, *machine]
    code, out, err = run(*asked, "-o", output, "--rows", "1", "3", "--away", photos / "2.png", capture=capsys)
    assert (code, out.split()) == (0, [str(output)]), err
    code, _, err = run(*asked, "-o", tmp_path / "none.png", "--rows", "3", "9", capture=capsys)
    assert code == 2
    assert "--rows 3 9 are no rows of a code; expected the first and the last, from 1 to 6." in err
    pairs = albums(tmp_path / "pairs")
    file = tmp_path / "tiny.json"
    write_json(file, {"networks": {"resolution": 8, "width": 4, "depth": 1, "channels": 4, "capacity": 32}})
    learn = ["reference", "style-space", pairs, "-o", tmp_path / "space", "--config", file, "--device", "cpu"]
    code, out, err = run(*learn, "--steps", "2", capture=capsys)
    assert (code, out.split()) == (0, [str(tmp_path / "space")]), err
    code, _, err = run(*learn, "--steps", "2", capture=capsys)
    assert code == 3
    assert "exists already" in err
