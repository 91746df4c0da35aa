"""Losses on clips against what their formulas say about clips one can think through."""

import pytest
import torch

from pcs_ext.video.objectives import (
    after_first_loss,
    appearance_debiased_loss,
    appearance_statistics_loss,
    clip_loss,
    debiased,
    motion_attention_loss,
    pseudo_flow,
    random_anchors,
    residual_cosine_loss,
    residual_l2_loss,
    residuals,
)

FRAMES = 16


def clips(seed: int, frames: int = FRAMES) -> torch.Tensor:
    return torch.randn(2, 4, frames, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_phi_shrinks_what_frames_share_and_grows_what_differs() -> None:
    anchors = torch.tensor([3, 7])
    still = clips(0)[:, :, :1].expand(-1, -1, FRAMES, -1, -1)
    ratio = debiased(still, anchors).square().mean() / still.square().mean()
    assert float(ratio) == pytest.approx((2**0.5 - 1) ** 2, rel=1e-5)
    moving = torch.randn(8, 4, FRAMES, 32, 32, generator=torch.Generator().manual_seed(1))
    where = torch.arange(8) % FRAMES
    by_frame = debiased(moving, where).square().mean((1, 3, 4))
    on_anchor = by_frame[torch.arange(8), where]
    elsewhere = by_frame[torch.nn.functional.one_hot(where, FRAMES) == 0]
    assert float(on_anchor.mean()) == pytest.approx(0.1716, abs=5e-3)
    assert float(elsewhere.mean()) == pytest.approx(3.0, abs=0.05)


def test_beta_zero_is_the_plain_error() -> None:
    ours, theirs = clips(1), clips(2)
    assert torch.allclose(
        appearance_debiased_loss(ours, theirs, torch.tensor([0, 5]), beta=0.0), clip_loss(ours, theirs)
    )


def test_residual_losses_do_not_see_a_common_offset() -> None:
    target = clips(3)
    shifted = target + clips(4)[:, :, :1]
    assert float(residual_l2_loss(shifted, target)) < 1e-10
    assert float(residual_cosine_loss(shifted, target)) < 1e-5
    assert float(clip_loss(shifted, target)) > 0.5


def test_residual_error_of_noise_is_that_of_the_clip_scaled() -> None:
    """VMC's identity: |d(x0) - d(x0^)|^2 = (1 - abar) / abar |d(eps) - d(eps^)|^2."""
    abar, clean, noise, predicted = 0.3, clips(5).double(), clips(6).double(), clips(7).double()
    noisy = abar**0.5 * clean + (1 - abar) ** 0.5 * noise
    implied = (noisy - (1 - abar) ** 0.5 * predicted) / abar**0.5
    left = (residuals(clean) - residuals(implied)).square().sum()
    right = (1 - abar) / abar * (residuals(noise) - residuals(predicted)).square().sum()
    torch.testing.assert_close(left, right)


def test_only_the_signed_cosine_tells_a_motion_from_its_reverse() -> None:
    target = clips(8)
    reverse = -target
    assert float(residual_cosine_loss(reverse, target)) == pytest.approx(2.0, abs=1e-4)
    assert float(residual_cosine_loss(reverse, target, form="absolute")) == pytest.approx(0.0, abs=1e-4)
    assert float(residual_cosine_loss(target, target)) == pytest.approx(0.0, abs=1e-4)


def test_the_first_frame_gets_no_gradient_from_lamp() -> None:
    prediction = clips(9).requires_grad_()
    after_first_loss(prediction, clips(10)).backward()
    assert prediction.grad is not None
    assert prediction.grad[:, :, 0].abs().max() == 0
    assert prediction.grad[:, :, 1:].abs().min() > 0


def test_masks_limit_the_loss_and_full_masks_do_not() -> None:
    ours, theirs = clips(11), clips(12)
    full = torch.ones(2, 1, FRAMES, 8, 8)
    torch.testing.assert_close(clip_loss(ours, theirs, full), clip_loss(ours, theirs))
    left = full.clone()
    left[..., 4:] = 0
    changed = ours.clone()
    changed[..., 4:] += 100
    torch.testing.assert_close(clip_loss(changed, theirs, left), clip_loss(ours, theirs, left))
    assert float(clip_loss(ours, theirs, torch.zeros_like(full))) == 0


def test_a_frozen_look_costs_nothing_however_things_move() -> None:
    """Statistics over cells do not see where things are; a change of gain and offset costs what it is."""
    frozen = clips(13).double()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    moved = frozen.flatten(3)[..., order].unflatten(3, (8, 8))
    assert float(appearance_statistics_loss(moved, frozen)) < 1e-12
    means, deviations = frozen.mean((3, 4)), frozen.std((3, 4), correction=0)
    changed = 1.5 * frozen + 0.25
    expected = ((0.5 * means + 0.25).square().mean() + (0.5 * deviations).square().mean()) / 2
    assert float(appearance_statistics_loss(changed, frozen)) == pytest.approx(float(expected), rel=1e-5)
    still = torch.zeros(1, 1, 2, 4, 4, requires_grad=True)  # no deviation: its root has no finite slope there
    appearance_statistics_loss(still, torch.ones(1, 1, 2, 4, 4)).backward()
    assert still.grad is not None
    assert bool(still.grad.isfinite().all())


def moving_square() -> torch.Tensor:
    """Attention of a protagonist two cells wide that moves by one cell in every frame, `1 4 6 6`."""
    maps = torch.zeros(1, 4, 6, 6)
    for frame in range(4):
        maps[0, frame, 2:4, frame : frame + 2] = 0.5
    return maps


def test_pseudo_flow_is_where_the_protagonist_enters_and_leaves() -> None:
    flow = pseudo_flow(moving_square())
    expected = torch.zeros(1, 4, 6, 6)
    for frame in range(1, 4):
        expected[0, frame, 2:4, frame - 1] = expected[0, frame, 2:4, frame + 1] = 1
    expected[:, 0] = expected[:, 1]
    assert torch.equal(flow, expected)
    assert not pseudo_flow(torch.ones(1, 3, 4, 4)).any()  # nothing moves


def test_a_motion_word_that_looks_where_something_moves_costs_nothing() -> None:
    protagonist = moving_square()
    looks = 0.3 * pseudo_flow(protagonist)
    assert float(motion_attention_loss(looks, protagonist)) < 1e-12
    # 36 cells a frame, of which 4 move: the other 32 are wrong by 1.
    assert float(motion_attention_loss(torch.ones(1, 4, 6, 6), protagonist)) == pytest.approx(32 / 36)
    protagonist.requires_grad_()
    loss = motion_attention_loss((looks + 0.1).requires_grad_(), protagonist)
    loss.backward()
    assert protagonist.grad is None  # the flow is a target


def test_anchors_are_drawn_from_all_frames_and_repeat_by_seed() -> None:
    many = torch.zeros(400, 1, 4, 1, 1)
    drawn = random_anchors(many, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {0, 1, 2, 3}
    assert torch.equal(drawn, random_anchors(many, torch.Generator().manual_seed(0)))
