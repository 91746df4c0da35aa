"""Attributes: which words are read at which noise level in which layer."""

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import Attribute, AttributesConfig, EmbeddingConfig, build_adapter, injected
from pcs_ext.image.adapters.attributes import layer_depths
from pcs_ext.image.prompt_programs import read_text
from tests.support.tiny import tiny_backbone

STYLE = Attribute(word="<style>", noise=(0.0, 0.5), layers=("fine",))
OBJECT = Attribute(word="<object>", otherwise="dog", noise=(0.25, 1.0), layers=("coarse", "middle"))
CONFIG = AttributesConfig(placeholder="<all>", attributes=(STYLE, OBJECT))


def test_what_is_written() -> None:
    assert CONFIG.written("a <all>, in snow", [True, True]) == "a <style> <object>, in snow"
    assert CONFIG.written("a <all>, in snow", [False, True]) == "a <object>, in snow"
    assert CONFIG.written("a <all> , <style>", [False, False]) == "a dog,"
    assert CONFIG.written("a  cat , here", [False, False]) == "a  cat , here", "other prompts stay as typed"
    with pytest.raises(ConfigError, match="different words"):
        AttributesConfig(placeholder="<all>", attributes=(STYLE, STYLE))
    with pytest.raises(ConfigError, match="from a lower to a higher part"):
        Attribute(word="<style>", noise=(0.5, 0.5))
    with pytest.raises(ConfigError, match="at least one kind of layer"):
        Attribute(word="<style>", layers=())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory):
    return tiny_backbone(tmp_path_factory.mktemp("models") / "sd")


def test_states_are_those_of_the_words_that_act(shared) -> None:
    words = [
        build_adapter("style", EmbeddingConfig(placeholder="<style>")),
        build_adapter("object", EmbeddingConfig(placeholder="<object>", initializer="cat")),
    ]
    depths = layer_depths(shared)
    assert {"fine", "coarse"} <= set(depths.values())
    prompts = ["a <all> on grass", "a red dog", "a cat in <style>"]
    with torch.no_grad(), injected(shared, *words):
        expected = {text: shared.encode_prompt([text]).states[0] for text in (
            "a dog on grass", "a <style> dog on grass", "a <object> on grass", "a red dog", "a cat in",
            "a cat in <style>", "a <style> <object> on grass")}  # fmt: skip
        with injected(shared, build_adapter("ranges", CONFIG)):
            told = shared.encode_prompt(prompts)
            assert read_text(shared, "a <all>") == "a <style> <object>"
            for path, depth in depths.items():
                for part, style, thing in ((0.1, True, False), (0.3, True, True), (0.6, False, True)):
                    style, thing = style and depth == "fine", thing and depth != "fine"
                    first = f"a {'<style> ' * style}{'<object>' if thing else 'dog'} on grass"
                    third = "a cat in <style>" if style else "a cat in"
                    keys, values = told.at(torch.tensor([int(1000 * part)] * 3), path)
                    for row, text in enumerate((first, "a red dog", third)):
                        torch.testing.assert_close(keys[row], expected[text])
                        torch.testing.assert_close(values[row], expected[text])
            torch.testing.assert_close(told.states[0], expected["a <style> <object> on grass"])
            mixed, _ = told.at(torch.tensor([100, 100, 900]), next(p for p, d in depths.items() if d == "fine"))
            torch.testing.assert_close(mixed[2], expected["a cat in"])
            assert shared.encode_prompt(["a red dog"]).per_layer is None
    assert "encode_prompt" not in vars(shared)


def test_gradients_reach_a_word_where_it_acts_and_nowhere_else(shared) -> None:
    words = {
        name: build_adapter(name, EmbeddingConfig(placeholder=f"<{name}>", initializer="cat"))
        for name in ("style", "object")
    }
    coarse = next(path for path, depth in layer_depths(shared).items() if depth == "coarse")
    with injected(shared, *words.values(), build_adapter("ranges", CONFIG)):
        shared.encode_prompt(["a <all>"]).at(torch.tensor([400]), coarse)[0].sum().backward()
        gradients = [words[name].parameters()["embedding"][0].grad for name in ("object", "style")]
    moved = [gradient is not None and bool(gradient.any()) for gradient in gradients]
    assert moved == [True, False]
