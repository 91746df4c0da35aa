"""StyleAvatar3D: labels of views, three planes, both players of the game, and the job end to end on a tiny model."""

import functools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from pcs_ext.cli import main
from pcs_ext.errors import CheckpointError, InputError, UsageError
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.threed.cameras import orbit, ring
from pcs_ext.threed.fields import Bounds
from pcs_ext.threed.geometry_control import control_identity
from pcs_ext.threed.placed_mesh import place_mesh
from pcs_ext.threed.posed_pictures import read_pictures
from pcs_ext.threed.render import render_views
from pcs_ext.threed.triplane.gan_stage import GanLoss, GanStage
from pcs_ext.threed.triplane.generate import drawn_field, generate_3d
from pcs_ext.threed.triplane.generator_job import guiding_shape, load_generator
from pcs_ext.threed.triplane.networks import Discriminator, Generator, GeneratorConfig, TriplaneField
from pcs_ext.threed.triplane.view_data import ViewDataConfig, ViewMaker
from pcs_ext.threed.triplane.view_labels import LabelConfig, view_labels
from tests.support.killed import killed
from tests.support.small_avatars import generator
from tests.support.small_jobs import Learned

SMALL = GeneratorConfig(latent=4, width=4, planes=2, resolution=8)


def views(*yaw: float, pitch: float = 0.0):
    return orbit(yaw, [pitch] * len(yaw), [5.0] * len(yaw), [30.0] * len(yaw))


def test_labels_are_fine_or_coarse_by_hand() -> None:
    always, never = (
        LabelConfig(fine_if_confident=1.0, fine_otherwise=1.0),
        LabelConfig(fine_if_confident=0.0, fine_otherwise=0.0),
    )
    draw = torch.Generator().manual_seed(0)
    fine = view_labels(views(0.0, 14.0, 16.0, -16.0, 180.0, -180.0), always, draw)
    assert fine.shape == (6, 12 * 3 + 4)
    # Twelve groups of 30 degrees with their middles at 0, 30 ...; the middle third of three pitches.
    assert fine.argmax(1).tolist() == [1, 1, 4, 34, 19, 19]
    coarse = view_labels(views(0.0, 44.0, 46.0, -46.0, 180.0), never, draw)
    assert (coarse.argmax(1) - 36).tolist() == [0, 0, 1, 3, 2]
    assert bool((torch.cat([fine, coarse]).sum(1) == 1).all())
    high, low = (view_labels(views(0.0, pitch=pitch), always, draw).argmax() for pitch in (89.0, -89.0))
    assert (int(high), int(low)) == (2, 0)
    mixed = view_labels(views(*[10.0] * 400, *[120.0] * 400), LabelConfig(), draw)[:, :36].sum(1)
    assert float(mixed[:400].mean()) == pytest.approx(0.9, abs=0.05)
    assert float(mixed[400:].mean()) == pytest.approx(0.3, abs=0.08)


