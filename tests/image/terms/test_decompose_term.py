"""The object alone, asked about the same noise; and the lengths of offsets."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.adapters import build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.learn import learn
from pcs_ext.image.recipes import RECIPES
from pcs_ext.image.sample import SampleConfig
from pcs_ext.image.terms import DecomposeConfig, Noised, Step, build_term
from pcs_ext.image.types import Batch


@torch.no_grad()
def test_both_parts_by_hand(sd: AbstractBackbone) -> None:
    recipe = RECIPES["cusconcept"].build("dog", "toybox")
    adapters = {name: build_adapter(name, config) for name, config in recipe.adapters.items()}
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noised = Noised(latents=latents, timesteps=torch.tensor([200, 700]), target=latents.flip(0))
    with injected(sd, *adapters.values()):
        adapters["attribute"].parameters()["offset"][0].fill_(0.5)
        step = Step(
            backbone=sd, batch=Batch(images=torch.zeros(2, 3, 32, 32), captions=("", "")),
            conditioning=sd.encode_prompt(["", ""]), adapters=adapters, maps=None, generator=torch.Generator(),
            noised=noised,
        )  # fmt: skip
        found = build_term(DecomposeConfig(alone=0.7, offset=2.0))(step)
        told = sd.encode_prompt(["a photo of a <object>"] * 2)
        error = (sd.predict(latents, noised.timesteps, told) - noised.target).square().mean()
        torch.testing.assert_close(found, 0.7 * error + 2.0 * 16 * 0.25)
        with pytest.raises(ConfigError, match="the recipe has none"):
            build_term(DecomposeConfig())(dataclasses.replace(step, adapters={}))


def test_offsets_rest_in_the_first_phase_and_prompts_say_either_word(
    sd: AbstractBackbone, photos: Path, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(
        RECIPES["cusconcept"].build("dog", "toybox"), sampling=SampleConfig(num_inference_steps=2, guidance_scale=2.0)
    )
    first = recipe.phases[0]
    assert not any(key.endswith("/offset") for key in first.learning_rates)
    only = dataclasses.replace(recipe, phases=(first,)).with_steps(2)
    artifact = learn(photos, noun="dog", output=tmp_path / "one", recipe=only, base=sd)
    assert not artifact.data.tensors["object"]["text_encoder.offset"].any()
    artifact = learn(photos, noun="dog", output=tmp_path / "both", recipe=recipe.with_steps(4), base=sd)
    assert artifact.data.tensors["object"]["text_encoder.offset"].any()
    assert artifact.concept.prompt("a photo of {subject}") == "a photo of a <attribute> <object>"
    assert artifact.concept.prompt("a red <object>") == "a red <object>"
    assert len(artifact.generate(["a red <object>", "<attribute> hat"], seeds=[0], base=sd)) == 2
    with pytest.raises(UsageError, match="where the subject goes"):
        artifact.concept.prompt("a red dog")
