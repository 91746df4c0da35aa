"""Joined subjects: each keeps what it says and does, and the base what it was."""

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image

from pcs_ext.errors import ArtifactError, UsageError
from pcs_ext.image.adapters import NeuronsConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.learn import learn
from pcs_ext.image.merge import merge
from pcs_ext.image.recipes import RECIPES
from pcs_ext.image.sample import SampleConfig
from pcs_ext.image.subject import Artifact

FEW = SampleConfig(num_inference_steps=2, guidance_scale=2.0)


@pytest.fixture(scope="module")
def base(tiny_sd_path: Path) -> AbstractBackbone:
    return load_backbone(str(tiny_sd_path), device="cpu", precision="fp32")


def subject(name: str, recipe: str, base: AbstractBackbone, folder: Path, *, size: float = 0.05) -> Artifact:
    """A subject as if it had been trained longer than a test can wait: its tensors are moved at random."""
    photos = folder / f"{name}-photos"
    photos.mkdir()
    noise = torch.randint(256, (40, 40, 3), generator=torch.Generator().manual_seed(len(name)), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(photos / "0.png")
    Image.new("L", (40, 40), 255).save(photos / "0_mask.png")
    full = RECIPES[recipe].build("dog", "toybox")
    quick = dataclasses.replace(full, class_images=min(full.class_images, 2), sampling=FEW).with_steps(1)
    with torch.enable_grad():
        artifact = learn(photos, noun="dog", output=folder / name, recipe=quick, base=base)
    generator = torch.Generator().manual_seed(len(name))
    moved = {
        adapter: {
            key: value if key.endswith("initial") else value + size * torch.randn(value.shape, generator=generator)
            for key, value in tensors.items()
        }
        for adapter, tensors in artifact.data.tensors.items()
    }
    return Artifact(dataclasses.replace(artifact.data, tensors=moved))


def keys_and_values(base: AbstractBackbone, prompt: str) -> list[torch.Tensor]:
    states = base.encode_prompt([prompt]).states[:, : 1 + base.token_count(prompt)]
    return [
        base.denoiser.get_submodule(f"{path}.{name}")(states)
        for path in base.cross_attention_paths()
        for name in ("to_k", "to_v")
    ]


@torch.no_grad()
def test_custom_diffusion_subjects_keep_their_keys_and_values(base: AbstractBackbone, tmp_path: Path) -> None:
    subjects = [subject(name, "custom-diffusion", base, tmp_path) for name in ("rex", "tommy")]
    before = base.encode_prompt(["a dog"]).states
    data = merge(subjects, ["rex", "tommy"], base)
    assert data.recipe["method"] == "kv"
    data.save(tmp_path / "both")
    both = Artifact.load(tmp_path / "both")
    assert both.concept.parts == ("<rex> dog", "<tommy> dog")
    assert both.concept.prompt("{subject} in snow") == "a <rex> dog and a <tommy> dog in snow"
    alone = []
    for artifact in subjects:
        with artifact.applied(base):
            alone.append(keys_and_values(base, "photo of a <subject> dog"))
    with both.applied(base):
        joint = [keys_and_values(base, f"photo of a <{name}> dog") for name in ("rex", "tommy")]
    first = 1 + base.token_count("photo of a")
    for own, now in zip(alone, joint, strict=True):
        for expected, got in zip(own, now, strict=True):
            torch.testing.assert_close(got[:, first:], expected[:, first:], atol=2e-3, rtol=2e-3)
    assert torch.equal(base.encode_prompt(["a dog"]).states, before)
    assert len(both.generate(["a photo of <rex> dog and <tommy> dog"], base=base)) == 1


@torch.no_grad()
@pytest.mark.parametrize("recipe", ["mix-of-show", "lycoris-lokr"])
def test_fusion_is_nearer_to_each_subject_than_the_base_is(recipe: str, base: AbstractBackbone, tmp_path: Path) -> None:
    # Small moves: large ones make layers read what they never read while the fusion was fitted.
    subjects = [subject(name, recipe, base, tmp_path, size=0.01) for name in ("rex", "tommy")]
    if recipe == "lycoris-lokr":  # both say the same rare word
        with pytest.raises(UsageError, match="two subjects are both called"):
            merge(subjects, ["rex", "tommy"], base)
        subjects[1].concept = dataclasses.replace(subjects[1].concept, token="bqx")
    data = merge(subjects, ["rex", "tommy"], base)
    assert data.recipe["method"] == "fusion"
    both = Artifact(data)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))

    def paint(words: str) -> torch.Tensor:
        return base.predict(latents, torch.tensor([400]), base.encode_prompt([f"a photo of a {words}"]))

    for index, words in enumerate(both.concept.parts):
        own = subjects[index]
        with own.applied(base):
            expected = paint(own.concept.name)
        with both.applied(base):
            joint = paint(words)
        with both.applied(base, scale=0.0):
            plain = paint(words)
        assert (joint - expected).norm() < (plain - expected).norm(), words


