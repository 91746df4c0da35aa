"""The base's answers to the class noun: nothing at first, and against two passes of its own."""

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import FullConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.terms import PreserveConfig, build_term
from tests.image.terms.test_context_term import step_of


def test_against_passes_with_and_without_the_weights(sd: AbstractBackbone) -> None:
    weights = build_adapter("weights", FullConfig(components=("denoiser",), include=(r"conv_out",)))
    term = build_term(PreserveConfig(noun="dog", weight=0.5))
    with torch.no_grad():
        step = step_of(sd, {"weights": weights})
        asked = step.asked()
        told = sd.encode_prompt(["a photo of a dog"] * 2)
        base = sd.predict(asked.latents, asked.timesteps, told)
        with injected(sd, weights):
            assert term(step) == 0
            for parameter in weights.parameters()["denoiser"]:
                parameter += 0.1
            own = sd.predict(asked.latents, asked.timesteps, told)
            torch.testing.assert_close(term(step), 0.5 * (own - base).square().mean())
            assert torch.equal(sd.predict(asked.latents, asked.timesteps, told), own), "its strength is back"
    with pytest.raises(ConfigError, match="says {subject}"):
        PreserveConfig(noun="dog", templates=("a photo",))
