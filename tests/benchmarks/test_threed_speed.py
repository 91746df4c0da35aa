"""Contestants of the speed benchmarks compute the same thing."""

import math
from pathlib import Path

import pytest
import torch

from benchmarks.field_rendering import contestants, step
from benchmarks.guidance_step import PROMPT, SCALE, Contestant, Ours, Threestudio
from benchmarks.true_toys import true_toy
from pcs_ext.threed.cameras import rays, ring
from pcs_ext.threed.distillation import DistillationConfig, distilled_score
from pcs_ext.toybox.world.subjects import SUBJECTS
from tests.support.tiny import tiny_folder


def test_both_guidances_take_the_same_score(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "base")
    ours, peer = Ours(folder), Threestudio(folder, 32)
    backbone, generator = ours.guidance.backbone, torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    timesteps = torch.tensor([500])
    with torch.no_grad():
        negative, positive = (backbone.encode_prompt([text]) for text in ("", PROMPT))
        config = DistillationConfig(guidance_scale=SCALE)
        found = distilled_score(backbone, latents, timesteps, noise, negative, positive, config)
        expected, clean = peer.score(latents, timesteps, noise)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert clean.shape == latents.shape


def test_steps_of_both_reach_the_field(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "base")
    for guidance in (Ours(folder), Threestudio(folder, 32)):
        contestant = Contestant(16, 12, guidance)
        assert math.isfinite(contestant.step())
        assert contestant.field.albedo_grid.grad is not None
        assert contestant.field.albedo_grid.grad.abs().sum() > 0


def test_our_renderer_with_empty_cells_draws_what_it_draws_without() -> None:
    found, missing = contestants(48)
    assert {*found, *(name.partition(":")[0] for name in missing)} == {"voxels", "hash", "nerfacc", "nerfstudio"}
    bundle = rays(ring(2), 24, 24)
    field, render = found["voxels"]
    with torch.no_grad():
        colors = render(bundle, torch.Generator().manual_seed(0)).view(2, 24, 24, 3)
    toy = true_toy(SUBJECTS["rex"], side=24, views=2)
    assert (colors[~toy.masks] > 0.99).float().mean() > 0.85, "white beside the toy"
    assert (colors[toy.masks].std(0) > 0.05).all(), "and its colours on it"
    assert math.isfinite(step(field, render, bundle, 100, 0))


@pytest.mark.parametrize("name", ["nerfacc", "nerfstudio"])
def test_peers_that_are_there_draw_the_same_toy(name: str) -> None:
    found, missing = contestants(48)
    if name not in found:
        assert any(entry.startswith(f"{name}: ") for entry in missing)
        return
    field, render = found[name]
    bundle = rays(ring(1), 16, 16)
    assert math.isfinite(step(field, render, bundle, 64, 0))
    if name == "nerfacc":
        with torch.no_grad():
            theirs, own = (draw(bundle, torch.Generator().manual_seed(0)) for draw in (render, found["voxels"][1]))
        torch.testing.assert_close(theirs, own, rtol=1e-2, atol=1e-2)
