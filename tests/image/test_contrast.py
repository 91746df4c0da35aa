"""MC-TI: the term by hand, what it moves, and learned words as a classifier."""

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image

from pcs_ext.errors import ArtifactError, ModelError, PhotoError, UsageError
from pcs_ext.image.adapters import EmbeddingConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.classes import class_photos, learn_classes, load_classifier
from pcs_ext.image.classify import TokenClassifier, accuracy
from pcs_ext.image.contrast import Contrast, PromptReader, Rivals, photo_features
from pcs_ext.image.data import find_photos
from pcs_ext.image.evaluate.encoders import ClipEncoder, load_image_text_encoder
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.learn import learn
from pcs_ext.image.recipes import RECIPES
from pcs_ext.image.subject import Artifact
from pcs_ext.image.types import LossTerms, ParameterGroup
from tests.support.encoders import tiny_clip

PROMPT = "a photo of <rex>"


@pytest.fixture
def clip(tmp_path: Path) -> ClipEncoder:
    """Of the tiny base's width."""
    return load_image_text_encoder(tiny_clip(tmp_path / "clip", width=16))


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    """Three classes of two photos, told apart by colour."""
    for name, color in (("ann", (220, 30, 30)), ("bob", (30, 200, 40)), ("cid", (40, 40, 230))):
        (tmp_path / "toys" / name).mkdir(parents=True)
        for index in range(2):
            noise = Image.effect_noise((40, 40), 30 + index).convert("RGB")
            Image.blend(Image.new("RGB", (40, 40), color), noise, 0.2).save(tmp_path / "toys" / name / f"{index}.png")
    return tmp_path / "toys"


def word(token: str = "<rex>", seed: int = 0):
    return build_adapter("word", EmbeddingConfig(placeholder=token, init_seed=seed, init_std=0.3))


def test_the_term_by_hand(sd: AbstractBackbone, clip: ClipEncoder) -> None:
    own, *others = torch.eye(16)[:3, None]  # one picture of each of three classes
    with injected(sd, word()):
        reader = PromptReader(sd, clip)
        text = reader([PROMPT])
        torch.testing.assert_close(text.norm(dim=-1), torch.ones(1))
        value = Contrast(reader, own, others, 10.0)(PROMPT, torch.Generator())
    logits = 10 * text[0, :3]
    torch.testing.assert_close(value, torch.logsumexp(logits, 0) - logits[0])


def test_the_term_moves_the_word_to_its_class_and_nothing_else(sd: AbstractBackbone, clip: ClipEncoder) -> None:
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(4, 16, generator=generator)
    classes = [
        torch.nn.functional.normalize(c + 0.3 * torch.randn(5, 16, generator=generator), dim=-1) for c in centres
    ]

    def margin(reader: PromptReader, own: int) -> float:
        """How much nearer the word is to its own class than to the nearest other one."""
        near = (reader([PROMPT])[0] @ torch.stack([features.mean(0) for features in classes]).T).tolist()
        return near.pop(own) - max(near)

    for own in range(4):
        adapter, rest = word(seed=own), [classes[k] for k in range(4) if k != own]
        with injected(sd, adapter):
            reader = PromptReader(sd, clip)
            contrast, before = Contrast(reader, classes[own], rest, 10.0), margin(reader, own)
            (rows,) = adapter.parameters()["embedding"]
            rows.requires_grad_(True)
            group = ParameterGroup(name="word/embedding", parameters=(rows,), learning_rate=0.1)

            def loss(step: int, micro_step: int, generator: torch.Generator, contrast=contrast) -> LossTerms:
                return LossTerms({"classification": contrast(PROMPT, generator)})

            for _ in fit(loss, [group], FitConfig(steps=25)):
                pass
            assert margin(reader, own) > before + 0.05, own
            assert all(p.grad is None for m in sd.components().values() for p in m.parameters() if p is not rows)


