"""Elastic weight consolidation, by hand on a quadratic: what mattered is held, what did not moves freely."""

import contextlib

import torch

from pcs_ext.image.consolidation import Consolidation
from pcs_ext.image.types import LossTerms, ParameterGroup


def test_the_term_is_the_paper_s_formula() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    unused = torch.nn.Parameter(torch.tensor([5.0]))
    groups = [ParameterGroup(name="a/denoiser", parameters=(weight, unused), learning_rate=1.0)]

    def first(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        steps.append(step)
        drawn = torch.randn((), generator=generator)
        seen.append(float(drawn))
        return LossTerms({"x": drawn * weight[0]})  # the gradient is what is drawn

    def second(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        return LossTerms({"x": 3 * weight[1]})

    seen: list[float] = []
    steps: list[int] = []
    held = Consolidation([(first, 8), (second, 1)], groups, 4, 7, contextlib.nullcontext())
    assert steps == [1, 3, 5, 7], "all along the phase"
    assert len(seen) == 4
    assert len(set(seen)) == 4, "every micro-batch draws anew"
    squares = sum(value**2 for value in seen) / 8
    torch.testing.assert_close(held.importance[0], torch.tensor([squares, 4.5]))
    assert held.importance[1].tolist() == [0.0]
    assert held().item() == 0.0
    with torch.no_grad():
        weight += torch.tensor([2.0, -1.0])
        unused += 10
    torch.testing.assert_close(held().detach(), torch.tensor((squares * 4 + 4.5 * 1) / 2))
    held().backward()
    torch.testing.assert_close(weight.grad, torch.tensor([squares * 2, -4.5]))
    again = Consolidation([(first, 8), (second, 1)], groups, 4, 7, contextlib.nullcontext())
    torch.testing.assert_close(again.importance[0][0], held.importance[0][0], msg="the same seed, the same draws")
