"""Training on pairs: what is drawn and dropped, and that an adapter learns to tell subjects apart."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pcs_ext.errors import ArtifactError, CheckpointError, ConfigError, Interrupted, PhotoError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.reference.albums import read_subjects
from pcs_ext.image.reference.files import open_adapter, read_settings
from pcs_ext.image.reference.learn import learn_reference
from pcs_ext.image.reference.pairs import PairData
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.ip_adapter import IPAdapter
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceTraining
from pcs_ext.image.types import ParameterGroup
from pcs_ext.reporter import SilentReporter
from tests.support.tiny_reference import WIDTH, tiny_vision


def two_subjects() -> PairData:
    """Bright and dark subjects, three pictures each, whose captions say nothing of it."""
    sides = torch.tensor([1.0, 1, 1, -1, -1, -1])
    return PairData(
        latents=sides[:, None, None, None].expand(6, 4, 8, 8).clone(),
        features=sides[:, None].expand(6, WIDTH).clone(),
        captions=[("a photo", "the toy")] * 6,
        groups=torch.arange(6).reshape(2, 3).unbind(0),
    )


def test_a_pair_is_two_pictures_of_one_subject() -> None:
    data = two_subjects()
    numbered = dataclasses.replace(
        data, features=torch.arange(6.0)[:, None], latents=torch.arange(6.0).reshape(6, 1, 1, 1)
    )
    drawn = numbered.draw(200, torch.Generator().manual_seed(0))
    target, reference = drawn.latents.flatten(), drawn.shown.sight.features.flatten()
    assert (target // 3 == reference // 3).all()
    assert (target != reference).all()
    assert set(target.tolist()) == set(range(6))
    assert set(drawn.captions) == {"a photo", "the toy"}
    assert drawn.shown.sight.features.shape == (200, 1, 1)


def test_shares_are_dropped_as_said(sd: AbstractBackbone) -> None:
    settings = ReferenceTraining(steps=1, batch_size=20_000, drop_image=0.1, drop_text=0.2, drop_both=0.05)
    loss = ReferenceLoss(sd, IPAdapter.begin(sd, WIDTH), two_subjects(), settings, Sight(features=torch.zeros(WIDTH)))
    text, image = loss._dropped(torch.Generator().manual_seed(0))
    shares = [float(x.float().mean()) for x in (text & ~image, image & ~text, text & image)]
    assert shares == pytest.approx([0.2, 0.1, 0.05], abs=0.01)
    with pytest.raises(ConfigError, match="sum to at most 1"):
        ReferenceTraining(drop_image=0.9, drop_text=0.2)
    with pytest.raises(ConfigError, match="of a batch of 1 nothing can be dropped"):
        ReferenceTraining(batch_size=1)
    assert ReferenceTraining(batch_size=1, drop_image=0, drop_text=0, drop_both=0).batch_size == 1


def test_an_adapter_learns_what_only_the_reference_tells(sd: AbstractBackbone) -> None:
    """Prediction of the noise in pure noise of a bright and a dark subject: without the reference both are one."""
    data, settings = two_subjects(), ReferenceTraining(steps=60, batch_size=8, drop_image=0, drop_text=0, drop_both=0)
    adapter = IPAdapter.begin(sd, WIDTH)
    base = [parameter.clone() for parameter in sd.denoiser.parameters()]
    late = lambda batch, generator: torch.randint(600, 1000, (batch,), generator=generator)  # noqa: E731
    loss = ReferenceLoss(sd, adapter, data, settings, Sight(features=torch.zeros(WIDTH)), draw_timesteps=late)
    group = ParameterGroup(name="reference", parameters=tuple(adapter.parameters()), learning_rate=1e-2)
    totals = [state.losses["total"] for state in fit(loss, [group], FitConfig(steps=60))]
    assert sum(totals[-10:]) < 0.9 * sum(totals[:10])
    assert all(torch.equal(one, other) for one, other in zip(base, sd.denoiser.parameters(), strict=True))
    right, wrong = (_error(sd, adapter, data, features) for features in (data.features, -data.features))
    assert right < wrong


@torch.no_grad()
def _error(sd: AbstractBackbone, adapter: IPAdapter, data: PairData, features: torch.Tensor) -> float:
    noise = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    timesteps = torch.full((6,), 800)
    shown = Shown(sight=Sight(features=features.unsqueeze(1)))
    told = adapter.conditioned(sd, sd.encode_prompt, ["a photo"] * 6, shown)
    predicted = sd.predict(sd.schedule.add_noise(data.latents, noise, timesteps), timesteps, told)
    return float((predicted - noise).square().mean())


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for subject, colour in (("one", "red"), ("two", "blue")):
        (tmp_path / "pairs" / subject).mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (40 + index, 36), colour).save(tmp_path / "pairs" / subject / f"{index}.png")
            (tmp_path / "pairs" / subject / f"{index}.txt").write_text("a photo of the toy")
    return tmp_path / "pairs"


def test_a_folder_of_pairs_becomes_an_adapter(pairs: Path, tiny_sd_path: Path, tmp_path: Path) -> None:
    eye, output = tiny_vision(tmp_path / "eye"), tmp_path / "adapter"
    settings: dict[str, Any] = {"base": str(tiny_sd_path), "encoder": str(eye), "device": "cpu", "precision": "fp32"}
    learn_reference(pairs, output, steps=2, **settings)
    from pcs_ext.image.backbones.load import load_backbone

    opened = open_adapter(load_backbone(str(tiny_sd_path), device="cpu", precision="fp32"), str(output))
    assert opened.adapter.width == WIDTH
    assert not (tmp_path / "adapter.training").exists()
    with pytest.raises(ArtifactError, match="exists already"):
        learn_reference(pairs, output, steps=2, **settings)
    with pytest.raises(UsageError, match="--encoder is needed"):
        learn_reference(pairs, tmp_path / "other", base=str(tiny_sd_path))


def test_masks_of_some_photos_alone_are_said_not_to_count(pairs: Path, tiny_sd_path: Path, tmp_path: Path) -> None:
    told: list[str] = []

    class Hearing(SilentReporter):
        def event(self, name: str, message: str, **fields: object) -> None:
            told.append(message) if name == "masks-left-out" else None

    settings: dict[str, Any] = {"base": str(tiny_sd_path), "encoder": str(tiny_vision(tmp_path / "eye")), "steps": 1}
    settings |= {"device": "cpu", "precision": "fp32", "reporter": Hearing()}
    learn_reference(pairs, tmp_path / "none", **settings)
    assert not told
    Image.new("L", (40, 36), 255).save(pairs / "one" / "0_mask.png")
    learn_reference(pairs, tmp_path / "some", **settings)
    photos = len(list(pairs.glob("*/?.png")))
    assert len(told) == 1
    assert f"{photos - 1} of {photos} photos in {pairs} have no mask: errors and attention" in told[0]


def test_a_training_goes_on_only_with_the_same_masks(
    pairs: Path, tiny_sd_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopper(SilentReporter):
        def progress(self, task: str, step: int, total: int, **fields: object) -> None:
            if task == "learn reference" and step == 1:
                raise KeyboardInterrupt

    tiny_vision(tmp_path / "eye")
    monkeypatch.chdir(tmp_path)
    settings: dict[str, Any] = {"base": str(tiny_sd_path), "encoder": "eye", "device": "cpu", "precision": "fp32"}
    with pytest.raises(Interrupted):
        learn_reference(pairs, tmp_path / "adapter", steps=2, **settings, reporter=Stopper())
    Image.new("L", (40, 36), 255).save(pairs / "one" / "0_mask.png")
    with pytest.raises(CheckpointError, match="made by other settings"):
        learn_reference(pairs, tmp_path / "adapter", steps=2, **settings)
    (pairs / "one" / "0_mask.png").unlink()
    learn_reference(pairs, tmp_path / "adapter", steps=2, **settings)
    assert read_settings(tmp_path / "adapter").encoder == str((tmp_path / "eye").resolve()), "found from anywhere"


def test_pairs_that_cannot_be_used_are_named(pairs: Path, tmp_path: Path) -> None:
    (pairs / "one" / "noun.txt").write_bytes("jouet \xe9".encode("latin-1"))
    with pytest.raises(PhotoError, match=r"one/noun.txt is no text in UTF-8"):
        read_subjects(pairs)
    (pairs / "one" / "noun.txt").write_text("\ufefftoy\n\n", encoding="utf-8")
    assert [own.nouns for own in read_subjects(pairs)] == [("toy",), ()]
    (pairs / "two" / "1.txt").unlink()
    with pytest.raises(PhotoError, match=r"two has no caption beside 1.png; expected 1.txt"):
        read_subjects(pairs)
    (pairs / "two" / "1.png").unlink()
    with pytest.raises(PhotoError, match="two holds one photo"):
        read_subjects(pairs)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PhotoError, match="has no subfolders"):
        read_subjects(tmp_path / "empty")
