"""What the critic teaches: that pictures under way become what their captions say."""

import math

import pytest
import torch
from torch import Tensor

from pcs_ext.runtime import generator_for
from pcs_ext.toybox.oracle import HEADS
from pcs_ext.toybox.train.critic import NOISIEST, Critic
from pcs_ext.toybox.train.data import TrainingData
from pcs_ext.toybox.train.legible import Asked, Asking, OnTheirWay, pull, said, unread
from pcs_ext.toybox.train.unet import build_schedule

SCHEDULE = build_schedule()
NAMES = ("class", "view", "color", "accessory")


def _data() -> TrainingData:
    truth = {"class": "cat", "color": "red", "pattern": "", "accessory": "", "context": "at night",
             "style": "a photo of", "view": "side view"}  # fmt: skip
    captions = [["a photo of a red cat at night, side view", "a photo of a cat", "a photo of a red cat"],
                ["a photo of a cat and a dog", "a photo of a cat and a dog", "a photo of a cat and a dog"]]  # fmt: skip
    return TrainingData(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), captions, [truth, truth])


class _Captions:
    def ids(self, chosen: Tensor, variants: Tensor) -> Tensor:
        return torch.stack([chosen, variants], 1)


def _asking() -> Asking:
    return Asking(_data(), _Captions(), lambda ids: ids[:, None].float())  # type: ignore[arg-type]


def test_only_what_a_caption_names_is_asked_for() -> None:
    data = _data()
    assert [said(data, "view", 0, variant) for variant in range(3)] == [1, 0, 0]
    assert [said(data, "color", 0, variant) for variant in range(3)] == [1, 0, 1]
    assert [said(data, "accessory", 0, variant) for variant in range(3)] == [0, 0, 0], "nothing worn is not a word"
    asked = _asking().draw(400, torch.Generator().manual_seed(0))
    assert asked.states[:, 0, 0].eq(0).all(), "pictures of two toys are not asked for"
    assert float(asked.said["view"].mean()) == pytest.approx(0.5, abs=0.08), "captions with a view come twice as often"
    assert asked.labels["class"].eq(HEADS["class"].index("cat")).all()


def _asked(said: float = 1.0) -> Asked:
    labels = {name: torch.tensor([1, 2]) for name in NAMES}
    return Asked(torch.zeros(2, 1, 1), labels, {name: torch.full((2,), said) for name in NAMES})


def test_only_what_is_asked_for_and_not_read_counts() -> None:
    labels = _asked().labels
    sure = {name: 20.0 * torch.nn.functional.one_hot(labels[name], len(HEADS[name])).float() for name in NAMES}
    unsure = {name: torch.zeros(2, len(HEADS[name])) for name in NAMES}
    assert float(unread(sure, _asked())) < 1e-4
    assert float(unread(unsure, _asked(0.0))) == 0
    expected = 2 * (math.log(12) + math.log(4) + 0.5 * math.log(12) + 0.5 * math.log(5))
    assert float(unread(unsure, _asked())) == pytest.approx(expected, rel=1e-5)


def test_the_pull_is_bounded_and_makes_the_critic_read_more() -> None:
    torch.manual_seed(0)
    critic, generator = Critic((16, 16, 16)).requires_grad_(False), torch.Generator().manual_seed(0)
    coming, at = torch.randn(2, 4, 8, 8), torch.tensor([400, 400])
    added = pull(critic, coming, _asked(), SCHEDULE, at, generator)
    lengths = added.square().mean((1, 2, 3)).sqrt()
    assert 0 < float(lengths.min()) <= float(lengths.max()) < 1.2501, "shorter only where little is to be gained"
    _, sigma = SCHEDULE.coefficients(at, coming)
    near = torch.tensor([100, 100])

    def misread(latents: Tensor) -> float:
        # The mean over noises, the same for both.
        draw = torch.Generator().manual_seed(1)
        noises = [torch.randn(latents.shape, generator=draw) for _ in range(64)]
        read = [float(unread(critic(SCHEDULE.add_noise(latents, noise, near), near), _asked())) for noise in noises]
        return sum(read) / len(read)

    assert misread(coming - 0.2 * sigma * added) < misread(coming)
    assert pull(critic, coming, _asked(), SCHEDULE, torch.tensor([950, 400]), generator)[0].abs().max() == 0
    assert pull(critic, coming, _asked(0.0), SCHEDULE, at, generator).abs().max() == 0, "nothing is asked for"


def test_pictures_go_from_noise_to_clean_and_begin_anew() -> None:
    generator = generator_for("test", "legible")
    drawn = OnTheirWay(_asking(), SCHEDULE, 8, generator)
    assert set(drawn.timesteps.tolist()) == set(range(1, 1000, 50)), "all levels of noise at once"
    target = torch.full_like(drawn.noisy, 0.5)
    for _ in range(19):
        signal, sigma = SCHEDULE.coefficients(drawn.timesteps, target)
        drawn.advance((signal * drawn.noisy - target) / sigma, generator)
    first = drawn.timesteps == 1
    assert first.any()
    torch.testing.assert_close(drawn.noisy[first], target[first], atol=0.15, rtol=0)
    held = {name: value.clone() for name, value in drawn.state_dict().items()}
    drawn.advance(torch.zeros_like(target), torch.Generator().manual_seed(1))
    assert float(drawn.noisy[first].std()) == pytest.approx(1, abs=0.2), "those that arrived are noise again"
    one = drawn.noisy
    drawn.load_state_dict(held)
    drawn.advance(torch.zeros_like(target), torch.Generator().manual_seed(1))
    assert torch.equal(drawn.noisy, one), "a resumed training goes on with the same pictures"


def test_the_critic_learns_what_noisy_latents_show() -> None:
    torch.manual_seed(0)
    critic = Critic((16, 16, 16))
    optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)
    label = torch.arange(8) % 2
    shown = (2.0 * label - 1)[:, None, None, None].expand(8, 4, 8, 8)
    losses = []
    for _ in range(40):
        timesteps = torch.randint(NOISIEST, (8,))
        read = critic(SCHEDULE.add_noise(shown, torch.randn(8, 4, 8, 8), timesteps), timesteps)
        assert {name: value.shape[1] for name, value in read.items()} == {n: len(v) for n, v in HEADS.items()}
        loss = torch.nn.functional.cross_entropy(read["class"], label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
