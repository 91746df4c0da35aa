"""CAFE: dialogues, answers in words, and what is emitted behind them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.dialogue import Turn, messages, turns, written
from pcs_ext.image.reference.files import save_adapter
from pcs_ext.image.reference.language_model import next_word_loss
from pcs_ext.image.reference.nouns import behind
from pcs_ext.image.reference.reference import generate
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.cafe import Cafe
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceTraining
from tests.image.reference.test_kinds import bright_and_dark, opposite, said
from tests.support.tiny_reference import HIDDEN, at_random, drawn, tiny_system


def test_a_dialogue_is_turns_on_one_line() -> None:
    assert turns("<1> in snow") == [Turn("<1> in snow", None)]
    assert turns("<1> => a dog | in snow => a dog in snow | with a hat") == [
        Turn("<1>", "a dog"), Turn("in snow", "a dog in snow"), Turn("with a hat", None)
    ]  # fmt: skip
    assert messages("<1> => a dog | in snow") == "<1> in snow"
    line = written(("<1>", "a | dog"), ("in =>  snow", "a dog in snow"))
    assert line == "<1> => a dog | in snow => a dog in snow"
    assert turns(line) == [Turn("<1>", "a dog"), Turn("in snow", "a dog in snow")]


@pytest.mark.parametrize(
    ("prompt", "rest"), [("a red dog wearing a hat", "wearing a hat"), ("a Dog, on grass.", "on grass"), ("a cat", "")]
)
def test_what_is_said_behind_a_noun(prompt: str, rest: str) -> None:
    assert behind(prompt, "dog") == rest


def cafe(sd: AbstractBackbone, eye: Path) -> Cafe:
    adapter, _ = tiny_system("cafe", sd, eye)
    assert isinstance(adapter, Cafe)
    at_random(adapter, sd)
    return adapter.eval()


def by_hand(adapter: Cafe, parts: list[list[int] | Tensor]) -> Tensor:
    """States of numbers of words, and of embeddings, one behind the other."""
    embedded = [adapter.model.language.embed(part) if isinstance(part, list) else part for part in parts]
    return adapter.model.language.body(inputs_embeds=torch.cat(embedded)[None]).last_hidden_state[0]


@torch.no_grad()
def test_it_answers_in_words_and_emits_behind_them(sd: AbstractBackbone, eye: Path) -> None:
    adapter = cafe(sd, eye)
    language, model = adapter.model.language, adapter.model
    features = drawn(1, 1, 16, HIDDEN)
    shown = Shown(sight=Sight(features=features), nouns=(("dog",),))
    prompt = "<1> on grass => a dog on grass | in snow"
    told = adapter.conditioned(sd, sd.encode_prompt, [prompt], shown)
    picture = [model.opens, model.pictures(features[0, 0]), model.ends]
    start: list[list[int] | Tensor] = [
        [language.first], *picture, language.ids("on grass"), adapter.speaks,
        [*language.ids("a dog on grass"), language.last], language.ids("in snow"), adapter.speaks,
    ]  # fmt: skip
    answer: list[int] = []
    while len(answer) < adapter.config.longest:
        word = int(language.logits(by_hand(adapter, [*start, answer])[-1]).argmax())
        if word == language.last:
            break
        answer.append(word)
    states = by_hand(adapter, [*start, [*answer, language.last], adapter.emits])
    torch.testing.assert_close(told.states[0], adapter.out(states[-24:]), atol=1e-4, rtol=1e-4)
    assert adapter.answers[prompt] == f"a dog on grass | {language.tokenizer.decode(answer).strip()}"
    # What the user has said alone comes back at lower strengths.
    half = adapter.conditioned(sd, sd.encode_prompt, [prompt], shown, scale=0.5)
    words = sd.encode_prompt(["dog on grass in snow"]).states
    torch.testing.assert_close(half.states, (words + told.states) / 2)
    # Another answer is another picture.
    other = adapter.conditioned(sd, sd.encode_prompt, [prompt.replace("a dog on grass", "a cat")], shown)
    assert (other.states - told.states).abs().max() > 1e-4


def test_answers_are_learned_and_what_users_say_is_not(sd: AbstractBackbone, eye: Path) -> None:
    adapter, encoder = tiny_system("cafe", sd, eye)
    assert isinstance(adapter, Cafe)
    sight = opposite(Sight(features=drawn(1, 16, HIDDEN)))
    settings = ReferenceTraining(batch_size=64, drop_image=0.0, drop_text=0.0, drop_both=0.1)
    data = bright_and_dark(sight)
    data.captions[:] = [("a photo of the dog on grass",)] * 6  # type: ignore[index]
    loss = ReferenceLoss(sd, adapter, data, settings, sight.map(lambda x: 0 * x[0]), encoder=encoder)
    adapter.train()
    pairs = loss._drawn(torch.Generator().manual_seed(0))
    whole = "a photo of the dog on grass"
    assert set(pairs.captions) == {
        "",
        f"a photo of the dog <1> on grass => {whole}",
        f"a photo of the <1> on grass => {whole}",
        f"<1> on grass => {whole}",
        f"<1> => {whole} | {whole} => {whole}",
        f"<1> => {whole} | on grass => {whole}",
    }
    assert all(seen == (text != "") for text, seen in zip(pairs.captions, pairs.shown.rows, strict=True))
    with adapter.inserted(sd):
        terms = loss(0, 0, torch.Generator().manual_seed(0)).terms
        assert terms.keys() == {"denoising", "answer"}
        language = adapter.model.language
        features = drawn(1, 1, 16, HIDDEN)
        shown = Shown(sight=Sight(features=features), nouns=(("dog",),))
        adapter.conditioned(sd, sd.encode_prompt, ["<1> => a dog"], shown)
        found = adapter._likelihood
    assert found is not None
    asked = [*language.ids("a dog"), language.last]
    _, ids, _ = adapter._read("<1> => a dog", ("dog",), features)
    assert ids[ids >= 0].tolist() == asked
    told = adapter.model.rows([[0]], features)[0][0]
    states = by_hand(adapter, [told, adapter.speaks, asked])
    logs = language.logits(states[len(told) : -1]).log_softmax(-1)
    torch.testing.assert_close(found, -logs[range(len(asked)), asked].mean())
    read = adapter.model.read([(torch.cat([told, adapter.speaks, language.embed(asked)]), ids)])
    torch.testing.assert_close(next_word_loss(language, read), found)


def test_users_get_the_answer(sd: AbstractBackbone, eye: Path, photos: Path, tmp_path: Path) -> None:
    adapter, encoder = tiny_system("cafe", sd, eye)
    at_random(adapter, sd)
    save_adapter(adapter, said("cafe", sd, encoder, eye), tmp_path / "cafe", half=False)
    heard: list[tuple[str, str]] = []

    class Listening:
        def event(self, name: str, message: str = "", **fields: object) -> None:
            heard.append((name, message))

        def progress(self, task: str, step: int, total: int, **fields: object) -> None:
            pass

    prompt = "<1> on grass | in snow"
    images = generate(
        prompt, [photos / "0.png"], adapter=str(tmp_path / "cafe"), base=sd, steps=1, seeds=[1, 2], reporter=Listening()
    )
    answers = {image.facts["answer"] for image in images}
    assert len(answers) == 1
    answer = answers.pop()
    assert answer.count("|") == 1
    assert ("answer", f"{prompt!r}: {answer}") in heard
