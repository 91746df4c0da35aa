"""The grammar of poses, the model that learns it, and how its training goes on."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pcs_ext.errors import CheckpointError, ConfigError, InputError, UsageError
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.types import ParameterGroup
from pcs_ext.threed.avatar.pose_model import (
    PoseModel,
    PoseModelConfig,
    cosine_schedule,
    load_pose_model,
)
from pcs_ext.threed.avatar.pose_set import Described, PoseSetConfig, draw_poses, fulfilled, pose_captions
from pcs_ext.threed.avatar.pose_training import PoseLoss, PoseStage, learn_poses
from pcs_ext.threed.avatar.pose_vocabulary import PoseVocabulary
from pcs_ext.threed.avatar.pose_words import ARMS, HEAD, LEGS, TRUNK
from pcs_ext.threed.avatar.rotations import six_of
from tests.support.killed import killed
from tests.support.small_avatars import learn, pose_stage

MODEL = PoseModelConfig(width=32, layers=1, heads=2, timesteps=100)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of several threads may differ in the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_phrase_is_fulfilled_by_its_own_poses_and_not_by_standing_still() -> None:
    alone = [Described("", (phrase,)) for kind in (ARMS, LEGS, TRUNK, HEAD) for phrase in kind]
    for seed in range(3):
        assert bool(fulfilled(alone, draw_poses(alone, torch.Generator().manual_seed(seed))).all())
    still = torch.eye(3).expand(len(alone), 15, 3, 3)
    does = fulfilled(alone, still).tolist()
    assert [one.phrases[0].texts[0] for one, passed in zip(alone, does, strict=True) if passed] == ["standing"]
    left, right = (Described("", (phrase,)) for phrase in ARMS[:2])
    assert not fulfilled([right], draw_poses([left], torch.Generator().manual_seed(0)))[0]


def test_the_last_word_on_a_joint_counts_and_pairs_are_held_out() -> None:
    run, raise_left = next(p for p in LEGS if "running" in p.texts), ARMS[0]
    both = [Described("", (run, raise_left))]
    poses = draw_poses(both * 8, torch.Generator().manual_seed(0))
    assert bool(fulfilled(both * 8, poses).all())
    settings = PoseSetConfig(captions=300, held_out=4)
    seen, unseen = pose_captions(settings), pose_captions(settings, held_out=True)
    with pytest.raises(ConfigError, match="leaves too few held-out captions"):
        pose_captions(PoseSetConfig(captions=3, held_out=100_000), held_out=True)
    assert pose_captions(settings) == seen

    def pairs(described: list[Described]) -> set[tuple[str, str]]:
        found = [([p for p in one.phrases if p in LEGS], [p for p in one.phrases if p in ARMS]) for one in described]
        return {(legs[0].texts[0], arms[0].texts[0]) for legs, arms in found if legs and arms}

    assert len(pairs(seen)) > 50
    assert not pairs(seen) & pairs(unseen)
    assert len(pairs(unseen)) > 20


def test_the_schedule_falls_from_almost_one_to_almost_nothing() -> None:
    abar = cosine_schedule(100).alphas_cumprod
    assert bool((abar.diff() < 0).all())
    assert abar[0] > 0.99
    assert abar[-1] < 1e-3
    assert float(abar[49]) == pytest.approx(0.49, abs=0.01)  # by hand: cos(pi/2 (0.5 + s) / (1 + s))^2 / cos(...)^2


def test_a_model_learns_which_arm() -> None:
    described = [Described(f"a man {phrase.texts[0]}", (phrase,)) for phrase in ARMS[:2]]
    model = PoseModel(MODEL, PoseVocabulary.of(one.caption for one in described))
    words = model.vocabulary.read([one.caption for one in described])
    sample = six_of(draw_poses(described * 50, torch.Generator().manual_seed(0)))
    model.middle.copy_(sample.mean(0))
    model.spread.copy_(sample.std(0).clamp_min(0.1))
    stage = PoseStage(model=MODEL, fit=FitConfig(steps=250), batch_size=32)
    group = ParameterGroup(name="poses", parameters=tuple(model.parameters()), learning_rate=3e-3)
    for _ in fit(PoseLoss(model, described, stage), [group], stage.fit):
        pass
    turns = model.draw(words[[0, 0, 0, 1, 1, 1]], seeds=range(6), steps=20)
    wanted = [described[index] for index in (0, 0, 0, 1, 1, 1)]
    assert int(fulfilled(wanted, turns).sum()) >= 5
    assert int(fulfilled(wanted[::-1], turns).sum()) <= 1
    alone = model.draw(words[[1]], seeds=[4], steps=20)
    torch.testing.assert_close(alone[0], turns[4], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(turns @ turns.transpose(-1, -2), torch.eye(3).expand_as(turns), atol=1e-5, rtol=0)


def test_words_are_read_alone_and_in_a_row() -> None:
    vocabulary = PoseVocabulary.of(["The left arm, up!", "left the arm up"])
    first, second, short = vocabulary.read(["The left arm, up!", "left the arm up", "arm"])
    assert len(first) == 4 + 3 + 2
    assert short.tolist() == [short[0], *[0] * 8]
    assert short[0] in first
    assert set(first[:4].tolist()) == set(second[:4].tolist())
    assert set(first.tolist()) != set(second.tolist())
    # No two runs share an entry: 4 words, 5 pairs ("arm up" in both) and 4 triples are in the two texts.
    assert len(set(first.tolist()) | set(second.tolist())) == 4 + 5 + 4 == vocabulary.size - 1
    model = PoseModel(MODEL, PoseVocabulary.of(["arm", "leg"]))
    noisy, t = torch.randn(1, 15, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([50])
    one, other = model.vocabulary.read(["arm", "leg"])[:, None]
    padded = torch.cat([one, torch.zeros(1, 3, dtype=torch.int64)], 1)
    torch.testing.assert_close(model(noisy, t, one), model(noisy, t, padded))
    assert (model(noisy, t, one) - model(noisy, t, other)).abs().max() > 1e-4
    deaf = [model(noisy, t, words, torch.tensor([True])) for words in (one, other)]
    torch.testing.assert_close(*deaf)
    assert vocabulary.read(["..."]).tolist() == [[0]]


def test_strange_words_say_nothing_wherever_they_stand() -> None:
    captions = [one.caption for one in pose_captions(PoseSetConfig(captions=400))]
    vocabulary = PoseVocabulary.of(captions)
    plain, *strange = vocabulary.read(
        [
            "a man raising the left arm in the snow",
            "a man raising the enormous left arm in the snow",
            "a zeppelin man raising the left arm in the snow, quietly, 1783 purple",
            "a \u00e9l\u00e9gant man raising the left arm in the snow",
        ]
    )
    assert all(torch.equal(row, plain) for row in strange)
    # A thousand made-up words fall on nothing that is known.
    letters = "bcdfghjklm"
    made_up = " ".join(f"{a}{b}x{c}" for a in letters for b in letters for c in letters)
    assert vocabulary.read([made_up]).tolist() == [[0]]
    assert vocabulary.unknown("A man raising the Enormous left arm, enormous on the moon") == ["enormous", "moon"]


def test_a_stored_model_knows_its_words(tmp_path: Path) -> None:
    learn(tmp_path)
    model, told = load_pose_model(tmp_path / "poses")
    captions = [one.caption for one in pose_captions(pose_stage().poses)]
    expected = PoseVocabulary.of(captions)
    assert model.vocabulary.runs == expected.runs == told.runs
    assert torch.equal(model.vocabulary.read(captions), expected.read(captions))
    turns = [model.draw(model.vocabulary.read([text]), seeds=[0], steps=3) for text in
             (captions[0], f"{captions[0]} on the qwertz moon")]  # fmt: skip
    assert bool((model.vocabulary.read([captions[0]]) > 0).all())
    known = model.draw(model.vocabulary.read([f"{captions[0]} on the"]), seeds=[0], steps=3)
    torch.testing.assert_close(turns[1], known, atol=0, rtol=0)


def test_training_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    made = learn(tmp_path / "whole")
    assert 0 <= made.seen <= 1
    assert made.held_out is not None
    for step in (2, 4):
        killed(functools.partial(learn, tmp_path / "parts"), "3d poses", step, preload="tests.support.small_avatars")
        assert not (tmp_path / "parts" / "poses").exists()
    learn(tmp_path / "parts")
    expected, found = (load_file(tmp_path / name / "poses" / "poses.safetensors") for name in ("whole", "parts"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["poses"]
    model, told = load_pose_model(tmp_path / "parts" / "poses")
    assert (told.steps, told.held_out) == (6, made.held_out)
    assert not model.training


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        learn_poses(tmp_path / "there", pose_stage())
    (tmp_path / "new.work").mkdir()
    (tmp_path / "new.work" / "file").touch()
    with pytest.raises(CheckpointError, match="not a 3D job"):
        learn_poses(tmp_path / "new", pose_stage())
    with pytest.raises(InputError, match="3d learn-poses"):
        load_pose_model(tmp_path / "there")
    with pytest.raises(ConfigError, match="captions"):
        dataclasses.replace(PoseSetConfig(), captions=0)


def test_nothing_but_a_pose_model_is_replaced(tmp_path: Path) -> None:
    photos, file = tmp_path / "photos", tmp_path / "file"
    photos.mkdir()
    (photos / "rex.jpg").write_bytes(b"mine")
    file.write_bytes(b"mine")
    for place in (photos, file):
        with pytest.raises(UsageError, match=r"is no folder with poses\.json in it"):
            learn_poses(place, pose_stage(), overwrite=True)
    with pytest.raises(InputError, match="file is a file, expected a folder"):
        learn_poses(file / "poses", pose_stage())
    assert (photos / "rex.jpg").read_bytes() == file.read_bytes() == b"mine"
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "file"}
