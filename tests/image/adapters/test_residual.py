"""Residuals of a noun: learned in the text encoder, kept as numbers, added where the noun is marked."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pcs_ext.errors import ArtifactError, ConfigError, UsageError
from pcs_ext.image.adapters import LowRankConfig, ResidualAdapter, ResidualConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.learn import learn
from pcs_ext.image.phrases import phrase_positions
from pcs_ext.image.prompt_programs import read_text
from pcs_ext.image.recipes import RECIPES
from pcs_ext.image.subject import Artifact

REX = ResidualConfig(placeholder="<rex>", class_noun="dog", templates=("a photo of {subject}", "{subject} on grass"))
PIP = dataclasses.replace(REX, placeholder="<pip>", class_noun="cat")


def loaded(name: str, config: ResidualConfig, residual: torch.Tensor) -> ResidualAdapter:
    adapter = build_adapter(name, config)
    assert isinstance(adapter, ResidualAdapter)
    adapter.load_state_dict({"residual": residual})
    return adapter


def encode(backbone: AbstractBackbone, *prompts: str) -> torch.Tensor:
    with torch.no_grad():
        return backbone.encode_prompt(prompts).states


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_only_marked_nouns_change(family: str, request: pytest.FixtureRequest) -> None:
    backbone = request.getfixturevalue(family)
    width = encode(backbone, "dog").shape[-1]
    plain = encode(backbone, "a dog on a cat on a dog")
    rex, pip = loaded("rex", REX, torch.full((1, width), 2.0)), loaded("pip", PIP, torch.full((1, width), -3.0))
    with injected(backbone, rex, pip):
        both = encode(backbone, "a dog on a <pip> cat on a <rex> dog")
        assert torch.equal(encode(backbone, "a dog on a cat on a dog"), plain)
        assert phrase_positions(backbone, "a dog on a <rex> dog", "<rex> dog") == (5,)
        assert phrase_positions(backbone, "a dog on a <rex> dog", "dog") == (2,)
        assert read_text(backbone, "a <rex> dog") == "a dog"
        with pytest.raises(UsageError, match="write '<rex> dog'"):
            encode(backbone, "a <rex> cat")
        rex.set_scale(0.5)
        half = encode(backbone, "a dog on a <pip> cat on a <rex> dog")
    expected = torch.zeros_like(plain)
    expected[0, 5], expected[0, 8] = -3.0, 2.0
    torch.testing.assert_close(both - plain, expected)
    expected[0, 8] = 1.0
    torch.testing.assert_close(half - plain, expected)
    assert "encode_prompt" not in vars(backbone)


def test_what_the_encoder_learned_becomes_the_residual(sd: AbstractBackbone) -> None:
    before = {key: value.clone() for key, value in sd.text_encoders[0].state_dict().items()}
    plain = encode(sd, "a photo of a dog", "a dog on grass")
    adapter = build_adapter("rex", REX)
    assert isinstance(adapter, ResidualAdapter)
    with injected(sd, adapter):
        for index, parameter in enumerate(adapter.parameters()["text_encoder"]):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.data += 0.1 * noise
        tuned = encode(sd, "a photo of a <rex> dog", "a <rex> dog on grass")
        assert torch.equal(adapter.states_before(["a photo of a <rex> dog"])[0], plain[0].float())
        assert adapter.added() is None
    expected = torch.stack([tuned[0, 5] - plain[0, 5], tuned[1, 2] - plain[1, 2]]).mean(0)
    state = adapter.state_dict()
    torch.testing.assert_close(state["residual"][0], expected)
    assert state["residual"].shape == (1, 16), "a vector is all that is kept"
    with injected(sd, adapter):
        shift = encode(sd, "a photo of a <rex> dog") - plain[:1]
        assert adapter.parameters() == {}
    torch.testing.assert_close(shift[0, 5], expected)
    assert not shift[0, :5].any()
    assert not shift[0, 6:].any()
    assert all(torch.equal(value, before[key]) for key, value in sd.text_encoders[0].state_dict().items())


def test_residuals_of_other_sizes_are_refused(sd: AbstractBackbone) -> None:
    with pytest.raises(ArtifactError, match="residual"), injected(sd, loaded("rex", REX, torch.zeros(1, 5))):
        pass
    with pytest.raises(ArtifactError, match="residual"):
        build_adapter("rex", REX).load_state_dict({"weight": torch.zeros(1)})
    with pytest.raises(ConfigError, match="needs a class noun"):
        dataclasses.replace(REX, class_noun=" ")


def test_cones_2_keeps_few_numbers_and_joins_others(sd: AbstractBackbone, photos: Path, tmp_path: Path) -> None:
    from pcs_ext.image.merge import merge

    recipe = RECIPES["cones-2"].build("dog", "toybox").with_steps(3)
    rex = learn(photos, noun="dog", output=tmp_path / "rex", recipe=recipe, base=sd)
    tensors = rex.data.tensors["residual"]
    assert {key: tuple(value.shape) for key, value in tensors.items()} == {"residual": (1, 16)}
    assert tensors["residual"].any()
    cat = RECIPES["cones-2"].build("cat", "toybox").with_steps(2)
    pip = learn(photos, noun="cat", output=tmp_path / "pip", recipe=cat, base=sd)
    both = Artifact(merge([rex, pip], ["rex", "pip"], sd))
    with both.applied(sd):
        apart = encode(sd, "a <rex> dog on a <pip> cat") - encode(sd, "a dog on a cat")
    moved = apart[0].abs().sum(-1).nonzero()[:, 0].tolist()
    assert moved == [2, 5]
    torch.testing.assert_close(apart[0, 2], tensors["residual"][0])


def test_preservation_by_hand() -> None:
    from pcs_ext.image.terms.text_preserve import TextPreserveConfig, preservation

    before = torch.zeros(5, 2)
    states = torch.tensor([[3.0, 4.0], [0, 0], [9, 9], [0, 0], [0, 12]])
    term = preservation(states, before, [2], TextPreserveConfig(before=0.1, after=0.01))
    assert float(term) == pytest.approx(0.1 * 5 + 0.01 * 12)
    leaf = before.clone().requires_grad_()
    preservation(leaf, before, [2], TextPreserveConfig()).backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all(), "at the start nothing has moved, and the norm must not break there"


def test_the_term_asks_for_its_adapter() -> None:
    from pcs_ext.image.terms import Step, TextPreserveConfig, build_term
    from pcs_ext.image.types import Batch, Conditioning

    step = Step(
        backbone=None,  # type: ignore[arg-type]
        batch=Batch(images=torch.zeros(1, 3, 8, 8), captions=("a dog",)),
        conditioning=Conditioning(states=torch.zeros(1, 4, 2)),
        adapters={"denoiser": build_adapter("denoiser", LowRankConfig())},
        maps=None,
        generator=torch.Generator(),
    )
    with pytest.raises(ConfigError, match="kind residual; the recipe has none"):
        build_term(TextPreserveConfig())(step)
