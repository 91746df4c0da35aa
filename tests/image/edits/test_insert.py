"""TIGIC: the collage by hand, and a scene whose outside keeps its bits."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from pcs_ext.errors import ConfigError, InputError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.boxes import parse_box
from pcs_ext.image.edits.insert import InsertConfig, collage, region_of, tigic
from pcs_ext.image.edits.insert_picture import insert_picture
from pcs_ext.image.sample import SampleConfig

BOX = parse_box("subject: 0.25 0.25 0.75 0.75")


def quick(**changes) -> InsertConfig:
    sampling = SampleConfig(scheduler="ddim", num_inference_steps=3, guidance_scale=2.0)
    return dataclasses.replace(tigic("toybox"), sampling=sampling, **changes)


def test_the_subject_stands_at_the_bottom_of_its_box() -> None:
    scene, picture, mask = torch.zeros(1, 3, 40, 40), torch.ones(1, 3, 30, 30), torch.zeros(1, 1, 30, 30)
    mask[..., 5:15, 10:30] = 1  # twice as wide as high
    placed, where = collage(scene, picture, mask, BOX)
    assert where[0, 0].nonzero().amin(0).tolist() == [20, 10]
    assert where[0, 0].nonzero().amax(0).tolist() == [29, 29]
    assert torch.equal(placed[..., 21:29, 11:29], torch.ones(1, 3, 8, 18))
    assert torch.equal(placed[..., :20, :], scene[..., :20, :])
    assert region_of(where, BOX, 0.1).sum() > where.sum()
    with pytest.raises(InputError, match="marks nothing"):
        collage(scene, picture, mask * 0, BOX)


def test_the_scene_keeps_its_pixels_away_from_the_subject(sd: AbstractBackbone) -> None:
    scene = torch.randint(0, 256, (3, 48, 60), generator=torch.Generator().manual_seed(1)) / 127.5 - 1
    picture, mask = torch.ones(3, 40, 40), torch.zeros(1, 40, 40)
    mask[:, 10:30, 10:30] = 1
    words: dict[str, Any] = {"scene_prompt": "a photo of the beach", "prompt": "a red dog on the beach"}
    made = insert_picture(scene, picture, mask, BOX, config=quick(), base=sd, **words)
    after = torch.from_numpy(np.array(made.image)).permute(2, 0, 1)
    before = ((scene + 1) * 127.5).round().to(torch.uint8)
    _, where = collage(scene[None], picture[None], mask[None], BOX)
    outside = (region_of(where, BOX, 0.05)[0] == 0).expand_as(before)
    assert torch.equal(after[outside], before[outside])
    assert (after[~outside] != before[~outside]).any()
    free = insert_picture(scene, picture, mask, BOX, config=quick(subject=0.0, scene_last=0.0), base=sd, **words)
    assert free.image.tobytes() != made.image.tobytes()
    with pytest.raises(UsageError, match="one is empty"):
        insert_picture(scene, picture, mask, BOX, config=quick(), base=sd, scene_prompt=" ", prompt="a dog")
    with pytest.raises(ConfigError, match="expected shares"):
        quick(subject=1.5)
