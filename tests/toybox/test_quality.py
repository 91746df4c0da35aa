"""The arithmetic of the quality figures, by hand."""

import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from pcs_ext.reporter import SilentReporter
from pcs_ext.toybox.oracle import HEADS
from pcs_ext.toybox.quality import _command, measure
from pcs_ext.toybox.quality_measures import confusion, held_out, psnr, retrieval_hits
from pcs_ext.toybox.quality_sheets import write_confusions, write_samples
from pcs_ext.toybox.train.data import pairs_of, scenes_of


def test_psnr_of_a_constant_error() -> None:
    images = torch.zeros(2, 3, 4, 4)
    # 20 log10(2 / 0.2) = 20 dB
    assert psnr(images + 0.2, images) == pytest.approx([20.0, 20.0], abs=1e-4)


def test_retrieval_counts_captions_whose_picture_is_nearest_in_its_own_set() -> None:
    texts, images = torch.eye(5), torch.eye(5)[[0, 1, 3, 2, 4]]
    # Sets of two: {0, 1} both right, {2, 3} both swapped, 4 left over.
    assert retrieval_hits(texts, images, 2) == [1.0, 1.0, 0.0, 0.0]


def test_confusion_has_the_truth_in_rows(tmp_path: Path) -> None:
    truth = {name: values[0] for name, values in HEADS.items()}
    read = {**truth, "view": "back view"}
    matrices = confusion([read, truth], [truth, truth])
    assert matrices["view"][0].tolist() == [1, 0, 1, 0]
    assert matrices["class"][0, 0] == 2
    write_confusions(tmp_path / "c.png", matrices)
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_held_out_scenes_are_fixed_and_not_the_training_ones() -> None:
    data = held_out(6, 16)
    assert data.scenes == held_out(6, 16).scenes
    assert not set(map(str, data.scenes)) & set(map(str, scenes_of("train", 0, 6)))
    held_out_toys = pairs_of(0, 6, stream="held-out pairs")
    assert not {str(scene.objects) for scene in held_out_toys} & {str(scene.objects) for scene in pairs_of(0, 6)}
    assert torch.equal(data.images, held_out(6, 16).images)
    assert all(len(data.scenes[row].objects) == 1 for row in data.single)


def test_models_that_are_not_there_are_named_once(tmp_path: Path) -> None:
    settings = {"prompts": 0, "resolution": 16, "sheets": None, "reporter": SilentReporter(), "clips": 2, "sets": 2}
    figures, missing = measure(tmp_path, scenes=0, **settings)
    assert (figures, missing) == ([], ["motion_reader", "motion", "oracle", "dino", "multiview"])


@pytest.mark.parametrize(("count", "size"), [(3, (3 * 16, 16)), (8, (8 * 16, 16)), (20, (8 * 16, 2 * 16))])
def test_a_sheet_of_few_pictures_shows_them(count: int, size: tuple[int, int], tmp_path: Path) -> None:
    write_samples(tmp_path / "s.png", torch.zeros(count, 3, 8, 8))
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size == size


def test_the_command_beside_figures_can_be_called_again_and_tells_no_folder() -> None:
    for arguments in (["--weights", "/home/ann/models", "--json"], ["--weights=/home/ann/models", "--json"]):
        command = _command(arguments)
        assert "ann" not in command
        assert shlex.split(command)[3:] in (["--weights", "WEIGHTS", "--json"], ["--weights=WEIGHTS", "--json"])
    assert _command(["--scenes", "10"]) == "python -m pcs_ext.toybox.quality --scenes 10"
