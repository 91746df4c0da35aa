"""`python -m benchmarks.field_rendering`: rays per second through a toy, ours and nerfacc's and nerfstudio's.

Rays of true cameras around the same toy, forwards and back to the field's parameters, in turns in one process:

- voxels: our renderer with its grid of empty cells against nerfacc's batched weights and sums, on our own field;
- hash: our hash grid and network, with the same cells, against nerfstudio's `HashEncoding`, `MLP`, `UniformSampler` and
  `RGBRenderer` in their torch implementations at the same sizes. Both are untrained; what is empty is the toy's.

The peers ask the field everywhere: their occupancy grids need CUDA. Peers that are not installed are named as missing:
they need an environment of their own (`pip install nerfacc==0.5.2 nerfstudio==1.1.5`; their pins do not fit ours).
"""

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from benchmarks.true_toys import carved_distances, true_toy
from pcs_ext.threed.cameras import Rays, rays
from pcs_ext.threed.fields import AbstractField, Bounds, HashField, HashGrid, VoxelField
from pcs_ext.threed.occupancy import Occupancy
from pcs_ext.threed.render import RenderConfig, intersect, render_rays
from pcs_ext.toybox.world.subjects import SUBJECTS

LEVELS, TABLE, COARSEST, FINEST, WIDTH = 8, 15, 8, 128, 32
"""Of both hash grids (the table is a power of two) and their networks."""
Render = Callable[[Rays, torch.Generator], Tensor]
"""Colours `n 3` of rays over white, differentiable."""


def main(rays_per_step: int = 4096, samples: int = 96, steps: int = 10, rounds: int = 3, threads: int = 0) -> None:
    """Measure and print JSON.

    Args:
        rays_per_step: drawn from all pixels of 24 views of 64 pixels.
        samples: per ray.
        steps: timed steps per round.
        rounds: of each contestant, in turns.
        threads: of the CPU; 0 leaves torch's choice.
    """
    if threads:
        torch.set_num_threads(threads)
    found, missing = contestants(samples)
    bundle = rays(true_toy(SUBJECTS["rex"]).cameras, 64, 64)
    speeds: dict[str, list[float]] = {name: [] for name in found}
    for field, render in found.values():
        step(field, render, bundle, rays_per_step, 0)
    for turn in range(rounds):
        order = list(found.items())
        for name, (field, render) in order if turn % 2 == 0 else reversed(order):
            start = time.process_time()
            for index in range(steps):
                step(field, render, bundle, rays_per_step, index)
            speeds[name].append(steps * rays_per_step / (time.process_time() - start))
    rates = {name: round(statistics.median(values)) for name, values in speeds.items()}
    pairs = {"voxels": "nerfacc", "hash": "nerfstudio"}
    settings = {"rays_per_step": rays_per_step, "samples": samples, "steps": steps, "rounds": rounds}
    result = {"benchmark": "field_rendering", **settings, "threads": threads, "rays_per_second": rates}
    result["ratios"] = {
        f"{ours} / {peer}": round(rates[ours] / rates[peer], 2) for ours, peer in pairs.items() if peer in rates
    }
    print(json.dumps({**result, "missing": missing}, indent=2))


def step(field: nn.Module, render: Render, bundle: Rays, count: int, seed: int) -> float:
    """Draw rays, render, go back; the loss."""
    generator = torch.Generator().manual_seed(seed)
    chosen = bundle[torch.randint(len(bundle), (count,), generator=generator)]
    field.zero_grad(set_to_none=True)
    loss = render(chosen, generator).square().mean()
    loss.backward()
    return loss.item()


def contestants(samples: int) -> tuple[dict[str, tuple[nn.Module, Render]], list[str]]:
    """Fields and renderers by name, and what is not installed."""
    voxels = toy_field()
    empty = Occupancy(voxels)
    empty.update()
    grid = HashGrid(levels=LEVELS, table=2**TABLE, coarsest=COARSEST, finest=FINEST)
    hashed = HashField(grid)
    found: dict[str, tuple[nn.Module, Render]] = {
        "voxels": (voxels, ours(voxels, samples, empty)),
        "hash": (hashed, ours(hashed, samples, empty)),
    }
    missing = []
    for name, make in (("nerfacc", by_nerfacc), ("nerfstudio", by_nerfstudio)):
        try:
            found[name] = make(voxels, samples)
        except ImportError as error:
            missing.append(f"{name}: {error}")
    return found, missing


