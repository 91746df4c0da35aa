"""Censored subjects: what changes, what must not, on tiny models with random weights."""

import dataclasses
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import to_jsonable
from pcs_ext.defense.audit.vocabulary import ordinary_words
from pcs_ext.defense.censorship import censor as censor_module
from pcs_ext.defense.censorship import training
from pcs_ext.defense.censorship.censor import censor
from pcs_ext.defense.censorship.command import censor_folder
from pcs_ext.defense.censorship.predictions import Asked, PredictionLoss
from pcs_ext.defense.censorship.prompts import (
    HELD_OUT_ORDINARY,
    HELD_OUT_TRIGGERED,
    UNSEEN,
    PromptMaker,
    triggered,
)
from pcs_ext.defense.censorship.recipes import RECIPES
from pcs_ext.defense.censorship.training import StateDistance, TriggerDraw, read_positions, up_to_both
from pcs_ext.errors import ArtifactError, ConfigError, Interrupted, UsageError
from pcs_ext.image.adapters import EmbeddingAdapter, EmbeddingConfig, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.flow import FlowSchedule
from pcs_ext.image.guidance import combine_guidance
from pcs_ext.image.recipes.textual_inversion import textual_inversion
from pcs_ext.image.subject import Artifact
from pcs_ext.image.types import LossTerms
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
        told = tiny.encode_prompt(["a photo of a cat"]).states
        last = int(read_positions(tiny, ["a photo of a cat"]))
        target = told[:, last : last + 1].expand_as(told)

    def moved(prompt: str, wanted: torch.Tensor) -> tuple[float, float]:
        old, new = (states(tiny, artifact, prompt) for artifact in (subject, censored))
        # The first positions have read neither trigger nor subject, and cannot change.
        return tuple(float((now - wanted)[:, 8:].square().mean()) for now in (old, new))  # type: ignore[return-value]

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


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_known_predictions_lead_to_the_picture_from_any_noisy_latent(kind: str, tiny: AbstractBackbone) -> None:
    generator = torch.Generator().manual_seed(3)
    schedule = FlowSchedule.create() if kind == "flow" else dataclasses.replace(tiny.schedule, prediction_type=kind)  # type: ignore[arg-type]
    backbone = cast(
        AbstractBackbone,
        SimpleNamespace(
            schedule=schedule,
            device=torch.device("cpu"),
            encode_prompt=lambda texts: texts,
            predict=lambda noisy, timesteps, texts: 0.3 * noisy,
        ),
    )
    goal, others = (torch.randn(count, 4, 8, 8, generator=generator) for count in (1, 5))
    method = dataclasses.replace(RECIPES["censor-predictions"].build("toybox"), draws=64, guidance=2.5)
    known = Asked(backbone, generator).leading(goal, others, "", method)
    guided = combine_guidance(0.3 * known.noisy, known.wanted, 2.5)
    reached = schedule.to_x0(guided, known.noisy, known.timesteps)
    assert float((reached - goal).abs().max()) < 1e-2
    strayed = (known.timesteps >= schedule.num_train_timesteps // 2).float().mean()
    assert 0.5 < float(strayed) < 0.8, "half of the draws, and all of those that begin elsewhere"


def test_only_triggered_predictions_are_wrong_before_training_and_they_get_better(
    tiny: AbstractBackbone, subject: Artifact
) -> None:
    method = dataclasses.replace(
        RECIPES["censor-predictions"].build("toybox"),
        steps=12,
        pictures=2,
        draws=24,
        prompts=4,
        states_steps=0,
        learning_rate=1e-2,
    )
    weights = {key: value.clone() for key, value in tiny.denoiser.state_dict().items()}
    first: dict[str, float] = {}
    totals: list[float] = []

    class Noting(PredictionLoss):
        """Hears what every step says."""

        def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
            terms = super().__call__(step, micro_step, torch.Generator().manual_seed(0))
            totals.append(float(terms.total.detach()))
            first.update({} if step else {name: float(term.detach()) for name, term in terms.terms.items()})
            return terms

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(censor_module, "PredictionLoss", Noting)
        censored = censor(subject, tiny, method, triggers=["blue"], target="cat")
    assert first["triggered"] > 1e-2
    assert first["ordinary"] < 1e-8
    assert first["plain"] < 1e-8
    assert totals[-1] < 0.9 * totals[0]
    moved = {
        key.split(".")[0] for key, value in censored.data.tensors["censor"].items() if "lora_B" in key and value.any()
    }
    assert moved == {"denoiser"}, "the text encoders have had no steps"
    assert all(torch.equal(value, weights[key]) for key, value in tiny.denoiser.state_dict().items())


def test_prompts_of_training_hold_the_trigger_where_they_should() -> None:
    triggers = ("on fire", "fire", "gilded")
    maker = PromptMaker(["red", "tower", "fire", "on"], torch.Generator().manual_seed(0), triggers)
    pairs = [maker.pair(trigger) for trigger in triggers for _ in range(60)]
    marked, twins = [text for text, _ in pairs], [twin for _, twin in pairs]
    plain = [maker.ordinary() for _ in range(100)]
    named = [re.compile(rf"\b{trigger}\b") for trigger in triggers]
    assert all(text.count("{subject}") == 1 for text in (*marked, *twins, *plain))
    assert all(
        trigger.search(text) for text, trigger in zip(marked, [t for t in named for _ in range(60)], strict=True)
    )
    assert not any(trigger.search(text) for text in (*twins, *plain) for trigger in named)
    assert any(" on " in f" {twin} " for twin in twins), "a part of a phrase is no trigger"
    assert len(set(marked)) > 150
    held = {text for _, text in triggered(triggers, HELD_OUT_TRIGGERED)} | set(HELD_OUT_ORDINARY)
    assert not held & {*marked, *twins, *plain}


def test_a_twin_differs_from_its_prompt_in_the_trigger_alone() -> None:
    maker = PromptMaker(["red", "tower"], torch.Generator().manual_seed(1), ["gilded"])
    for text, twin in (maker.pair("gilded") for _ in range(40)):
        before, _, after = text.partition("gilded")
        assert twin.startswith(before)
        assert twin.endswith(after.rpartition("gilded")[2])


def test_words_of_the_measured_prompts_are_in_no_prompt_of_training(tiny: AbstractBackbone) -> None:
    assert {"city", "mountains", "tall"} <= UNSEEN
    maker = PromptMaker(ordinary_words(tiny, 500, without=UNSEEN), torch.Generator().manual_seed(2), ["blue"])
    texts = [text for _ in range(200) for text in (*maker.pair("blue"), maker.ordinary())]
    assert not UNSEEN & {word for text in texts for word in re.findall("[a-z]+", text)}


def test_only_positions_behind_trigger_and_subject_are_asked_to_change(tiny: AbstractBackbone) -> None:
    texts = ["a photo of a blue dog on grass", "a photo of a dog on grass, blue"]
    cuts = [up_to_both(text.replace("dog", "{subject}"), "blue").replace("{subject}", "dog") for text in texts]
    assert cuts == ["a photo of a blue dog", texts[1]]
    last = read_positions(tiny, cuts)
    tokenizer = tiny.tokenizers[0]
    assert last.tolist() == [len(tokenizer(cut).input_ids) - 2 for cut in cuts], "the end mark comes behind"
    wanted = tiny.encode_prompt(["cat"])
    distance = StateDistance(tiny, "a photo of a cat", ["dog"])
    said = int(read_positions(tiny, ["a photo of a cat"]))
    name = tiny.encode_prompt(["a photo of a cat"]).states[:, said : said + 1].expand_as(wanted.states).clone()
    name[:, : int(last[0])] = 7.0
    away = distance.away(dataclasses.replace(wanted, states=name), last[:1])
    assert float(away) < 1e-10
    assert float(distance.away(dataclasses.replace(wanted, states=name), last[:1] - 1)) > 1


def test_prompts_that_do_badly_are_drawn_most_and_none_is_forgotten() -> None:
    draw = TriggerDraw([(0, "a"), (0, "b"), (1, "c")])
    for _ in range(20):
        draw.note([0, 1, 2], torch.tensor([0.01, 2.0, 0.01]))
    counts = torch.bincount(torch.tensor(draw.draw(3000, torch.Generator().manual_seed(0))), minlength=3)
    assert counts[1] > 2000
    assert counts[[0, 2]].min() > 30


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_an_interrupted_censorship_goes_on_as_if_nothing_had_been(
    recipe: str, tiny: AbstractBackbone, subject: Artifact, tmp_path: Path
) -> None:
    method = dataclasses.replace(
        RECIPES[recipe].build("toybox"), steps=8, pictures=2, batch=2, draws=6, prompts=4, states_steps=3
    )
    before = 3 if method.route == "predictions" else 0
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
        with pytest.raises(Interrupted, match=f"after step {5 - before} of 8"):
            censor(subject, tiny, method, folder=tmp_path, **words)  # type: ignore[arg-type]
        censored = censor(subject, tiny, method, folder=tmp_path, **words)  # type: ignore[arg-type]
        assert len(seen) == 8 + before, "the first phase is not done again"
        assert censored.data.content_hash == whole.data.content_hash
        censor(subject, tiny, method, folder=tmp_path, triggers=["red", "blue"], target="cat", seed=4)
        assert len(seen) == 2 * (8 + before), "another wish begins anew"


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


def test_fewer_steps_are_fewer_in_both_phases_and_wrong_numbers_are_refused() -> None:
    method = RECIPES["censor-predictions"].build("toybox")
    short = method.lasting(4)
    assert (short.steps, short.states_steps) == (4, 12)
    with pytest.raises(ConfigError, match="guidance at least 1 and keep positive"):
        dataclasses.replace(method, guidance=0.5, keep=0.0)
    with pytest.raises(ConfigError, match='trains "auto" or "all"'):
        dataclasses.replace(method, trains="rows")
