"""Closed forms against what they promise, on random matrices."""

import torch

from pcs_ext.image.merge.least_squares import constrained, fused


def matrices(*shapes: tuple[int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def test_constraints_hold_and_no_allowed_change_costs_less() -> None:
    base, context, inputs, outputs = matrices((12, 8), (60, 8), (3, 8), (3, 12))
    weight = constrained(base, context, inputs, outputs).double()
    torch.testing.assert_close(weight @ inputs.T, outputs.T, atol=1e-5, rtol=1e-5)

    def cost(candidate: torch.Tensor) -> float:
        return float((context @ (candidate - base).T).square().sum())

    (step,) = matrices((12, 8))
    allowed = step @ (torch.eye(8, dtype=torch.float64) - torch.linalg.pinv(inputs) @ inputs)
    torch.testing.assert_close((weight + allowed) @ inputs.T, outputs.T, atol=1e-5, rtol=1e-5)
    for size in (1e-2, -1e-2):
        assert cost(weight + size * allowed) > cost(weight)


def test_a_row_given_twice_is_one_constraint() -> None:
    base, context, inputs, outputs = matrices((5, 4), (40, 4), (2, 4), (2, 5))
    once = constrained(base, context, inputs, outputs)
    twice = constrained(base, context, inputs[[0, 1, 0]], outputs[[0, 1, 0]])
    torch.testing.assert_close(once, twice, atol=1e-5, rtol=1e-4)


def test_fusion_is_the_least_squares_optimum() -> None:
    base, first, second, x, y = matrices((6, 4), (6, 4), (6, 4), (30, 4), (20, 4))
    weight = fused(base, [first, second], [x.T @ x, y.T @ y], ridge=0.0).double()
    rows, wanted = torch.cat([x, y]), torch.cat([x @ first.T, y @ second.T])
    torch.testing.assert_close(weight.T, torch.linalg.lstsq(rows, wanted).solution, atol=1e-5, rtol=1e-5)


def test_fusion_keeps_the_base_where_nothing_was_read_and_each_subject_where_only_it_was() -> None:
    base, first, second = matrices((6, 9), (6, 9), (6, 9))
    x, y = torch.zeros(20, 9, dtype=torch.float64), torch.zeros(20, 9, dtype=torch.float64)
    x[:, :3], y[:, 3:6] = matrices((20, 3), (20, 3))
    weight = fused(base, [first, second], [x.T @ x, y.T @ y], ridge=1e-6).double()
    torch.testing.assert_close(weight[:, :3], first[:, :3], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(weight[:, 3:6], second[:, 3:6], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(weight[:, 6:], base[:, 6:], atol=1e-6, rtol=1e-6)