def test_a_recipe_without_rivals_is_textual_inversion(
    sd: AbstractBackbone, clip: ClipEncoder, toys: Path, tmp_path: Path
) -> None:
    learned = {}
    for name, rivals in (("textual-inversion", None), ("mc-ti", None), ("mc-ti", "others")):
        recipe = RECIPES[name].build("toy", "toybox").with_steps(3)
        against = None if rivals is None else Rivals(clip, [find_photos(toys / "bob"), find_photos(toys / "cid")])
        output = tmp_path / f"{name}-{rivals}"
        learned[name, rivals] = learn(
            toys / "ann", noun="toy", output=output, recipe=recipe, base=sd, rivals=against
        ).data
    plain, alone, told = learned.values()
    weight = "text_encoder.weight"
    assert torch.equal(plain.tensors["word"][weight], alone.tensors["word"][weight])
    assert not torch.equal(plain.tensors["word"][weight], told.tensors["word"][weight])
    assert alone.training["rivals"] is None
    assert len(told.training["rivals"]) == 16
    assert told.training["losses"][0] > alone.training["losses"][0]


def test_classes_are_learned_once_and_read(sd: AbstractBackbone, clip: ClipEncoder, toys: Path, tmp_path: Path) -> None:
    output = tmp_path / "words"
    names = learn_classes(toys, noun="toy", output=output, clip=clip, base=sd.name, steps=2, device="cpu")
    assert names == ["ann", "bob", "cid"]
    written = (output / "bob" / "adapter.safetensors").stat().st_mtime_ns
    learn_classes(toys, noun="toy", output=output, clip=clip, base=sd.name, steps=2, device="cpu")
    assert (output / "bob" / "adapter.safetensors").stat().st_mtime_ns == written
    classifier = load_classifier(output, lambda base: clip, device="cpu")
    photos = class_photos(toys)
    shares = classifier.probabilities(photos["ann"])
    torch.testing.assert_close(shares.sum(1), torch.ones(2))
    counts = classifier.confusion(photos)
    assert counts.sum(1).tolist() == [2, 2, 2]
    assert accuracy(torch.tensor([[3, 1], [0, 4]])) == pytest.approx(7 / 8)
    with pytest.raises(UsageError, match="zoe is no class here; expected some of ann, bob, cid"):
        classifier.confusion({"zoe": photos["ann"]})
    (toys / "cid" / "0.png").unlink()
    with pytest.raises(ArtifactError, match="learned against other photos"):
        learn_classes(toys, noun="toy", output=output, clip=clip, base=sd.name, steps=2, device="cpu")
    with pytest.raises(UsageError, match="0 learned subjects of 0 bases"):
        load_classifier(tmp_path / "nowhere", lambda base: clip)


def test_the_classifier_follows_its_words(sd: AbstractBackbone, clip: ClipEncoder, toys: Path, tmp_path: Path) -> None:
    """Class vectors set to the pictures' own directions take every picture for what it is."""
    recipe = RECIPES["textual-inversion"].build("toy", "toybox").with_steps(1)
    artifact = learn(toys / "ann", noun="toy", output=tmp_path / "ann", recipe=recipe, base=sd)
    read = TokenClassifier.of({"a": artifact, "b": Artifact(artifact.data)}, sd, clip)
    assert torch.equal(read.vectors[0], read.vectors[1])
    photos = class_photos(toys)
    vectors = torch.stack([photo_features(clip, group).mean(0) for group in photos.values()])
    ideal = dataclasses.replace(read, names=tuple(photos), vectors=torch.nn.functional.normalize(vectors, dim=-1))
    assert accuracy(ideal.confusion(photos)) == 1
    with pytest.raises(UsageError, match="at least two classes, got a"):
        TokenClassifier.of({"a": artifact}, sd, clip)


def test_wrong_requests_are_named(sd: AbstractBackbone, clip: ClipEncoder, toys: Path, tmp_path: Path) -> None:
    other = load_image_text_encoder(tiny_clip(tmp_path / "wide", width=32))
    with pytest.raises(ModelError, match="projects texts of width 32, the text encoder of .* has width 16"):
        PromptReader(sd, other)
    with pytest.raises(UsageError, match="at least one other class"):
        Rivals(clip, [])
    with pytest.raises(PhotoError, match="holds 0 folders; expected one per class"):
        class_photos(toys / "ann")
    with pytest.raises(PhotoError, match="is no folder"):
        class_photos(toys / "nobody")
