"""Every stage at a tiny size: trains, resumes exactly, and ends in folders that stock classes load."""

import dataclasses
import importlib
import math
import random
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig

from pcs_ext.errors import CheckpointError, InputError
from pcs_ext.image.evaluate.encoders import load_image_encoder, load_image_text_encoder
from pcs_ext.image.noise import NoiseSchedule
from pcs_ext.reporter import SilentReporter
from pcs_ext.toybox import weights_path
from pcs_ext.toybox.cards import write_quality
from pcs_ext.toybox.quality import as_rows, as_table, measure
from pcs_ext.toybox.train.__main__ import STAGES, Stage, run
from pcs_ext.toybox.train.clip import look_alikes, words_loss
from pcs_ext.toybox.train.data import load_data, pairs_of
from pcs_ext.toybox.train.export import export
from pcs_ext.toybox.train.geometry import mirrored_maps, scene_maps
from pcs_ext.toybox.train.motion import train_motion
from pcs_ext.toybox.train.oracle import place_loss
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.tokenizer import train_tokenizer
from pcs_ext.toybox.train.unet import build_scheduler, cell_weights, draw_timesteps, loss_weights, train_unet
from pcs_ext.toybox.train.words import apart_loss, other_caption
from pcs_ext.toybox.world.scene import Camera, Scene, SceneObject
from pcs_ext.toybox.world.vocabulary import CLASSES

TINY = Settings(resolution=32, vae_factor=4, scenes=24, text_width=48, text_layers=1, unet_channels=(16, 32, 32))
TRAINED = ("vae", "clip", "dino", "oracle", "words", "unet", "critic", "legible", "align")


def test_every_stage_has_its_function() -> None:
    assert set(STAGES) == set(get_args(Stage))
    for module, function in STAGES.values():
        assert callable(getattr(importlib.import_module(f"pcs_ext.toybox.train.{module}"), function))


class Record(SilentReporter):
    """Keeps the losses of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def progress(self, task: str, step: int, total: int, **fields: float) -> None:
        if fields:
            self.losses.append(sum(fields.values()))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages once, three steps each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PCS_EXT_CACHE", str(tmp_path_factory.mktemp("cache")))
        run("data", TINY, 0, None, SilentReporter())
        train_tokenizer(TINY, SilentReporter(), scenes=40)
        for stage in ("vae", "clip", "dino", "oracle", "latents"):
            run(stage, TINY, 3, None, SilentReporter())
        for name in ("text_encoder", "clip"):
            shutil.copytree(TINY.folder / "models" / name, TINY.folder / f"{name} at first")
        for stage in ("words", "unet", "critic", "legible", "align"):
            run(stage, TINY, 3, None, SilentReporter())
        export(TINY, SilentReporter(), TINY.folder / "shipped")
        run("clips", TINY, 0, None, SilentReporter())
        run("motion_reader", TINY, 3, None, SilentReporter())
        train_motion(TINY, 1, None, SilentReporter(), base=TINY.folder / "shipped" / "base")
        export(TINY, SilentReporter(), TINY.folder / "shipped")
        return TINY.folder


@pytest.fixture
def fresh(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another cache with the same data and a copy of the models, but without checkpoints."""
    monkeypatch.setenv("PCS_EXT_CACHE", str(tmp_path / "other"))
    TINY.folder.mkdir(parents=True)
    for name in ("data", "pairs", "moments"):
        (TINY.folder / name).symlink_to(models / name)
    shutil.copytree(models / "models", TINY.folder / "models")
    return TINY.folder


def _as_at_first(stage: str, models: Path, fresh: Path) -> None:
    """The models that the stage met when it ran first."""
    for name in {"words": ["clip"], "align": ["clip"]}.get(stage, []):
        shutil.rmtree(fresh / "models" / name)
        shutil.copytree(models / f"{name} at first", fresh / "models" / name)


