"""Residuals of values: the second pass looks where the first did, and its values gain what was learned."""

import pytest
import torch
from torch import Tensor

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import ValueResidualConfig, build_adapter, injected
from pcs_ext.image.attention import attention_program
from pcs_ext.image.prompt_programs import read_text
from pcs_ext.image.types import Conditioning

REX = ValueResidualConfig(placeholder="<rex>", class_noun="dog")
PROMPT = "a photo of <rex> on the beach"


def passes(backbone, conditioning) -> tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]]:
    """Own maps and outputs of every cross-attention, pass by pass."""
    maps: dict[str, list[Tensor]] = {}
    outputs: dict[str, list[Tensor]] = {}

    def kept(into):
        def program(path, x):
            into.setdefault(path, []).append(x)
            return x

        return program

    noise = torch.randn(len(conditioning.states), 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with attention_program(backbone, kept(maps)), attention_program(backbone, kept(outputs), at="output"):
        backbone.predict(noise, torch.tensor([30] * len(noise)), conditioning)
    return maps, outputs


@torch.no_grad()
def test_the_base_looks_and_the_subject_fills_in(sd):
    adapter = build_adapter("rex", REX)
    first, *_, last = sd.cross_attention_paths()
    with injected(sd, adapter):
        conditioning = sd.encode_prompt([PROMPT])
        residual = dict(adapter.residuals)  # type: ignore[attr-defined]
        residual[first] += 5.0 * torch.randn(residual[first].shape, generator=torch.Generator().manual_seed(0))
        maps, outputs = passes(sd, conditioning)
        assert all(len(seen) == 2 for seen in maps.values())
        attention = sd.denoiser.get_submodule(first)
        mixed = maps[first][0][..., 4].transpose(1, 2)  # the noun is the fifth token: start mark, a, photo, of
        spread = residual[first].unflatten(0, (attention.heads, -1))
        gained = torch.einsum("bqh,hd->bqhd", mixed, spread).flatten(2) @ attention.to_out[0].weight.T
        torch.testing.assert_close(outputs[first][1] - outputs[first][0], gained, rtol=1e-3, atol=1e-5)
        assert not torch.allclose(maps[last][0], maps[last][1], atol=1e-4), "left alone, the maps would move"
        torch.testing.assert_close(outputs[last][1], outputs[last][0])
        assert "predict" in vars(sd)
    assert "predict" not in vars(sd)
    assert "encode_prompt" not in vars(sd)


@torch.no_grad()
def test_marks_follow_their_prompts(sd):
    rex, pip = (
        build_adapter("rex", REX),
        build_adapter("pip", ValueResidualConfig(placeholder="<pip>", class_noun="cat")),
    )
    with injected(sd, rex, pip):
        assert read_text(sd, "a <pip> on a <rex>") == "a cat on a dog"
        plain = sd.encode_prompt(["a dog"])
        assert plain.marks is None
        both = sd.encode_prompt(["a dog", "a <pip> on a <rex>"])
        assert both.marks is not None
        assert both.marks["rex"].nonzero().tolist() == [[1, 5]]
        assert both.marks["pip"].nonzero().tolist() == [[1, 2]]
        joined = Conditioning.cat([plain, both])
        assert joined.marks is not None
        assert joined.marks["rex"].nonzero().tolist() == [[2, 5]]
        (row,) = (joined[2:].marks or {})["pip"]
        assert row.nonzero().tolist() == [[2]]
        for residual in rex.residuals.values():  # type: ignore[attr-defined]
            residual += 1.0
        maps, _ = passes(sd, plain)
        assert all(len(seen) == 1 for seen in maps.values()), "without a subject there is one pass"
    with pytest.raises(ConfigError, match="needs a class noun"):
        ValueResidualConfig(class_noun=" ")
