"""Concept neurons: the statistic by hand, what is shut, integers in files, and unions."""

import pytest
import torch
from torch import nn

from pcs_ext.errors import ArtifactError, ConfigError
from pcs_ext.image.adapters import NeuronAdapter, NeuronsConfig, injected
from pcs_ext.image.adapters.neurons import NeuronLayer, lowest
from pcs_ext.image.backbone import AbstractBackbone


def layer(weight: list[list[float]], share: float) -> NeuronLayer:
    base = nn.Linear(len(weight[0]), len(weight), bias=False)
    base.weight = nn.Parameter(torch.tensor(weight), requires_grad=False)
    made = NeuronLayer(base, share)
    made.set_below(base)
    return made


def test_which_scores_are_lowest() -> None:
    scores = torch.tensor([[0.5, -3.0], [-1.0, -2.0]])
    assert lowest(scores, 1).tolist() == [[False, True], [False, False]]
    assert lowest(scores, 2).tolist() == [[False, True], [False, True]]
    assert lowest(scores, 4).tolist() == [[False, True], [True, True]], "what was pulled up stays"
    assert not lowest(torch.zeros(2, 2), 2).any(), "nothing is shut before training"
    assert lowest(torch.tensor([-1.0, 0.0, -1.0, -1.0]), 1).tolist() == [True, False, True, True]


def test_the_statistic_is_weight_times_gradient_summed_over_the_steps() -> None:
    made = layer([[2.0, -1.0], [0.5, 3.0]], share=0.25)
    x = torch.tensor([[1.0, 2.0]])
    made.scores.requires_grad_(True)
    optimizer = torch.optim.SGD([made.scores], lr=1.0)
    output = made(x)
    assert torch.equal(output, x @ made.weight.T), "untrained it is the base"
    # dL/dW for L = sum(target * y) is target x^T; times W it is the derivative by a weight's presence.
    target = torch.tensor([[1.0, -1.0]])
    (target * output).sum().backward()
    expected = made.weight * (target.T @ x)  # [[2, -2], [-0.5, -6]]
    assert made.scores.grad is not None
    torch.testing.assert_close(made.scores.grad, expected)
    optimizer.step()
    # The loss falls most without the weight whose presence raises it most: 2.
    assert made.shut().tolist() == [[1.0, 0.0], [0.0, 0.0]]
    torch.testing.assert_close(made(x), torch.tensor([[-2.0, 6.5]]))
    made.scale = 0.5
    torch.testing.assert_close(made(x), torch.tensor([[-1.0, 6.5]]))
    torch.testing.assert_close(made.merge(made.weight), torch.tensor([[1.0, -1.0], [0.5, 3.0]]))


def trained(backbone: AbstractBackbone, seed: int, share: float = 0.1) -> NeuronAdapter:
    adapter = NeuronAdapter(f"neurons_{seed}", NeuronsConfig(share=share))
    with injected(backbone, adapter):
        for index, scores in enumerate(adapter.parameters()["denoiser"]):
            scores.data = torch.randn(scores.shape, generator=torch.Generator().manual_seed(100 * seed + index))
    return adapter


@torch.no_grad()
def test_files_hold_integers_and_unions_shut_what_any_shuts(sd: AbstractBackbone) -> None:
    one, other = trained(sd, 1), trained(sd, 2)
    states = [adapter.state_dict() for adapter in (one, other)]
    assert {tensor.dtype for tensor in states[0].values()} == {torch.int32}
    sizes = {path: layer.scores.numel() for path, layer in one.layers().items()}
    assert all(len(states[0][f"{path}.shut"]) == max(1, round(0.1 * size)) for path, size in sizes.items())

    def predicted(adapter: NeuronAdapter) -> torch.Tensor:
        with injected(sd, adapter):
            return sd.predict(torch.ones(1, 4, 8, 8), torch.tensor([300]), sd.encode_prompt(["a photo of a dog"]))

    loaded = NeuronAdapter("loaded", one.config)
    loaded.load_state_dict(states[0])
    assert torch.equal(predicted(loaded), predicted(one))
    assert all(torch.equal(value, states[0][key]) for key, value in loaded.state_dict().items())
    union = NeuronAdapter("union", NeuronsConfig(share=1e-4))  # smaller than what it holds: all of that is shut
    union.load_state_dict({key: torch.unique(torch.cat([states[0][key], states[1][key]])) for key in states[0]})
    predicted(union)
    for path, made in union.layers().items():
        either = torch.maximum(one.layers()[path].shut(), other.layers()[path].shut())
        assert torch.equal(made.shut(), either)


def test_mistakes(sd: AbstractBackbone) -> None:
    state = trained(sd, 1).state_dict()
    first = next(iter(state))
    broken = NeuronAdapter("x", NeuronsConfig())
    broken.load_state_dict({key: value for key, value in state.items() if key != first})
    with pytest.raises(ArtifactError, match=r"Missing or unexpected: .*\.shut"), injected(sd, broken):
        pass
    broken = NeuronAdapter("x", NeuronsConfig())
    broken.load_state_dict({**state, first: torch.tensor([10**6], dtype=torch.int32)})
    with pytest.raises(ArtifactError, match="names weights that the layer does not have"), injected(sd, broken):
        pass
    with pytest.raises(ConfigError, match=r"must be in \(0, 1\), got 1"):
        NeuronsConfig(share=1.0)
