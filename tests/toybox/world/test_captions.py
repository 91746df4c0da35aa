import dataclasses

import torch

from pcs_ext.toybox.world.captions import caption, relative_view, view_name
from pcs_ext.toybox.world.sampling import attributes, sample_clip, sample_scene
from pcs_ext.toybox.world.vocabulary import ACCESSORIES, CLASSES, COLORS, CONTEXTS, MOTIONS, PATTERNS, STYLES, VIEWS


def single(seed: int):
    return sample_scene(torch.Generator().manual_seed(seed), two_objects=0.0)


def test_vocabulary_is_as_large_as_promised():
    assert len(CLASSES) >= 12
    assert len(COLORS) == 12
    assert len(PATTERNS) == 5
    assert len(ACCESSORIES) == 5
    assert len(CONTEXTS) == 11
    assert len(STYLES) == 5
    assert len(VIEWS) == 4
    assert len(MOTIONS) >= 8


def test_full_caption_names_every_attribute_of_the_truth():
    for seed in range(40):
        scene = single(seed)
        truth, words = attributes(scene), caption(scene)
        assert set(truth) == {"class", "color", "pattern", "accessory", "context", "style", "view", "motion"}
        assert all(value in words for value in truth.values())
        assert words.startswith(scene.style)
        assert words.endswith(truth["view"])


def test_short_captions_leave_out_but_never_invent():
    scene = single(3)
    full = caption(scene)
    generator = torch.Generator().manual_seed(0)
    drawn = {caption(scene, generator) for _ in range(60)}
    assert len(drawn) > 3
    assert all(set(short.replace(",", "").split()) <= set(full.replace(",", "").split()) for short in drawn)
    assert all(scene.objects[0].class_name in short for short in drawn)


def test_colours_off_the_palette_are_not_named():
    scene = single(3)
    toy = dataclasses.replace(scene.objects[0], color="#123456", second_color="#654321", accessory="")
    words = caption(dataclasses.replace(scene, objects=(toy,))).split()
    assert "#123456" not in words
    assert not set(COLORS) & set(words)


def test_two_objects_and_motions_are_named():
    scene = sample_scene(torch.Generator().manual_seed(1), two_objects=1.0)
    first, second = scene.objects
    words = caption(scene)
    assert words.index(first.class_name) < words.index(" and ") < words.rindex(second.class_name)
    moving = dataclasses.replace(single(3), motion=MOTIONS[0])
    assert MOTIONS[0] in caption(moving)


def test_clips_name_their_motion_and_no_view():
    scenes = [sample_clip(torch.Generator().manual_seed(seed)) for seed in range(40)]
    assert {scene.motion for scene in scenes} == set(MOTIONS)
    for scene in scenes:
        assert attributes(scene)["motion"] == scene.motion
        assert scene.motion in caption(scene)
        assert "view" not in caption(scene)
    assert sample_clip(torch.Generator(), motion="swaying", style="pixel art of").motion == "swaying"


def test_views_follow_the_heading():
    scene = single(3)
    camera = dataclasses.replace(scene.camera, azimuth=0.0, elevation=10.0)
    views = [
        relative_view(
            dataclasses.replace(scene, camera=camera, objects=(dataclasses.replace(scene.objects[0], heading=heading),))
        )
        for heading in (0.0, 90.0, 180.0)
    ]
    assert views == ["front view", "side view", "back view"]
    above = dataclasses.replace(camera, elevation=70.0)
    assert relative_view(dataclasses.replace(scene, camera=above)) == "overhead view"


def test_a_back_that_mirrors_the_front_is_called_so():
    assert view_name(180.0, 10.0, "cat") == "back view"
    assert view_name(180.0, 10.0, "teapot") == view_name(0.0, 10.0, "teapot") == "front view"
    assert view_name(90.0, 10.0, "teapot") == "side view"


def test_equal_generators_draw_equal_scenes():
    assert single(9) == single(9)
    assert single(9) != single(10)