def toy_field() -> VoxelField:
    """Rex, dense inside, in random colours."""
    field = VoxelField(64)
    outside = carved_distances(true_toy(SUBJECTS["rex"]), 64).permute(2, 1, 0)
    with torch.no_grad():
        field.density_grid.copy_(torch.where(outside < 0, 30.0, -10.0))
        field.albedo_grid.normal_(generator=torch.Generator().manual_seed(0))
    return field


def ours(field: AbstractField, samples: int, occupancy: Occupancy) -> Render:
    """`render_rays` as training uses it."""
    settings = RenderConfig(samples=samples)
    return lambda bundle, generator: render_rays(field, bundle, settings, occupancy=occupancy, generator=generator).rgb


def by_nerfacc(field: VoxelField, samples: int) -> tuple[nn.Module, Render]:
    """The same field and places, nerfacc's weights and sums."""
    from nerfacc import accumulate_along_rays, render_weight_from_density  # pyright: ignore[reportMissingImports]

    def render(bundle: Rays, generator: torch.Generator) -> Tensor:
        near, far = intersect(bundle, field.bounds)
        edges = near[:, None] + (far - near)[:, None] * torch.linspace(0, 1, samples + 1)
        start, end = edges[:, :-1], edges[:, 1:]
        place = start + (end - start) * torch.rand(start.shape, generator=generator)
        points = bundle.origins[:, None] + bundle.directions[:, None] * place[..., None]
        held = field.query(points.reshape(-1, 3))
        weights, _, _ = render_weight_from_density(start, end, held.density.view(start.shape))
        colors = accumulate_along_rays(weights, held.albedo.view(*start.shape, 3))
        return colors + 1 - accumulate_along_rays(weights, None)

    return field, render


def by_nerfstudio(field: VoxelField, samples: int) -> tuple[nn.Module, Render]:
    """nerfstudio's parts in a field of our hash field's size, in the same cube."""
    from nerfstudio.cameras.rays import RayBundle  # pyright: ignore[reportMissingImports]
    from nerfstudio.field_components.encodings import HashEncoding  # pyright: ignore[reportMissingImports]
    from nerfstudio.field_components.mlp import MLP  # pyright: ignore[reportMissingImports]
    from nerfstudio.model_components.ray_samplers import UniformSampler  # pyright: ignore[reportMissingImports]
    from nerfstudio.model_components.renderers import RGBRenderer  # pyright: ignore[reportMissingImports]

    sizes: dict[str, Any] = {"num_levels": LEVELS, "min_res": COARSEST, "max_res": FINEST, "log2_hashmap_size": TABLE}
    encoding = HashEncoding(**sizes, features_per_level=2, implementation="torch")
    network = MLP(in_dim=2 * LEVELS, num_layers=2, layer_width=WIDTH, out_dim=4, implementation="torch")
    sampler, renderer, bounds = UniformSampler(num_samples=samples), RGBRenderer(background_color="white"), Bounds()

    def render(bundle: Rays, generator: torch.Generator) -> Tensor:
        near, far = intersect(bundle, bounds)
        given = RayBundle(
            origins=bundle.origins,
            directions=bundle.directions,
            pixel_area=torch.ones(len(bundle), 1),
            nears=near[:, None],
            fars=far[:, None],
        )
        placed = sampler(given)
        unit = bounds.normalized(placed.frustums.get_positions()).clamp(-1, 1) * 0.5 + 0.5
        held = network(encoding(unit.reshape(-1, 3))).view(*unit.shape[:2], 4)
        weights = placed.get_weights(nn.functional.softplus(held[..., :1]))
        return renderer(rgb=torch.sigmoid(held[..., 1:]), weights=weights)

    return nn.ModuleList([encoding, network]), render


if __name__ == "__main__":
    tyro.cli(main)
