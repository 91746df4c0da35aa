"""HyperDreamBooth: weights of each row by hand, what is learned and kept, and a subject like any other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pcs_ext.errors import Interrupted, UsageError
from pcs_ext.image.adapters.lidb import LiDBSpace
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.data import find_photos
from pcs_ext.image.export import export_diffusers_lora
from pcs_ext.image.reference.hypernetwork import WeightDecoder
from pcs_ext.image.reference.predict import predict_subject
from pcs_ext.image.reference.reference import show
from pcs_ext.image.reference.rows import row_updates
from pcs_ext.image.reference.shown import Sight
from pcs_ext.image.reference.systems.hyperdreambooth import HyperDreamBooth
from pcs_ext.image.sample import SampleConfig, sample
from pcs_ext.image.subject import Artifact
from pcs_ext.video.subject import spatial_adapters
from tests.image.reference.test_kinds import Stopping, bright_and_dark, opposite, said
from tests.support.command_line import run
from tests.support.tiny_reference import HIDDEN, at_random, drawn, tiny_system


def test_every_row_passes_its_own_weights() -> None:
    root = nn.ModuleDict({"a": nn.Linear(3, 2)})
    x, up, down = drawn(2, 4, 3), drawn(2, 2, 1, seed=1), drawn(2, 1, 3, seed=2)
    up[1] = 0
    plain = root["a"](x)
    with row_updates(root, {"a": (up, down)}):
        changed = root["a"](x)
    torch.testing.assert_close(changed[0], plain[0] + x[0] @ (up[0] @ down[0]).T)
    assert torch.equal(changed[1], plain[1])
    assert torch.equal(root["a"](x), plain)


def test_the_decoder_refines_what_it_said() -> None:
    """T(f, theta) = theta + out: at zero it gives theta_0; two rounds are T of one round."""
    torch.manual_seed(0)
    decoder = WeightDecoder(3, 5, 7, width=8, depth=1, heads=2)
    patches, start = drawn(2, 4, 7), drawn(3, 5, seed=1)
    assert torch.equal(decoder(patches, start, 4), start.expand(2, -1, -1))
    nn.init.normal_(decoder.out.weight)
    one = decoder(patches[:1], start, 1)
    torch.testing.assert_close(decoder(patches[:1], start, 2), decoder(patches[:1], one[0], 1))
    assert not torch.allclose(decoder(patches[:1], start, 2), one)


def test_numbers_are_inner_factors_of_each_layer(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("hyperdreambooth", sd, eye)
    assert isinstance(adapter, HyperDreamBooth)
    config = adapter.config
    name, (up, down) = next(iter(adapter.inner(adapter.start).items()))
    wide, flat = adapter.basis(0)
    space = LiDBSpace.of(config.lidb(("denoiser",)), name, len(wide), flat.shape[1])
    assert torch.equal(wide, space.wide)
    assert torch.equal(down, space.start)
    assert not up.any()
    assert up.shape == (wide.shape[1], 1)
    # A layer that is narrower than the basis reads what it needs, and nothing of what follows.
    numbers = torch.arange(18.0).expand(len(adapter.places), -1)
    up, down = adapter.inner(numbers)[name]
    assert torch.equal(up.flatten(), torch.arange(12.0)[: wide.shape[1]])
    assert torch.equal(down.flatten(), torch.arange(12.0, 18.0)[: len(flat)])
    assert {owner for owner, _ in adapter.places.values()} == {"denoiser", "text_encoder"}


def test_its_subjects_are_fitted_first_and_pull_afterwards(sd: AbstractBackbone, eye: Path) -> None:
    from pcs_ext.image.reference.training import ReferenceLoss, ReferenceTraining

    adapter, encoder = tiny_system("hyperdreambooth", sd, eye)
    assert isinstance(adapter, HyperDreamBooth)
    sight = opposite(Sight(features=drawn(1, 17, HIDDEN)))
    settings = ReferenceTraining(batch_size=4, drop_image=0.0, drop_text=0.0, drop_both=0.0)
    loss = ReferenceLoss(sd, adapter, bright_and_dark(sight), settings, sight.map(lambda x: 0 * x[0]), encoder=encoder)
    (experts,) = adapter.groups()["experts"]
    assert experts.shape == (2, *adapter.start.shape), "numbers of two subjects"
    adapter.train()
    with adapter.inserted(sd):
        adapter.begin_stage("experts")
        terms = loss(0, 0, torch.Generator().manual_seed(0)).terms
        assert terms.keys() == {"denoising"}
        (gradient,) = torch.autograd.grad(terms["denoising"], experts)
        assert (gradient.flatten(1).abs().amax(1) > 0).all()
        adapter.begin_stage("hypernetwork")
        with torch.no_grad():
            experts[0] += 0.5
        terms = loss(0, 0, torch.Generator().manual_seed(1)).terms
        shown = loss.data.draw(4, torch.Generator().manual_seed(1)).subjects
    assert shown is not None
    # The hypernetwork still says where all begins: the first subject is L x S times 0.25 away, the second not at all.
    away = 0.25 * adapter.start.numel() * float((shown == 0).float().mean())
    assert terms["weights"].item() == pytest.approx(adapter.config.weights_weight * away, rel=1e-4)
    assert not any("expert" in key for key in adapter.published())


@pytest.fixture
def hyper(tiny_sd_path: Path, eye: Path, tmp_path: Path) -> Path:
    """A folder of an adapter whose every weight is random."""
    from pcs_ext.image.reference.files import save_adapter

    sd = load_backbone(str(tiny_sd_path), device="cpu", precision="fp32")
    adapter, encoder = tiny_system("hyperdreambooth", sd, eye)
    at_random(adapter, sd)
    save_adapter(adapter, said("hyperdreambooth", sd, encoder, eye), tmp_path / "hyper", half=False)
    return tmp_path / "hyper"


def test_what_is_told_of_a_photo_is_a_subject_like_any_other(
    hyper: Path, photos: Path, tiny_sd_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {"noun": "dog", "device": "cpu", "precision": "fp32"}
    code, out, err = run(
        "reference", "predict", hyper, photos / "0.png", "--noun", "dog", "-o", tmp_path / "alone", "--steps", "0",
        "--device", "cpu", "--precision", "fp32", capture=capsys,
    )  # fmt: skip
    assert (code, out.split()) == (0, [str(tmp_path / "alone")]), err
    alone = Artifact.load(tmp_path / "alone")
    sd = load_backbone(str(tiny_sd_path), device="cpu", precision="fp32")
    config = SampleConfig(scheduler="ddim", num_inference_steps=2, guidance_scale=1.0)
    reference = show(sd, find_photos(photos / "0.png"), adapter=str(hyper), nouns=("dog",))
    with torch.inference_mode():
        seen = sample(sd, ["a photo of a dog"], seeds=[3], config=config, hooks=reference.hooks(sd))
        plain = sample(sd, ["a photo of a dog"], seeds=[3], config=config)
        words = alone.concept.prompt("a photo of {subject}")
        assert words == f"a photo of a {alone.concept.token} dog"
        with alone.applied(sd):
            kept = sample(sd, [words], seeds=[3], config=config)
    torch.testing.assert_close(kept, seen, atol=2e-4, rtol=0)
    assert (seen - plain).abs().max() > 1e-2, "the photo matters"
    numbers = sum(t.numel() for key, t in alone.data.tensors_of("predicted").items() if not key.endswith("size"))
    assert numbers <= 18 * len(alone.data.tensors_of("predicted")) // 3
    with pytest.raises(Interrupted):
        predict_subject(
            hyper, photos / "0.png", tmp_path / "rex", steps=3, rank=2, **asked, reporter=Stopping("learn relaxed", 1)
        )
    rex = predict_subject(hyper, photos / "0.png", tmp_path / "rex", steps=3, rank=2, **asked)
    for key, tensor in alone.data.tensors_of("predicted").items():
        assert torch.equal(rex.data.tensors_of("predicted")[key], tensor), "what was predicted stays"
    assert any(t.any() for key, t in rex.data.tensors_of("relaxed").items() if "lora_B" in key)
    file = export_diffusers_lora(rex.data, tmp_path / "export")
    ranks = {tensor.shape[0] for key, tensor in load_file(file).items() if key.endswith("lora_A.weight")}
    assert ranks == {3}, "1 predicted and 2 tuned, in one LoRA"
    merged_into_one(rex, sd, file)
    assert [type(adapter).__name__ for adapter in spatial_adapters(rex, sd)] == ["LiDBAdapter", "LowRankAdapter"]  # type: ignore[arg-type]


def merged_into_one(rex: Artifact, sd: AbstractBackbone, file: Path) -> None:
    """The exported update of every layer is the sum of both adapters'."""
    from pcs_ext.image.adapters.layers import merged_weights, original

    exported = load_file(file)
    with rex.applied(sd), torch.no_grad():
        for path, weight in merged_weights(sd.denoiser).items():
            up, down = (exported[f"unet.{path}.lora_{side}.weight"] for side in "BA")
            base = original(sd.denoiser.get_submodule(path)).weight
            torch.testing.assert_close(weight - base, up @ down, atol=1e-5, rtol=1e-4)  # type: ignore[operator]


def test_mistakes_of_predicting_are_named(sd: AbstractBackbone, hyper: Path, eye: Path, photos: Path, tmp_path: Path):
    from pcs_ext.image.reference.files import save_adapter

    adapter, encoder = tiny_system("photomaker", sd, eye)
    with adapter.inserted(sd):
        pass
    save_adapter(adapter, said("photomaker", sd, encoder, eye), tmp_path / "maker", half=False)
    with pytest.raises(UsageError, match="is of photomaker, which tells no weights"):
        predict_subject(tmp_path / "maker", photos / "0.png", tmp_path / "rex", noun="dog")
    with pytest.raises(UsageError, match="--noun is empty"):
        predict_subject(hyper, photos / "0.png", tmp_path / "rex", noun=" ")