def test_a_point_reads_its_three_projections() -> None:
    planes = torch.zeros(3, 2, 8, 8)
    line = torch.linspace(-1, 1, 8)
    planes[0, 0] = line[None]  # xy holds x
    planes[1, 1] = line[:, None]  # xz holds z
    planes[2, 0] = 10 * line[None]  # yz holds 10 y
    seen: list[torch.Tensor] = []

    class Keep(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            seen.append(features)
            return torch.cat([features, features], 1)

    field = TriplaneField(planes, Keep(), Bounds(center=(0.0, 0.0, 0.0), half=2.0))
    found = field.query(torch.tensor([[1.0, -0.4, 0.6], [2.5, 0.0, 0.0]]))
    torch.testing.assert_close(seen[0][0], torch.tensor([0.5 - 2.0, 0.3]))
    assert found.density[1] == 0
    expected = functional.softplus(torch.tensor(4 * -1.5 + 2 - 4 * (0.25 + 0.04 + 0.09)))
    torch.testing.assert_close(found.density[0], expected)


def test_each_term_moves_its_own_player() -> None:
    one, other = Generator(SMALL, 1), Discriminator(8, LabelConfig().width, 4, 2)
    stage = GanStage(generator=SMALL, fit=FitConfig(steps=1), side=8, samples=6, batch_size=2, penalty=2.0)
    pictures = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    loss = GanLoss(one, other, ring(3, target=Bounds().center), pictures, stage)
    terms = loss(0, 0, torch.Generator().manual_seed(5)).terms

    def moved(term: str) -> list[bool]:
        found = []
        for player in (one, other):
            grads = torch.autograd.grad(terms[term], list(player.parameters()), retain_graph=True, allow_unused=True)
            found.append(any(grad is not None and grad.abs().max() > 0 for grad in grads))
        return found

    assert moved("generator") == [True, False]
    assert moved("discriminator") == [False, True]
    assert moved("slope") == [False, True]
    # The penalty by hand: gamma / 2 times the squared slope at the pictures that were drawn.
    draw = torch.Generator().manual_seed(5)
    shown, asked = (torch.randint(3, (2,), generator=draw) for _ in range(2))
    fake = loss.views(torch.randn(2, 4, generator=draw), loss.cameras[asked], draw)
    view_labels(loss.cameras[asked], stage.labels, draw)
    real = (loss.pictures[shown] * 2 - 1).requires_grad_()
    labels = view_labels(loss.cameras[shown], stage.labels, draw)
    (slope,) = torch.autograd.grad(other(real, labels).sum(), real)
    torch.testing.assert_close(terms["slope"], slope.square().sum() / 2)
    assert fake.shape == (2, 3, 8, 8)


def test_a_discriminator_hears_the_view() -> None:
    judge, picture = Discriminator(8, 5, 4), torch.rand(1, 3, 8, 8)
    scores = judge(picture.expand(5, -1, -1, -1), torch.eye(5))
    assert float(scores.detach().std()) > 1e-4


def test_the_players_learn_a_colour() -> None:
    """Red balls before white: after some steps the views have turned from grey to red."""
    one, other = Generator(SMALL, 1), Discriminator(8, LabelConfig().width, 8, 2)
    y, x = torch.meshgrid(torch.arange(8) - 3.5, torch.arange(8) - 3.5, indexing="ij")
    inside = x.square() + y.square() < 7
    picture = torch.where(inside, torch.tensor([0.9, 0.1, 0.1])[:, None, None], torch.ones(()))
    stage = GanStage(
        generator=SMALL, side=8, samples=8, batch_size=4, generator_rate=5e-3, discriminator_rate=5e-3,
        fit=FitConfig(steps=150, optimizer="adam", betas=(0.0, 0.99), max_gradient_norm=None),
    )  # fmt: skip
    cameras = ring(8, target=Bounds().center)
    loss = GanLoss(one, other, cameras, picture.expand(8, 3, 8, 8), stage)

    def distance() -> float:
        made = loss.views(torch.zeros(8, 4) + torch.eye(8, 4), cameras, None) * 0.5 + 0.5
        return float((made - picture).abs().mean())

    with torch.no_grad():
        before = distance()
    for _ in fit(loss, loss.groups(), stage.fit):
        pass
    with torch.no_grad():
        assert distance() < 0.6 * before


def test_pictures_follow_the_shape_and_words_the_view(learned: Learned) -> None:
    settings = ViewDataConfig(count=40, attributes=("red", "old", "wet"), attributes_per_view=2)
    cameras = settings.cameras((0.0, 0.0, 0.75), 3)
    assert float(cameras.azimuth.min()) < -170
    assert float(cameras.azimuth.max()) > 170
    assert bool((cameras.elevation.abs() <= 30).all())
    assert len(torch.unique((cameras.azimuth + 180) // 9)) == 40  # one per piece
    more, negative = settings.words(4, "back", 3)
    assert more.count(",") == 2
    assert negative == "face, eyes, nose, mouth"
    assert settings.words(4, "front", 3) == (more, "")
    assert len({settings.words(index, "front", 3) for index in range(20)}) > 3
    maker = ViewMaker(Path("unused"), place_mesh(learned.mesh).surface, cameras, settings, 3)
    seen, picture = maker.render(0, 32)
    assert seen.covered[16, 16]
    assert not seen.covered[0, 0]
    torch.testing.assert_close(picture[:, 0, 0], torch.full((3,), 0.8))
    assert picture[0, 16, 16] > picture[0][seen.covered].min()


def test_shapes_stand_in_the_middle_of_the_generators_cube(learned: Learned) -> None:
    bounds = Bounds(center=(2.0, -1.0, 0.5), half=0.6)
    for path in (learned.mesh, None):
        vertices = guiding_shape(path, bounds).vertices
        middle, extent = (vertices.amin(0) + vertices.amax(0)) / 2, vertices.amax(0) - vertices.amin(0)
        assert float((middle - torch.tensor(bounds.center)).abs().max()) < 0.05
        assert 0.9 * bounds.half < float(extent.max()) < 2 * bounds.half


def test_a_controlnets_settings_are_part_of_what_a_job_is(tmp_path: Path) -> None:
    assert control_identity(None, "depth") is None
    for name in ("config.json", "diffusion_pytorch_model.safetensors", "README.md"):
        (tmp_path / name).write_text("one")
    before = control_identity(tmp_path, "depth")
    (tmp_path / "README.md").write_text("two")
    assert control_identity(tmp_path, "depth") == before != control_identity(tmp_path, "normal")
    (tmp_path / "config.json").write_text("two")
    assert control_identity(tmp_path, "depth") != before


def test_a_job_leaves_a_generator_that_draws(
    learned: Learned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator(learned, tmp_path)
    made, told = load_generator(tmp_path / "gen")
    assert told.steps == 5
    assert {path.name for path in (tmp_path / "gen.work").iterdir()} == {"request.json", "recipe.json", "pictures"}
    cameras, pictures = read_pictures(tmp_path / "gen.work" / "pictures" / "transforms.json")
    assert (len(cameras), pictures.shape[0]) == (3, 3)
    assert bool((pictures[:, :, 0, 0] == 1).all())  # cut out, over white
    near, far, mean = (drawn_field(made, seed, share) for seed, share in ((0, 1.0), (1, 1.0), (1, 0.0)))
    assert not torch.equal(near.plane_values, far.plane_values)
    assert torch.equal(mean.plane_values, drawn_field(made, 7, 0.0).plane_values)
    assert render_views(near, ring(1), 8, 8).rgb.shape == (1, 3, 8, 8)
    main(["3d", "generate", str(tmp_path / "gen"), "-o", str(tmp_path / "sheet.png"), "--side", "16"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "sheet.png")
    (tmp_path / "near.html").write_bytes(b"mine")
    with pytest.raises(UsageError, match="near.html exists already"):
        generate_3d(tmp_path / "gen", tmp_path / "near.glb")
    with pytest.raises(UsageError, match="exists already"):
        generator(learned, tmp_path)
    with pytest.raises(CheckpointError, match="another seed"):
        generator(learned, tmp_path, overwrite=True, seed=1)
    (tmp_path / "photos" / "gen").mkdir(parents=True)
    (tmp_path / "photos" / "gen" / "rex.jpg").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"is no folder with generator\.json in it"):
        generator(learned, tmp_path / "photos", overwrite=True)
    with pytest.raises(InputError, match="learn-generator"):
        generate_3d(tmp_path / "gen.work", tmp_path / "a.glb")
    with pytest.raises(UsageError, match="truncation"):
        generate_3d(tmp_path / "gen", tmp_path / "a.glb", truncation=2.0)


def test_a_killed_job_ends_like_one_left_alone(learned: Learned, tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    generator(learned, tmp_path / "whole")
    for task, step in (("3d pictures", 2), ("3d generator", 3)):
        run = functools.partial(generator, learned, tmp_path / "parts")
        killed(run, task, step, preload="tests.support.small_avatars")
        assert not (tmp_path / "parts" / "gen").exists()
    generator(learned, tmp_path / "parts")
    expected, found = (load_file(tmp_path / name / "gen" / "generator.safetensors") for name in ("whole", "parts"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    assert json.loads((tmp_path / "parts" / "gen" / "generator.json").read_text())["steps"] == 5