def _newest(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    return load_file(sorted((folder / stage).glob("step-*"))[-1] / "tensors.safetensors")


@pytest.mark.parametrize("stage", TRAINED)
def test_an_interrupted_stage_ends_where_a_straight_one_does(models: Path, fresh: Path, stage: str) -> None:
    _as_at_first(stage, models, fresh)
    run(stage, TINY, 3, 1e-9, SilentReporter())  # out of time after one step
    assert [path.name for path in (fresh / stage).glob("step-*")] == ["step-00000001"]
    run(stage, TINY, 3, None, SilentReporter())
    resumed, straight = _newest(fresh, stage), _newest(models, stage)
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


def test_the_denoiser_that_learned_the_pull_ships(models: Path) -> None:
    folders = (models / "shipped" / "base" / "unet", models / "models" / "unet_legible", models / "models" / "unet")
    shipped, legible, plain = (load_file(folder / "diffusion_pytorch_model.safetensors") for folder in folders)
    assert all(torch.equal(value, legible[name].half()) for name, value in shipped.items())
    assert not all(torch.equal(value, plain[name].half()) for name, value in shipped.items())


def test_the_autoencoder_learns(fresh: Path) -> None:
    shutil.rmtree(fresh / "models" / "vae")
    record = Record()
    run("vae", TINY, 60, None, record)
    assert sum(record.losses[-5:]) < 0.75 * sum(record.losses[:5])


def test_the_decoder_goes_on_alone(models: Path, fresh: Path) -> None:
    weights = fresh / "models" / "vae" / "diffusion_pytorch_model.safetensors"
    before = load_file(weights)
    run("decoder", TINY, 3, None, SilentReporter())
    after = load_file(weights)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder", "post_quant_conv"}


def test_the_decoder_needs_an_autoencoder(fresh: Path) -> None:
    shutil.rmtree(fresh / "models" / "vae")
    with pytest.raises(InputError, match="Run the stage vae first"):
        run("decoder", TINY, 3, None, SilentReporter())


def test_half_of_the_timesteps_lie_where_the_content_is_decided() -> None:
    timesteps = draw_timesteps(40_000, torch.Generator().manual_seed(0))
    assert timesteps.min() < 20 < 980 < timesteps.max() < 1000
    share = float(((timesteps >= 200) & (timesteps < 800)).float().mean())
    assert share == pytest.approx(0.5 + 0.5 * 0.6, abs=0.01)


def test_words_teach_the_text_encoder_and_clip_follows(models: Path) -> None:
    first = load_file(models / "text_encoder at first" / "model.safetensors")
    now = load_file(models / "models" / "text_encoder" / "model.safetensors")
    assert not any(torch.equal(first[name], now[name]) for name in first if name.endswith("q_proj.weight"))
    pair = load_file(models / "models" / "clip" / "model.safetensors")
    tower = "text_model."
    shared = {name.removeprefix(tower): value for name, value in pair.items() if name.startswith(tower)}
    assert shared.keys() == now.keys()
    assert all(torch.equal(now[name], value) for name, value in shared.items())


def test_another_caption_differs_in_one_word_of_the_same_vocabulary() -> None:
    draw, caption = random.Random(0), "a photo of a red striped cat wearing a red hat in the snow, side view"
    others = {other_caption(caption, draw) for _ in range(400)}
    assert caption not in others
    assert "a photo of a red striped dog wearing a red hat in the snow, side view" in others
    assert "a photo of a red striped cat wearing a red hat in the snow, back view" in others
    assert "a photo of a red striped cat wearing a crown in the snow, side view" in others
    assert len(others) > 25


def test_words_are_pushed_apart_up_to_a_distance() -> None:
    one = torch.zeros(3, 2, 4)
    squared = torch.tensor([0.0, 3000 / 4, 3000 * 4])
    other = (squared / 8).sqrt()[:, None, None].expand(3, 2, 4)
    assert float(apart_loss(one, other)) == pytest.approx((1 + 0.25 + 0) / 3, abs=1e-3)


def test_captions_a_word_apart_move_apart(fresh: Path) -> None:
    record = Record()
    run("words", TINY, 40, None, record)
    assert sum(record.losses[-5:]) < sum(record.losses[:5])


def test_stages_go_on_from_what_ships(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCS_EXT_CACHE", str(tmp_path))
    few = Settings(scenes=16)
    run("adopt", few, 0, None, SilentReporter())
    shipped = load_file(weights_path("base") / "vae" / "diffusion_pytorch_model.safetensors")
    run("data", few, 0, None, SilentReporter())
    run("vae", few, 1, None, SilentReporter())
    now = load_file(few.folder / "models" / "vae" / "diffusion_pytorch_model.safetensors")
    # One step of Adam, at the rate of the first step of its warm-up: random weights would differ by far more.
    assert 0 < max(float((now[name] - shipped[name].float()).abs().max()) for name in shipped) < 1e-4
    with pytest.raises(InputError, match="exists already"):
        run("adopt", few, 0, None, SilentReporter())


def test_what_ships_has_one_resolution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCS_EXT_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="expected 8"):
        run("adopt", TINY, 0, None, SilentReporter())


def test_other_sizes_do_not_resume(models: Path, fresh: Path) -> None:
    run("oracle", TINY, 3, 1e-9, SilentReporter())
    with pytest.raises(CheckpointError, match="made by other settings"):
        run("oracle", dataclasses.replace(TINY, data_seed=2), 3, None, SilentReporter())


def test_the_stock_pipeline_generates(models: Path) -> None:
    base = models / "shipped" / "base"
    pipeline: Any = StableDiffusionPipeline.from_pretrained(base, local_files_only=True, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a photo of a red dog", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (32, 32, 3)
    assert load_file(base / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.weight"].dtype == torch.float16
    assert {parameter.dtype for parameter in pipeline.text_encoder.parameters()} == {torch.float32}


def test_the_metric_encoders_load(models: Path) -> None:
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    clip = load_image_text_encoder(models / "shipped" / "clip")
    dino = load_image_encoder(models / "shipped" / "dino")
    assert clip.encode_images(images).shape == clip.encode_texts(["a dog", "a cat"]).shape
    assert torch.allclose(dino.encode_images(images).norm(dim=1), torch.ones(2), atol=1e-5)


def test_export_names_the_missing_stage(fresh: Path, tmp_path: Path) -> None:
    shutil.rmtree(fresh / "models")
    with pytest.raises(InputError, match="Run the stage tokenizer first"):
        export(TINY, SilentReporter(), tmp_path / "shipped")


def test_quality_measures_everything_that_is_there(models: Path, tmp_path: Path) -> None:
    sizes = {"scenes": 12, "prompts": 8, "clips": 2, "sets": 2, "resolution": 32, "reporter": SilentReporter()}
    figures, missing = measure(models / "shipped", sheets=tmp_path, **sizes)
    assert missing == ["multiview"]
    kinds = [figure.metric.split("/")[0] for figure in figures]
    counts = {"oracle": 7, "vae": 1, "clip": 5, "dino": 3, "generated": 5, "reader": 2, "clips": 3}
    assert {kind: kinds.count(kind) for kind in kinds} == counts
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "toybox_clips.png",
        "toybox_confusions.png",
        "toybox_samples.png",
        "toybox_vae.png",
    }
    again, _ = measure(models / "shipped", sheets=None, **sizes)
    assert [figure.value for figure in again] == [figure.value for figure in figures]
    rows = as_rows(figures)
    assert rows[0]["metric"] == "oracle/class"
    assert rows[0]["baseline_value"] == 0.93
    assert "below the floor" in as_table(figures, missing)


def test_cards_say_how_a_model_was_made_and_how_good_it_is(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "shipped", tmp_path / "shipped")
    card = tmp_path / "shipped" / "base" / "README.md"
    made = card.read_text()
    assert "python -m pcs_ext.toybox.train unet --steps 3" in made
    assert "Not measured yet." in made
    rows = [{"metric": "vae/psnr", "value": 25.5, "spread": 0.1, "n": 12}]
    for _ in range(2):
        write_quality(tmp_path / "shipped", rows, "the command")
    assert card.read_text().count("| vae/psnr | 25.500 | 0.100 | 12 |") == 1
    assert "Not measured yet." not in card.read_text()
    assert "Not measured yet." in (tmp_path / "shipped" / "clip" / "README.md").read_text()


def test_cards_tell_what_commands_do_not(fresh: Path, tmp_path: Path) -> None:
    notes = fresh / "models" / "notes.json"
    notes.write_text('{"clip": "began on other scenes"}')
    export(TINY, SilentReporter(), tmp_path / "shipped")
    notes.unlink()
    assert "- history: began on other scenes" in (tmp_path / "shipped" / "clip" / "README.md").read_text()
    assert "history" not in (tmp_path / "shipped" / "base" / "README.md").read_text()


def test_quality_names_what_is_missing(tmp_path: Path) -> None:
    figures, missing = measure(tmp_path, scenes=2, prompts=1, resolution=16, sheets=None, reporter=SilentReporter())
    assert figures == []
    assert missing == ["oracle", "vae", "clip", "dino", "unet"]
    assert "missing: unet" in as_table(figures, missing)


def test_look_alikes_share_place_and_colour(models: Path, fresh: Path) -> None:
    data = load_data(TINY, "data", "pairs")
    for group in look_alikes(data):
        assert len(group) > 1
        assert len({(data.attributes[row]["context"], data.attributes[row]["color"]) for row in group.tolist()}) == 1


def test_streams_join(models: Path, fresh: Path) -> None:
    both = load_data(TINY, "data", "pairs")
    assert len(both) == len(both.images) == len(both.attributes) == 2 * TINY.scenes
    assert all(truth["motion"] for truth in load_data(TINY, "moments").attributes)
    pairs = load_data(TINY, "pairs").attributes
    assert [truth["class"] for truth in pairs[::2]] == [truth["class"] for truth in pairs[1::2]]


def test_pairs_share_the_toy_and_nothing_else_on_purpose() -> None:
    first, second = pairs_of(0, 20)[::2], pairs_of(0, 20)[1::2]
    for one, other in zip(first, second, strict=True):
        (toy,), (again,) = one.objects, other.objects
        assert dataclasses.replace(again, accessory=toy.accessory) == toy
        assert one.camera != other.camera
    assert any(one.context != other.context for one, other in zip(first, second, strict=True))
    assert any(one.objects != other.objects for one, other in zip(first, second, strict=True))
    assert pairs_of(3, 1) == pairs_of(0, 20)[6:8]


def test_the_weight_of_the_loss_does_not_vanish_with_the_signal():
    schedule = NoiseSchedule(alphas_cumprod=build_scheduler().alphas_cumprod, prediction_type="v_prediction")
    timesteps = torch.tensor([100, 500, 999])
    weights = loss_weights(schedule, timesteps)
    assert weights[0] == schedule.min_snr_weights(timesteps, 5.0)[0]
    assert weights[1:].tolist() == [0.5, 0.5]


def test_words_loss_reads_words_at_their_own_places() -> None:
    config = CLIPTextConfig(bos_token_id=0, eos_token_id=1, pad_token_id=2)
    table = torch.eye(8)
    ids = torch.tensor([[0, 5, 6, 1, 2, 2]])
    right = words_loss(20 * table[ids], ids, table, config)
    assert right < 1e-6
    marks = torch.tensor([[4, 5, 6, 4, 4, 4]])
    assert words_loss(20 * table[marks], ids, table, config) == right, "marks do not count"
    assert words_loss(20 * table[ids.flip(1)], ids, table, config) > 5


def test_latents_of_other_pictures_are_refused(models: Path, fresh: Path) -> None:
    path = fresh / "models" / "latents.safetensors"
    save_file({"latents": load_file(path)["latents"][:-1].contiguous()}, path)
    with pytest.raises(InputError, match="run the stage latents again"):
        train_unet(TINY, 1, None, SilentReporter())


def test_maps_tell_where_which_toy_stands() -> None:
    robot, cat = (SceneObject(class_name=name, color="red", second_color="blue") for name in ("robot", "cat"))
    left, right = (dataclasses.replace(toy, position=(x, 0.0, 0.0)) for toy, x in ((robot, -0.9), (cat, 0.9)))
    camera = Camera(distance=7.0)
    coverage, maps = scene_maps([Scene(objects=(left, right), camera=camera), Scene(objects=(cat,), camera=camera)], 16)
    robots, cats = maps[0, CLASSES.index("robot")], maps[0, CLASSES.index("cat")]
    assert robots[:, :4].sum() > 1 > robots[:, 4:].sum(), "the robot is on the left"
    assert cats[:, 4:].sum() > 1 > cats[:, :4].sum()
    torch.testing.assert_close(maps[:, :-3].sum((1, 2, 3)) * 4, coverage.sum((1, 2)))
    assert maps[1, :-3].sum() == maps[1, CLASSES.index("cat")].sum() > 0


def test_front_and_back_are_other_maps() -> None:
    toy = SceneObject(class_name="car", color="red", second_color="blue")
    cameras = [Camera(azimuth=azimuth) for azimuth in (0.0, 180.0)]
    maps = scene_maps([Scene(objects=(toy,), camera=camera) for camera in cameras], 16)[1]
    depth = maps[:, -2].sum((1, 2))
    assert depth[0] * depth[1] < 0


def test_cell_weights_favour_toys_and_are_one_on_average() -> None:
    weights = cell_weights(torch.tensor([[[0, 255], [0, 0]]], dtype=torch.uint8)).float()
    assert weights[0, 0, 0, 1] == pytest.approx(5 * weights[0, 0, 0, 0].item(), rel=1e-3)
    assert weights.mean() == pytest.approx(1, rel=1e-3)


def test_mirrored_maps_are_the_maps_of_the_mirrored_view() -> None:
    toy = SceneObject(class_name="car", color="red", second_color="blue")
    scenes = [
        Scene(objects=(toy,), camera=Camera(azimuth=azimuth, target=(0.0, 0.0, 0.75))) for azimuth in (40.0, -40.0)
    ]
    maps = scene_maps(scenes, 16)[1]
    mirrored = mirrored_maps(maps, torch.tensor([True, False]))
    assert (mirrored[0] - maps[1]).abs().mean() < 0.1 * (maps[0] - maps[1]).abs().mean()
    assert torch.equal(mirrored[1], maps[1])


def test_place_loss_counts_places_by_what_the_toy_covers() -> None:
    logits = torch.zeros(1, 3, 1, 2)
    logits[0, 2, 0, 0] = 100.0
    label = torch.tensor([2])
    assert place_loss(logits, label, torch.tensor([[[1.0, 0.0]]])) == 0
    assert place_loss(logits, label, torch.tensor([[[0.0, 1.0]]])) == pytest.approx(math.log(3))
    assert place_loss(logits, label, torch.tensor([[[0.3, 0.3]]])) == pytest.approx(math.log(3) / 2)
