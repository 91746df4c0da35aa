"""A word per step of denoising: what is shared, and whom a step's own row reaches."""

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import StepwiseConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.training import PromptCache


def test_what_is_shared_reaches_all_steps_and_their_own_rows_one(sd: AbstractBackbone) -> None:
    word = build_adapter("word", StepwiseConfig(placeholder="<r>", stages=4, initializer="dog"))
    generator = torch.Generator().manual_seed(0)
    path, timesteps = sd.cross_attention_paths()[0], torch.tensor([0, 24, 25, 99])

    def states() -> torch.Tensor:
        return sd.encode_prompt(["a <r>"] * 4).at(timesteps, path)[0]

    with injected(sd, word), torch.no_grad():
        start = states()
        torch.testing.assert_close(start, sd.encode_prompt(["a dog"] * 4).states)
        (shared,), (own,) = word.parameters()["embedding"], word.parameters()["steps"]
        assert own.shape == (4, 1, shared.shape[-1])
        own[1] += 0.3 * torch.randn(own[1].shape, generator=generator)
        moved = [not torch.allclose(a, b, atol=1e-4) for a, b in zip(states(), start, strict=True)]
        assert moved == [False, False, True, False]
        shared += 0.3 * torch.randn(shared.shape, generator=generator)
        assert all(not torch.allclose(a, b, atol=1e-4) for a, b in zip(states(), start, strict=True))
    with pytest.raises(ConfigError, match="stages must be at least 2"):
        StepwiseConfig(stages=1)


def test_frozen_words_are_encoded_once_per_step_for_all_rows(sd: AbstractBackbone) -> None:
    word = build_adapter("word", StepwiseConfig(placeholder="<r>", stages=4, initializer="dog"))
    encoded: list[int] = []
    handle = sd.text_encoders[0].register_forward_hook(lambda *_: encoded.append(1))
    with injected(sd, word), torch.no_grad():
        word.parameters()["steps"][0][1] += torch.randn(16, generator=torch.Generator().manual_seed(0))
        told = PromptCache(sd, enabled=True)(["a <r>", "a <r>"])
        encoded.clear()
        for path in sd.cross_attention_paths()[:2]:
            states, _ = told.at(torch.tensor([10, 30]), path)
        assert len(encoded) == 1
        assert not torch.allclose(states[0], states[1], atol=1e-4)
    handle.remove()
