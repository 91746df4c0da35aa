"""Clips to train adapters on: what they show, say and know of their frames, and that they can be read as such."""

from pathlib import Path

import torch

from pcs_ext.image.levels import in_unit_range
from pcs_ext.reporter import SilentReporter
from pcs_ext.toybox.world.export_clips import clip_scenes, export_clips, nearness
from pcs_ext.toybox.world.vocabulary import CLASSES, COLORS, MOTIONS, PATTERNS
from pcs_ext.video.reference.clips import read_clip_subjects
from pcs_ext.video.reference.tracks import Tracking, track_of
from pcs_ext.video.training_clips import read_training_clips


def test_clips_are_what_learning_reads_with_the_truth_of_their_frames(tmp_path: Path) -> None:
    options = {"subjects": 1, "clips": 2, "photos": 1, "frames": 4, "resolution": 32, "seed": 3}
    export_clips(tmp_path, SilentReporter(), **options)
    (subject,) = read_clip_subjects(tmp_path, asks_noun=True)
    assert subject.noun in CLASSES
    assert len(subject.photos) == 1
    assert subject.photos[0].mask is not None
    assert [file.path.name for file in subject.clips] == ["1.mp4", "2.mp4"]
    for file in subject.clips:
        assert not {*COLORS, *PATTERNS} & set(file.prompt.split())
        (clip,) = read_training_clips([file], size=(32, 32), multiple_of=4, reporter=SilentReporter())
        track = track_of(file, in_unit_range(clip), Tracking(motion=True, structure="depth", masks=True), 4)
        assert track.action in MOTIONS
        assert track.action in file.prompt
        assert track.maps is not None
        assert track.cover is not None
        inside = track.cover.float() > 0.9
        near = track.maps.float().mean(0).reshape(4, 8, 4, 8, 4).mean((2, 4))
        assert inside.any()
        assert near[inside].mean() > near[track.cover.float() < 0.1].mean(), "the toy stands before what is around it"
    written = tmp_path / "00000" / "1.mp4"
    before = written.stat().st_mtime_ns
    export_clips(tmp_path, SilentReporter(), **options)
    assert written.stat().st_mtime_ns == before, "what is there is kept"


def test_a_subfolder_has_one_toy_in_other_scenes_and_nearness_is_relative() -> None:
    one = clip_scenes(0, 3)
    assert len({scene.objects[0].proportions for scene in one}) == 1
    assert len({(scene.context, scene.camera) for scene in one}) == 3
    assert clip_scenes(0, 3) == one
    assert clip_scenes(1, 3) != one
    depth = torch.tensor([[[2.0, 4.0, float("inf")]]])
    assert nearness(depth).flatten().tolist() == [1.0, 0.5, 0.0]
