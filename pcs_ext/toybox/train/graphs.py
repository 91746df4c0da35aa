"""CUDA graphs: a small model's kernels are over before a CPU has launched the next, so a pass is launched as a whole.

Nothing here happens on a CPU, where stages call their models as they are.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def capture_passes(module: nn.Module, *inputs: Tensor) -> None:
    """Make every later call of the module in train mode, and the backward pass behind it, the replay of a graph.

    Args:
        module: what trains in it has `requires_grad`, and its weights stay where they are; under bfloat16 autocast.
        inputs: of the shapes, kinds and `requires_grad` of all that are to come.
    """
    if inputs[0].device.type != "cuda":
        return
    with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        torch.cuda.make_graphed_callables(module, inputs, allow_unused_input=True)


class Replay:
    """A function of one tensor without gradients; on CUDA its first call is captured and later ones are replayed.

    Args:
        function: of tensors of one shape; what it returned lasts until its next call.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self._graph: torch.cuda.CUDAGraph | None = None
        self._given, self._made = torch.empty(0), torch.empty(0)

    @torch.no_grad()
    def __call__(self, given: Tensor) -> Tensor:
        if given.device.type != "cuda":
            return self.function(given)
        if self._graph is None:
            self._capture(given)
        assert self._graph is not None
        self._given.copy_(given)
        self._graph.replay()
        return self._made

    def _capture(self, given: Tensor) -> None:
        self._given, aside = given.clone(), torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        # Libraries choose their kernels in the first calls, which no graph may record.
        with torch.cuda.stream(aside):
            for _ in range(3):
                self.function(self._given)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._made = self.function(self._given)
