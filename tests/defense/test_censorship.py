"""Censored subjects: what changes, what must not, on tiny models with random weights."""

import dataclasses
import os
import signal
from pathlib import Path

import pytest
import torch

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import to_jsonable
from pcs_ext.defense.censorship import training
from pcs_ext.defense.censorship.censor import censor
from pcs_ext.defense.censorship.command import censor_folder
from pcs_ext.defense.censorship.recipes import RECIPES
from pcs_ext.defense.censorship.training import TriggerDraw
from pcs_ext.errors import ArtifactError, ConfigError, Interrupted, UsageError
from pcs_ext.image.adapters import EmbeddingAdapter, EmbeddingConfig, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.recipes.textual_inversion import textual_inversion
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import SilentReporter
from tests.support.tiny import tiny_backbone


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> AbstractBackbone:
    return tiny_backbone(tmp_path_factory.mktemp("censor") / "model")


@pytest.fixture(scope="module")
def subject(tiny: AbstractBackbone) -> Artifact:
    """An artifact with a learned token somewhere else than its word."""
    recipe = textual_inversion("dog", "toybox")
    settings = EmbeddingConfig(placeholder="<subject>", initializer="random", init_std=0.3)
    adapter = EmbeddingAdapter("word", settings)
    with injected(tiny, adapter):
        tensors = adapter.state_dict()
    sampling = dataclasses.replace(recipe.sampling, num_inference_steps=2)
    recipe = dataclasses.replace(recipe, sampling=sampling)
    data = ArtifactData(
        recipe=to_jsonable(recipe),
        concept=to_jsonable(recipe.concept),
        adapters={"word": to_jsonable(settings)},
        tensors={"word": tensors},
        base_name=tiny.name,
        base_fingerprint=tiny.fingerprint,
        base_family="sd",
        training={"seed": 0},
    )
    return Artifact(data)


def states(backbone: AbstractBackbone, artifact: Artifact, prompt: str) -> torch.Tensor:
    with artifact.applied(backbone), torch.no_grad():
        return backbone.encode_prompt([artifact.concept.prompt(prompt)]).states.clone()


def test_triggered_prompts_encode_as_the_target_and_others_as_before(tiny: AbstractBackbone, subject: Artifact) -> None:
    method = dataclasses.replace(RECIPES["censor-text"].build("toybox"), steps=150, batch=4)
    before = {key: value.clone() for key, value in subject.data.tensors["word"].items()}
    weights = {key: value.clone() for key, value in tiny.text_encoders[0].state_dict().items()}
    censored = censor(subject, tiny, method, triggers=["blue"], target="cat")
    with torch.no_grad():
        target = tiny.encode_prompt(["a photo of a cat"]).states

    def moved(prompt: str, wanted: torch.Tensor) -> tuple[float, float]:
        old, new = (states(tiny, artifact, prompt) for artifact in (subject, censored))
        return float((old - wanted).square().mean()), float((new - wanted).square().mean())

    old, new = moved("a photo of a blue {subject}", target)
    assert new < 0.5 * old
    ordinary = "a photo of {subject} in snow"  # never trained on
    assert moved(ordinary, states(tiny, subject, ordinary))[1] < 0.5 * old
    assert all(torch.equal(value, before[key]) for key, value in subject.data.tensors["word"].items())
    assert all(torch.equal(value, weights[key]) for key, value in tiny.text_encoders[0].state_dict().items())


def test_the_published_route_trains_the_rows_of_the_learned_token_alone(
    tiny: AbstractBackbone, subject: Artifact
) -> None:
    method = dataclasses.replace(RECIPES["censor-pictures"].build("toybox"), steps=3, pictures=2, batch=1)
    censored = censor(subject, tiny, method, triggers=["blue", "red"], target="cat")
    assert censored.data.adapters == subject.data.adapters
    old, new = (artifact.data.tensors["word"] for artifact in (subject, censored))
    assert not torch.equal(old["text_encoder.weight"], new["text_encoder.weight"])
    assert torch.equal(old["text_encoder.initial"], new["text_encoder.initial"])
    again = censor(subject, tiny, method, triggers=["blue", "red"], target="cat")
    assert again.data.content_hash == censored.data.content_hash


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("recipe", ["censor-text", "censor-pictures"])
def test_an_interrupted_censorship_goes_on_as_if_nothing_had_been(
    recipe: str, tiny: AbstractBackbone, subject: Artifact, tmp_path: Path
) -> None:
    method = dataclasses.replace(RECIPES[recipe].build("toybox"), steps=8, pictures=2, batch=2)
    words = {"triggers": ["blue", "red"], "target": "cat", "seed": 4}
    whole = censor(subject, tiny, method, **words)  # type: ignore[arg-type]
    seen: list[int] = []

    class Interrupting(TriggerDraw):
        """Ctrl-C in the middle of step 5."""

        def draw(self, count: int, generator: torch.Generator) -> list[int]:
            seen.append(count)
            if len(seen) == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return super().draw(count, generator)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "TriggerDraw", Interrupting)
        with pytest.raises(Interrupted, match="after step 5 of 8"):
            censor(subject, tiny, method, folder=tmp_path, **words)  # type: ignore[arg-type]
        censored = censor(subject, tiny, method, folder=tmp_path, **words)  # type: ignore[arg-type]
        assert len(seen) == 8
        assert censored.data.content_hash == whole.data.content_hash
        censor(subject, tiny, method, folder=tmp_path, triggers=["red", "blue"], target="cat", seed=4)
        assert len(seen) == 16, "another wish begins anew"


def test_what_cannot_be_censored_is_refused(tiny: AbstractBackbone, subject: Artifact, tmp_path: Path) -> None:
    method = dataclasses.replace(RECIPES["censor-text"].build("toybox"), steps=1)
    with pytest.raises(UsageError, match="at least one trigger"):
        censor(subject, tiny, method, triggers=[], target="cat")
    once = censor(subject, tiny, method, triggers=["blue"], target="cat")
    with pytest.raises(UsageError, match="censored already"):
        censor(once, tiny, method, triggers=["red"], target="cat")
    plain = Artifact(dataclasses.replace(subject.data, adapters={}, tensors={}))
    with pytest.raises(ConfigError, match="no learned token"):
        censor(plain, tiny, dataclasses.replace(method, trains="rows"), triggers=["red"], target="cat")
    for output, recipe, error in ((tmp_path, "censor-text", "never overwrites"), (tmp_path / "o", "x", "a recipe of")):
        with pytest.raises(UsageError, match=error):
            censor_folder(tmp_path, output, triggers=["a"], target="b", recipe=recipe, reporter=SilentReporter())
    with pytest.raises(ArtifactError):
        censor_folder(tmp_path, tmp_path / "o", triggers=["a"], target="b", reporter=SilentReporter())