def test_one_subject_twice_fuses_to_itself(base: AbstractBackbone, tmp_path: Path) -> None:
    one = subject("rex", "lycoris-lokr", base, tmp_path)
    other = Artifact(one.data)
    other.concept = dataclasses.replace(one.concept, token="bqx")
    data = merge([one, other], ["a", "b"], base, config=FEW)
    with one.applied(base), torch.no_grad():
        layers = {k: v for a in one.adapters() for k, v in a.state_dict().items()}
        from pcs_ext.image.adapters.layers import merged_weights

        own = merged_weights(base.denoiser)
    assert layers
    for path, weight in own.items():
        fused = data.tensors["weights"][f"denoiser.{path}.weight"]
        # Where nothing was read it stays the base: compare on directions that were.
        assert (fused - weight).norm() < (base.denoiser.get_submodule(path).weight - weight).norm()


def test_what_cannot_be_joined_is_said(base: AbstractBackbone, sd: AbstractBackbone, tmp_path: Path) -> None:
    words = subject("rex", "textual-inversion", base, tmp_path)
    tail = subject("tommy", "hiper", base, tmp_path)
    with pytest.raises(UsageError, match="two or more subjects"):
        merge([words], ["rex"], base)
    with pytest.raises(UsageError, match="names must differ"):
        merge([words, words], ["rex", "rex"], base)
    with pytest.raises(UsageError, match="kind 'tail', which merge cannot join"):
        merge([words, tail], ["rex", "tommy"], base)
    foreign = Artifact(dataclasses.replace(words.data, base_fingerprint="0" * 16))
    with pytest.raises(ArtifactError, match="merge subjects of one base"):
        merge([words, foreign], ["rex", "tommy"], base)
    lora = subject("max", "mix-of-show", base, tmp_path)
    with pytest.raises(UsageError, match="--method fusion"):
        merge([words, lora], ["rex", "max"], base, method="kv")
    joint = Artifact(merge([words, words], ["rex", "tommy"], base))
    assert joint.concept.parts == ("<rex>", "<tommy>")
    assert len(joint.generate(["a <rex> and a <tommy>"], base=base)) == 1


def test_neurons_are_joined_by_their_union(base: AbstractBackbone, tmp_path: Path) -> None:
    """The words must differ, and so must the photos for the neurons to."""
    learned = []
    for number, word in enumerate(("sks", "bqx")):
        photos = tmp_path / word
        photos.mkdir()
        Image.effect_noise((40, 40), 20 + 60 * number).convert("RGB").save(photos / "0.png")
        full = RECIPES["cones"].build("dog", "toybox")
        neurons = {"neurons": NeuronsConfig(share=0.1)}  # more than one weight of a tiny layer
        quick = dataclasses.replace(full, adapters=neurons, class_images=2, sampling=FEW).with_steps(2)
        learned.append(learn(photos, noun="dog", output=tmp_path / f"{word}-out", recipe=quick, base=base, token=word))
    data = merge(learned, ["rex", "tommy"], base)
    assert (data.recipe["method"], data.concept["parts"]) == ("neurons", ["sks dog", "bqx dog"])
    sizes = set()
    for key, shut in data.tensors["neurons"].items():
        each = [set(artifact.data.tensors["neurons"][key].tolist()) for artifact in learned]
        assert set(shut.tolist()) == each[0] | each[1]
        sizes.add(len(each[0] ^ each[1]))
    assert max(sizes) > 0, "the two are not alike"
    data.save(tmp_path / "both")
    (image,) = Artifact.load(tmp_path / "both").generate("a photo of {subject}", seeds=[0], base=base)
    assert image.image.size == (32, 32)
    other = subject("momo", "custom-diffusion", base, tmp_path)
    for subjects, method in (((learned[0], other), "auto"), (learned, "kv"), ((other, other), "neurons")):
        with pytest.raises(UsageError, match="joined by their union, among themselves"):
            merge(list(subjects), ["rex", "tommy"], base, method=method)  # type: ignore[arg-type]
