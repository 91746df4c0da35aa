"""The whole job on a tiny base: it finishes, keeps what is done, and goes on after an interruption."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from pcs_ext.config_io import write_json
from pcs_ext.demo.data import DemoData
from pcs_ext.demo.job import run_demo
from pcs_ext.errors import Interrupted, UsageError
from pcs_ext.image.evaluate import Judges, load_image_encoder, load_image_text_encoder
from pcs_ext.reporter import SilentReporter
from pcs_ext.toybox.world.export_examples import ROTATED, SIZES, photo_bytes
from pcs_ext.toybox.world.subjects import reference_photos
from tests.support.encoders import tiny_clip, tiny_dino

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclasses.dataclass(frozen=True)
class ContextReader:
    """Finds a beach in every picture."""

    id: str = "beach"

    def __call__(self, images: torch.Tensor) -> list[dict[str, str]]:
        return [{"context": "on the beach", "class": "dog"} for _ in images]


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges")
    return Judges(
        clip=load_image_text_encoder(tiny_clip(folder / "clip")),
        dino=load_image_encoder(tiny_dino(folder / "dino")),
        attributes=ContextReader(),
    )


class _StopAt(SilentReporter):
    """Ctrl-C at a moment of the job."""

    def __init__(self, task: str, step: int) -> None:
        self.task, self.step = task, step

    def progress(self, task, step, total, **fields):
        if task.startswith(self.task) and step >= self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def camera_roll(tmp_path_factory, judges) -> Path:
    """The five photos, rendered once for all tests."""
    folder = tmp_path_factory.mktemp("camera")
    shots = reference_photos("rex", resolution=512)
    for index, size in enumerate(SIZES):
        data = photo_bytes(shots.images[index], shots.masks[index, 0], size, rotated=index + 1 == ROTATED)
        (folder / f"{index + 1}.jpg").write_bytes(data)
    return folder


@pytest.fixture
def run(camera_roll, judges, sd):
    """The job with small settings, its photos taken already."""

    def start(output: Path, **changes) -> Path:
        settings = {"prompts": 2, "seeds": 2, "steps": 3, "recipes": ("textual-inversion",), **changes}
        if not (output / "photos").exists():
            shutil.copytree(camera_roll, output / "photos")
            write_json(output / "photos" / "of.json", {"subject": "rex"})
        return run_demo(output, base=sd, judges=judges, **settings)

    return start


def _stamps(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*/*.png")}


def test_the_job_makes_page_numbers_and_images(tmp_path, run):
    page = run(tmp_path / "out")
    assert page == tmp_path / "out" / "index.html"
    data = DemoData.load(tmp_path / "out" / "numbers.json")
    assert [system.id for system in data.systems] == ["textual-inversion", "class-word"]
    assert data.prompts[0].asked == "on the beach"
    for system in data.systems:
        assert len(system.images) == 4
        assert all((tmp_path / "out" / image).is_file() for image in system.images)
        assert system.sample_seconds > 0
        # The reader sees a beach everywhere: the first prompt is met by both seeds, the other by none.
        assert system.hits == (2, 0)
        assert {"clip-i", "dino-i-truth", "clip-t", "attributes/context", "subject"} <= set(system.report.figures)
    learned = data.systems[0]
    assert len(learned.losses) == 3
    assert learned.learn_seconds > 0
    assert "drift" in learned.report.figures
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        # A column of five photos, a wider gap, a row of four pictures.
        assert sheet.size == (128 + 30 + 4 * 134 - 6, 5 * 134 - 6)
    facts = json.loads((tmp_path / "out" / "images" / "class-word" / "made_from.json").read_text())
    assert facts["noun"] == "dog"


def test_a_second_run_makes_nothing_again(tmp_path, run):
    run(tmp_path)
    before, artifact = _stamps(tmp_path), (tmp_path / "subjects/textual-inversion/config.json").stat().st_mtime_ns
    first = DemoData.load(tmp_path / "numbers.json")
    run(tmp_path)
    assert _stamps(tmp_path) == before
    assert (tmp_path / "subjects/textual-inversion/config.json").stat().st_mtime_ns == artifact
    second = DemoData.load(tmp_path / "numbers.json")
    assert [s.report for s in second.systems] == [s.report for s in first.systems]
    assert [s.sample_seconds for s in second.systems] == [s.sample_seconds for s in first.systems]


def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path, run):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole)
    for task in ("learn", "images textual", "unrelated", "images class"):
        with pytest.raises(Interrupted, match="same command goes on"):
            run(parts, reporter=_StopAt(task, 2))
        assert not (parts / "index.html").exists()
    run(parts)
    reports = [[s.report for s in DemoData.load(folder / "numbers.json").systems] for folder in (whole, parts)]
    assert reports[0] == reports[1]


def test_other_settings_make_new_parts(tmp_path, run):
    run(tmp_path)
    before = _stamps(tmp_path / "images" / "textual-inversion")
    run(tmp_path, steps=4)
    after = _stamps(tmp_path / "images" / "textual-inversion")
    assert before.keys() == after.keys()
    assert all(after[name] > before[name] for name in before)
    assert len(DemoData.load(tmp_path / "numbers.json").systems[0].losses) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subject": "nobody"}, "'nobody' is no subject"),
        ({"prompts": 0}, "1 to 20 prompts, got 0"),
        ({"prompts": 21}, "1 to 20 prompts, got 21"),
        ({"seeds": 0}, "at least one recipe and one seed"),
        ({"recipes": ("magic",)}, "recipe 'magic' is unknown"),
    ],
)
def test_what_cannot_be_done_is_said_first(tmp_path, run, changes, message):
    with pytest.raises(UsageError, match=message):
        run(tmp_path, **changes)


def test_the_photos_are_those_of_the_examples_folder(camera_roll):
    for photo in sorted(camera_roll.iterdir()):
        assert photo.read_bytes() == (EXAMPLES / "rex" / photo.name).read_bytes()


def test_another_subject_in_the_same_folder_has_photos_of_its_own(tmp_path, run):
    with pytest.raises(Interrupted):
        run(tmp_path, reporter=_StopAt("learn", 1))
    shutil.rmtree(tmp_path / "subjects", ignore_errors=True)
    with pytest.raises(Interrupted):
        run(tmp_path, subject="pip", reporter=_StopAt("learn", 1))
    shots = reference_photos("pip", resolution=512)
    expected = photo_bytes(shots.images[0], shots.masks[0, 0], SIZES[0], rotated=ROTATED == 1)
    assert (tmp_path / "photos" / "1.jpg").read_bytes() == expected


def test_a_part_that_is_asked_for_later_is_added(tmp_path, run):
    run(tmp_path)
    before = _stamps(tmp_path)
    assert DemoData.load(tmp_path / "numbers.json").panorama is None
    page = run(tmp_path, parts=("panorama",)).read_text(encoding="utf-8")
    shown = DemoData.load(tmp_path / "numbers.json").panorama
    assert shown is not None
    with Image.open(tmp_path / shown.picture) as picture:
        assert picture.width == 2 * picture.height
    assert "Look around Rex" in page
    assert before.items() <= _stamps(tmp_path).items()


def test_a_folder_of_somebodys_files_is_left_alone(tmp_path, judges, sd):
    mine = tmp_path / "mine"
    (mine / "video").mkdir(parents=True)
    (mine / "video" / "wedding.mp4").write_bytes(b"mine")
    with pytest.raises(UsageError, match="holds video and no demonstration; choose a folder of its own"):
        run_demo(mine, base=sd, judges=judges, prompts=2, seeds=2, steps=1, parts=("panorama", "video"))
    assert [path.name for path in mine.rglob("*")] == ["video", "wedding.mp4"]
