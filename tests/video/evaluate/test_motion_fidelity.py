"""The measure of motion: near 1 on true clips, 0 on still ones, and blind to who moves."""

import pytest
import torch
from torch import Tensor

from pcs_ext.runtime import generator_for
from pcs_ext.toybox.true_motion import true_flow
from pcs_ext.toybox.world.motion import frames_of
from pcs_ext.toybox.world.render import render_rgb
from pcs_ext.toybox.world.sampling import sample_clip
from pcs_ext.toybox.world.scene import Scene
from pcs_ext.toybox.world.vocabulary import MOTIONS
from pcs_ext.video.evaluate import ClipFlow, block_flow, motion_fidelity, motion_signature


def dotted(shifts: list[tuple[int, int]], *, side: int = 48, ground: float = -0.5) -> Tensor:
    """`f 3 h w`: a patch of fixed noise on a flat ground, at so many pixels right and down of its place."""
    patch = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    frames = torch.full((len(shifts), 3, side, side), ground)
    for frame, (x, y) in zip(frames, shifts, strict=True):
        frame[:, 16 + y : 32 + y, 16 + x : 32 + x] = patch
    return frames


def true_clip(motion: str, stream: str = "a") -> tuple[list[Scene], Tensor]:
    scene = sample_clip(generator_for("motion fidelity", stream, motion), motion=motion, style="a photo of")
    # From the start on: a jump seen around its top is the same backwards.
    scenes = frames_of(scene, 5)
    return scenes, render_rgb(scenes, resolution=64)


def test_blocks_are_found_where_they_went() -> None:
    flow = block_flow(dotted([(0, 0), (3, -2), (1, 2)]))
    assert flow.displacement.shape == (2, 2, 24, 24)
    # The middle of the patch, every second pixel.
    for step, expected in enumerate([(3.0, -2.0), (-2.0, 4.0)]):
        assert bool(flow.trusted[step, 12, 12])
        assert flow.displacement[step, :, 12, 12].tolist() == pytest.approx(expected, abs=0.2)
    assert not bool(flow.trusted[:, :3, :3].any()), "a flat ground cannot be found again"
    assert float(flow.displacement[:, :, :2, :2].abs().max()) == 0


def test_a_signature_says_shift_growth_and_turn() -> None:
    """Hand-made flow of a square: its translation, then v = a * (x, y) and v = b * (-y, x) about its middle."""
    rows, columns = torch.meshgrid(torch.arange(-4.0, 5), torch.arange(-4.0, 5), indexing="ij")
    fields = [torch.stack([torch.full_like(rows, 2.0), torch.full_like(rows, -1.0)])]
    fields += [torch.stack([columns, rows]), torch.stack([-rows, columns])]
    flow = ClipFlow(displacement=torch.stack(fields), trusted=torch.ones(3, 9, 9, dtype=torch.bool))
    # The middle stands still in the second and third; the radius is the root mean square of one axis over the rest.
    moving = (columns.abs() + rows.abs() > 0).double()
    radius = float(((columns.double() ** 2) * moving).sum().div(moving.sum()).sqrt())
    shift, growth, turn = motion_signature(flow).tolist()
    assert shift == pytest.approx([2, -1, 0, 0, 0, 0], abs=0.01)
    assert growth == pytest.approx([0, 0, radius, 0, 0, radius], abs=0.01)
    assert turn == pytest.approx([0, 0, 0, radius, -radius, 0], abs=0.01)


def test_a_motion_is_itself_elsewhere_and_not_its_opposite() -> None:
    right = dotted([(2 * i, 0) for i in range(5)])
    assert motion_fidelity(right, right) == pytest.approx(1, abs=1e-6)
    assert motion_fidelity(dotted([(2 * i - 10, 6) for i in range(5)], ground=0.3), right) > 0.98
    assert motion_fidelity(dotted([(3 * i - 6, 0) for i in range(5)]), right) > 0.98, "speed does not count"
    assert motion_fidelity(right.flip(0), right) < -0.98
    assert abs(motion_fidelity(dotted([(0, 2 * i) for i in range(5)]), right)) < 0.1
    assert motion_fidelity(right[:1].expand(5, -1, -1, -1), right) == 0
    large = torch.nn.functional.interpolate(right, scale_factor=4.0)
    assert motion_fidelity(large, right) > 0.95
    with pytest.raises(ValueError, match="the clip has 4 frames, the reference 5"):
        motion_fidelity(right[:4], right)


@pytest.mark.parametrize("motion", MOTIONS)
def test_true_clips_have_their_true_motion(motion: str) -> None:
    scenes, clip = true_clip(motion)
    flow = true_flow(scenes)
    # A toy that rolls turns by 22 degrees from frame to frame, which blocks follow least well.
    assert motion_fidelity(clip, flow) > (0.55 if motion == "rolling over" else 0.85)
    assert motion_fidelity(clip.flip(0), flow) < 0.5


def test_noise_has_no_motion() -> None:
    noise = torch.rand(5, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert abs(motion_fidelity(noise, dotted([(2 * i, 0) for i in range(5)]))) < 0.4
