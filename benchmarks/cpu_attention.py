"""`python -m benchmarks.cpu_attention`: attention in bfloat16 on a CPU, ours and torch's fused kernel.

Shapes of a training step on two pictures: self-attention and attention to 77 tokens of toybox, of Stable Diffusion 1.5
at 512 pixels and of SDXL at 1,024. Milliseconds of CPU time of forward and backward pass, the median over rounds in
which the contestants take turns; `fused_in_float32` widens for torch's kernel.
"""

import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from pcs_ext.image.backbones.cpu_attention import attend

SHAPES = {
    "toybox": (4, 256, 256, 16),
    "toybox, text": (4, 256, 77, 16),
    "sd15": (8, 4096, 4096, 40),
    "sd15, text": (8, 4096, 77, 40),
    "sd15, second level": (8, 1024, 1024, 80),
    "sd15, third level": (8, 256, 256, 160),
    "sdxl": (10, 4096, 4096, 64),
    "sdxl, third level": (20, 1024, 1024, 64),
}
"""Name -> heads, queries, keys, width of a head."""
Attention = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def main(rounds: int = 5, batch: int = 2, threads: int = 0) -> None:
    """Measure and print JSON.

    Args:
        rounds: of all contestants in turns.
        batch: rows.
        threads: of the CPU; 0 leaves torch's choice.
    """
    if threads:
        torch.set_num_threads(threads)
    contestants = {"ours": attend, "fused": _fused, "fused_in_float32": _fused_in_float32}
    rows = []
    for name, shape in SHAPES.items():
        times: dict[str, list[float]] = {who: [] for who in contestants}
        for number in range(rounds + 1):
            for who, attention in contestants.items():
                spent = _milliseconds(attention, batch, *shape)
                if number:  # the first round warms up
                    times[who].append(spent)
        medians = {who: round(statistics.median(spent), 2) for who, spent in times.items()}
        rows.append({"shape": name, **medians, "ratio_to_fused": round(medians["ours"] / medians["fused"], 3)})
    head = {"benchmark": "cpu_attention", "batch": batch, "threads": torch.get_num_threads(), "rounds": rounds}
    print(json.dumps({**head, "rows": rows}, indent=2))


def _fused(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, scale=scale)


def _fused_in_float32(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return _fused(query.float(), key.float(), value.float(), scale).to(value.dtype)


def _milliseconds(attention: Attention, batch: int, heads: int, queries: int, keys: int, width: int) -> float:
    """Of a forward and a backward pass."""
    told = [
        torch.randn(batch, tokens, heads * width, dtype=torch.bfloat16, requires_grad=True)
        for tokens in (queries, keys, keys)
    ]
    start = time.process_time()
    query, key, value = (x.unflatten(2, (heads, width)).transpose(1, 2) for x in told)
    attention(query, key, value, width**-0.5).transpose(1, 2).flatten(2).sum().backward()
    return 1000 * (time.process_time() - start)


if __name__ == "__main__":
    tyro.cli(main)
