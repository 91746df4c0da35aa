"""A subject in a style: which pictures are asked for under which words, each part by hand, and what is refused."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pcs_ext.errors import ConfigError, PhotoError, UsageError
from pcs_ext.image.adapters import EmbeddingConfig, build_adapter, injected
from pcs_ext.image.adapters.vocabulary import token_positions
from pcs_ext.image.attention import AttentionMaps, attention_program
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import SubjectDataset, find_photos
from pcs_ext.image.likeness.composed import ComposedTerm, composed_term
from pcs_ext.image.likeness.config import ComposedConfig
from pcs_ext.image.likeness.recogniser import Recogniser
from pcs_ext.image.recipes import RECIPES
from pcs_ext.image.terms.base import Step
from tests.support.encoders import tiny_dino

PROMPT = "a photo of a <subject> dog in <style> style"
CONCEPT = RECIPES["magicapture"].build("dog", "toybox").concept


@pytest.fixture
def album(photos: Path) -> SubjectDataset:
    """The first picture is of the style, all but its left half; the others' faces are on the left."""
    for photo in photos.glob("?.png"):
        with Image.open(photo) as image:
            mask = Image.new("L", image.size)
        half = (mask.width // 2, 0, mask.width, mask.height) if photo.stem == "0" else (0, 0, 20, mask.height)
        mask.paste(255, half)
        mask.save(photo.with_name(f"{photo.stem}_mask.png"))
    (photos / "0.txt").write_text("a photo of a dog in <style> style", "utf-8")
    augmentation = RECIPES["magicapture"].build("dog", "toybox").augmentation
    return SubjectDataset(find_photos(photos), CONCEPT, resolution=32, augmentation=augmentation)


def config(eye: Path, **changes) -> ComposedConfig:
    plain = ComposedConfig(
        template="a photo of {subject} in <style> style", subject="word", style="style", encoder=str(eye), side=8,
        denoising=0.0, attention=0.0, identity=0.0, below=1.0,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def test_every_part_by_hand(sd: AbstractBackbone, album: SubjectDataset, tmp_path: Path) -> None:
    eye = tiny_dino(tmp_path / "eye")
    words = {
        "word": build_adapter("word", EmbeddingConfig(placeholder="<subject>", initializer="dog")),
        "style": build_adapter("style", EmbeddingConfig(placeholder="<style>", initializer="red")),
    }
    with injected(sd, *words.values()):

        def value(**weights: float) -> torch.Tensor:
            term = composed_term(config(eye, **weights), album, "<style>", sd)
            assert isinstance(term, ComposedTerm)
            assert [photo.path.name for photo in term.style.photos] == ["0.png"]
            assert term.prompt == PROMPT
            step = Step(
                backbone=sd, batch=album.batch(1, torch.Generator()), conditioning=sd.encode_prompt(["a dog"]),
                adapters=words, maps=None, generator=torch.Generator().manual_seed(7),
            )  # fmt: skip
            return term(step)

        # The same draws, written out.
        generator = torch.Generator().manual_seed(7)
        style = album.some([True, False, False])
        assert style is not None
        batch = style.batch(1, generator)
        latents = sd.encode_images(batch.images)
        noise = torch.randn(latents.shape, generator=generator)
        timestep = sd.schedule.draw_timesteps(1, generator)
        noisy, maps = sd.schedule.add_noise(latents, noise, timestep), AttentionMaps(8, exact=True)
        with attention_program(sd, maps), torch.no_grad():
            prediction = sd.predict(noisy, timestep, sd.encode_prompt([PROMPT]))
        assert batch.masks is not None
        cells = F.interpolate(batch.masks, size=(8, 8), mode="area")
        error = (cells * (prediction - noise).square()).sum() / (4 * cells.sum())
        torch.testing.assert_close(value(denoising=2.0), 2 * error, atol=1e-4, rtol=1e-3)

        outside = []
        for token, place in (("<subject>", 1 - cells[0, 0]), ("<style>", cells[0, 0])):
            (at,) = token_positions(sd, [token], [PROMPT])[0].nonzero()[:, 0].tolist()
            look = maps.maps()[0, at] / maps.maps()[0, at].max()
            outside.append((look * (1 - place)).sum() / (1 - place).sum())
        torch.testing.assert_close(value(attention=2.5), 2.5 * sum(outside), atol=1e-4, rtol=1e-3)

        recogniser, people = Recogniser(str(eye), sd.device), album.some([False, True, True])
        assert people is not None
        wanted = F.normalize(recogniser(torch.stack(people.squares()), people.square_masks()).mean(0), dim=0)
        clean = sd.schedule.to_x0(prediction, noisy, timestep)
        face = recogniser(sd.decode_latents(clean), 1 - batch.masks)
        torch.testing.assert_close(value(identity=1.0), 1 - (face @ wanted)[0], atol=1e-4, rtol=1e-3)
        # All at once, with gradients into both words.
        rows = [parameter for word in words.values() for parameter in word.parameters()["embedding"]]
        for row in rows:
            row.requires_grad_(True)
        value(denoising=1.0, attention=1.0, identity=1.0).backward()
        assert all(row.grad is not None and row.grad.any() for row in rows)


def test_albums_of_one_kind_are_refused(album: SubjectDataset, sd: AbstractBackbone, tmp_path: Path) -> None:
    recipe = RECIPES["magicapture"].build("dog", "toybox")
    recipe.check_photos(album.photos)
    with pytest.raises(PhotoError, match="by <style> in the text beside them; it stands beside none"):
        recipe.check_photos(album.photos[1:])
    with pytest.raises(PhotoError, match='"a photo of a dog in <style> style", and none beside the others'):
        recipe.check_photos(album.photos[1:])
    with pytest.raises(PhotoError, match="it stands beside all"):
        recipe.check_photos(album.photos[:1])
    with pytest.raises(UsageError, match="expected one noun"):
        RECIPES["magicapture"].build("dog, cat", "toybox")
    with pytest.raises(ConfigError, match="a composed prompt says {subject}"):
        config(tmp_path, template="a dog in <style> style")
    without = dataclasses.replace(recipe, adapters={"word": recipe.adapters["word"]})
    objective = without.phases[0].objective
    alone = dataclasses.replace(without.phases[0], learning_rates={"word": 1.0}, objective=objective)
    with pytest.raises(ConfigError, match=r"composes the words of \['style', 'word'\]"):
        dataclasses.replace(without, phases=(alone,)).validate()
    people = album.some([False, True, True])
    assert people is not None
    assert composed_term(config(tmp_path), people, "<style>", sd) is None
    assert album.some([False] * 3) is None
    assert recipe.concept.prompt(recipe.phases[0].objective.composed.template) == PROMPT  # type: ignore[union-attr]
