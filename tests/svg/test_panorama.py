"""Panoramas: windows, seams, projections, marks, pages."""

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pcs_ext.errors import InputError, UsageError
from pcs_ext.image.adapters import LowRankConfig, SpectralShiftConfig, build_adapter, injected
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.sample import SampleConfig, sample
from pcs_ext.image.types import Conditioning
from pcs_ext.svg.panorama.circular import circular_padding, decode_circular
from pcs_ext.svg.panorama.metadata import properties, read_properties, save_panorama
from pcs_ext.svg.panorama.projection import FACES, cube, directions, look, perspective
from pcs_ext.svg.panorama.sample import Method, PanoramaConfig, _hooks, sample_panoramas
from pcs_ext.svg.panorama.seams import discontinuity, pole_spread, seam_ratio
from pcs_ext.svg.panorama.stitch import middle, periodic, stitch_plan
from pcs_ext.svg.panorama.viewer import write_viewer
from pcs_ext.svg.panorama.windows import plan_windows, windowed
from tests.support.tiny import tiny_backbone

SAMPLING = SampleConfig(scheduler="ddim", num_inference_steps=4, guidance_scale=2.0)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> AbstractUnetBackbone:
    return tiny_backbone(tmp_path_factory.mktemp("tiny") / "base")


def nothing(count: int) -> Conditioning:
    return Conditioning(states=torch.zeros(count, 1, 1))


def blur(latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
    """A denoiser that smooths what it sees and knows nothing beyond."""
    padded = nn.functional.pad(latents, (1, 1, 1, 1), mode="replicate")
    return nn.functional.avg_pool2d(padded, 3, stride=1)


def smoothed(plan, latents: Tensor, *, stitched: bool = False, steps: int = 60) -> Tensor:
    """The toy experiment of seams: repeated fused smoothing."""
    fused = windowed(blur, plan)
    for step in range(steps):
        latents = fused(latents, torch.zeros(len(latents)), nothing(len(latents)))
        if stitched and step < steps - 1:
            latents = periodic(latents)
    return latents


def test_windows_cover_every_column_and_agree_with_the_whole() -> None:
    pointwise = lambda latents, timesteps, conditioning: 3 * latents + timesteps[:, None, None, None]  # noqa: E731
    latents, timesteps = torch.randn(2, 4, 8, 32), torch.tensor([5.0, 7.0])
    anything = dataclasses.replace(stitch_plan(16), period=None)
    for plan in (plan_windows(32, 16, 4, wrap=True), plan_windows(32, 12, 8, wrap=False), anything):
        for batch in (1, 3, 100):
            fused = windowed(pointwise, plan, windows_per_batch=batch)(latents, timesteps, nothing(2))
            torch.testing.assert_close(fused, pointwise(latents, timesteps, None))


@pytest.mark.parametrize(("window", "stride", "wrap"), [(40, 8, False), (16, 20, False), (16, 20, True), (16, 0, True)])
def test_plans_that_do_not_fit_are_refused(window: int, stride: int, wrap: bool) -> None:
    with pytest.raises(UsageError, match="do not fit"):
        plan_windows(32, window, stride, wrap=wrap)


def test_windows_go_round_a_circle_of_any_width() -> None:
    assert plan_windows(32, 16, 4, wrap=True).starts == tuple(range(0, 32, 4))
    for width, stride in ((130, 17), (32, 6), (7, 3), (5, 1)):
        starts = plan_windows(width, max(stride, width // 2), stride, wrap=True).starts
        apart = [b - a for a, b in zip(starts, (*starts[1:], width), strict=True)]
        assert starts[0] == 0
        assert max(apart) <= stride
        assert max(apart) - min(apart) <= 1


@pytest.mark.parametrize("window", ["wide", "square"])
def test_every_height_of_the_base_makes_a_circular_panorama(
    backbone: AbstractUnetBackbone, window: Literal["wide", "square"]
) -> None:
    height = 13 * backbone.vae_factor  # 26 cells wide: an eighth of that, 3 cells, does not divide it
    sampling = dataclasses.replace(SAMPLING, num_inference_steps=2, height=height)
    config = PanoramaConfig(method="circular", window=window, sampling=sampling)
    with torch.inference_mode():
        made = sample_panoramas(backbone, ["a dog"], seeds=[0], config=config)
    assert made.shape == (1, 3, height, 2 * height)
    assert made.isfinite().all()


def test_stitch_canvas() -> None:
    canvas = torch.arange(16.0).expand(1, 1, 1, 16)
    assert periodic(canvas).flatten().tolist() == [0, 1, 2, 3, 12, 13, 14, 15, 0, 1, 2, 3, 12, 13, 14, 15]
    assert middle(canvas).flatten().tolist() == list(range(4, 12))
    plan = stitch_plan(128)
    assert plan.starts == (*range(0, 129, 16), 192), "nine windows at stride 16, and the stitch block"
    assert plan.counts == (*[1] * 9, 2), "which counts twice"
    block = plan.columns(192, torch.device("cpu")).tolist()
    assert block == [*range(192, 256), *range(64)]


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_what_the_canvas_shows_twice_is_denoised_once(batch: int, backbone: AbstractUnetBackbone) -> None:
    seen: list[int] = []

    def counted(latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        seen.append(len(latents))
        return backbone.predict(latents, timesteps, conditioning)

    cells, plan = backbone.resolution // backbone.vae_factor, stitch_plan(16)
    canvas = periodic(torch.randn(1, backbone.latent_channels, cells, 32))
    told = backbone.encode_prompt(["a photo of the dog"])
    with torch.no_grad():
        once = windowed(counted, plan, windows_per_batch=batch)(canvas, torch.tensor([500]), told)
        assert sum(seen) == 8, "of nine windows and a block"
        whole = windowed(counted, dataclasses.replace(plan, period=None), windows_per_batch=batch)
        torch.testing.assert_close(once, whole(canvas, torch.tensor([500]), told), rtol=1e-4, atol=1e-5)
    assert sum(seen) == 8 + 10


def test_seams_vanish_round_the_circle_and_on_the_periodic_canvas_only() -> None:
    noise = torch.randn(5, 4, 32, 128, generator=torch.Generator().manual_seed(0))
    canvas = torch.randn(5, 4, 32, 256, generator=torch.Generator().manual_seed(0))
    edges = seam_ratio(smoothed(plan_windows(128, 32, 16, wrap=False), noise)).mean()
    circle = seam_ratio(smoothed(plan_windows(128, 32, 16, wrap=True), noise)).mean()
    stitch = seam_ratio(middle(smoothed(stitch_plan(128), periodic(canvas), stitched=True))).mean()
    copied = seam_ratio(middle(smoothed(dataclasses.replace(stitch_plan(128), period=None), canvas))).mean()
    assert circle < 1.5
    assert edges > 5
    assert copied > 5, "without the periodic copy the stitch block does not help the crop"
    assert stitch < 3


def test_circular_sampling_turns_with_its_noise(backbone: AbstractUnetBackbone) -> None:
    plan = plan_windows(32, 16, 4, wrap=True)
    cells = backbone.resolution // backbone.vae_factor
    latents = torch.randn(1, backbone.latent_channels, cells, 32)
    prompt = backbone.encode_prompt(["a photo of the dog"])
    with torch.no_grad():
        fused = windowed(backbone.predict, plan)
        first = fused(latents, torch.tensor([500]), prompt)
        turned = fused(latents.roll(8, -1), torch.tensor([500]), prompt)
    torch.testing.assert_close(turned, first.roll(8, -1), rtol=1e-4, atol=1e-5)


def test_fused_predictions_are_averaged_ddim_steps(backbone: AbstractUnetBackbone) -> None:
    from pcs_ext.image.sample import build_scheduler

    plan, timestep = plan_windows(16, 8, 4, wrap=False), torch.tensor(500)
    latents, parts = torch.randn(1, 4, 8, 16), torch.randn(3, 4, 8, 8)
    scheduler = build_scheduler(backbone, dataclasses.replace(SAMPLING, num_inference_steps=2))
    timestep = scheduler.timesteps[0]
    windows = iter(parts)
    fused = windowed(lambda *_: next(windows)[None], plan, windows_per_batch=1)(latents, timestep[None], nothing(1))
    whole = scheduler.step(fused, timestep, latents).prev_sample
    total, count = torch.zeros_like(latents), torch.zeros(16)
    for start, part in zip(plan.starts, parts, strict=True):
        at = plan.columns(start, torch.device("cpu"))
        total[..., at] += scheduler.step(part[None], timestep, latents[..., at]).prev_sample
        count[at] += 1
    torch.testing.assert_close(whole, total / count)


@pytest.mark.parametrize("method", ["padded", "circular", "stitch", "multidiffusion"])
@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver++", "euler"])
def test_every_method_samples_with_every_scheduler(backbone: AbstractUnetBackbone, method, scheduler) -> None:
    sampling = dataclasses.replace(SAMPLING, scheduler=scheduler)
    config = PanoramaConfig(method=method, sampling=sampling)
    with torch.inference_mode():
        both = sample_panoramas(backbone, ["a dog", "a cat"], seeds=[3, 4], config=config)
        alone = sample_panoramas(backbone, ["a cat"], seeds=[4], config=config)
    side = backbone.resolution
    assert both.shape == (2, 3, side, 2 * side)
    assert both.isfinite().all()
    torch.testing.assert_close(both[1], alone[0], rtol=1e-3, atol=1e-4)


def test_one_wide_window_from_edge_to_edge_is_the_plain_sampler(backbone: AbstractUnetBackbone) -> None:
    config = PanoramaConfig(method="multidiffusion", sampling=SAMPLING)
    wide = dataclasses.replace(SAMPLING, width=2 * backbone.resolution)
    with torch.inference_mode():
        panorama = sample_panoramas(backbone, ["a dog"], seeds=[1], config=config)
        plain = sample(backbone, ["a dog"], seeds=[1], config=wide)
    torch.testing.assert_close(panorama, plain, rtol=1e-4, atol=1e-5)


def test_padded_sampling_knows_no_ends(backbone: AbstractUnetBackbone) -> None:
    sampling = dataclasses.replace(SAMPLING, width=2 * backbone.resolution)
    cells = backbone.resolution // backbone.vae_factor
    noise = torch.randn(1, backbone.latent_channels, cells, 2 * cells)

    def latents(start: Tensor, method: Method) -> Tensor:
        hooks = _hooks(backbone, [0], sampling, PanoramaConfig(method=method, sampling=sampling))
        hooks = dataclasses.replace(hooks, initial_latents=start, decode=lambda latents: latents)
        return sample(backbone, ["a dog"], seeds=[0], config=sampling, hooks=hooks)

    with torch.inference_mode():
        straight, turned = latents(noise, "padded"), latents(noise.roll(4, -1), "padded")
        edges = latents(noise.roll(4, -1), "multidiffusion").roll(-4, -1) - latents(noise, "multidiffusion")
    torch.testing.assert_close(turned.roll(-4, -1), straight, rtol=1e-3, atol=1e-4)
    assert edges.abs().max() > 0.01


def test_auto_is_padded_where_the_whole_is_seen(backbone: AbstractUnetBackbone) -> None:
    def made(method: Method, window: Literal["wide", "square"]) -> Tensor:
        config = PanoramaConfig(method=method, window=window, sampling=SAMPLING)
        with torch.inference_mode():
            return sample_panoramas(backbone, ["a dog"], seeds=[1], config=config)

    assert torch.equal(made("auto", "wide"), made("padded", "wide"))
    assert torch.equal(made("auto", "square"), made("circular", "square"))
    assert not torch.equal(made("auto", "wide"), made("circular", "wide"))


def test_an_outline_at_the_border_is_a_seam_over_the_median_and_one_of_many_over_the_mean() -> None:
    bare = torch.zeros(1, 3, 8, 64)
    bare[..., :32] = 1.0
    bare += 0.001 * torch.randn(bare.shape, generator=torch.Generator().manual_seed(0))
    assert seam_ratio(bare) > 300
    assert seam_ratio(bare, over="mean") < 64
    everywhere = torch.stack([seam_ratio(bare.roll(turn, -1), over="mean") for turn in range(64)])
    torch.testing.assert_close(everywhere.mean(), torch.tensor(1.0))


def test_other_proportions_are_refused(backbone: AbstractUnetBackbone) -> None:
    config = PanoramaConfig(sampling=dataclasses.replace(SAMPLING, width=96))
    with pytest.raises(UsageError, match="twice as wide as high"):
        sample_panoramas(backbone, ["a dog"], seeds=[0], config=config)


def test_circular_decoding_turns_with_the_latents(backbone: AbstractUnetBackbone) -> None:
    # Only nearly: the autoencoder's normalisation sees all columns, those of the margin too.
    latents = torch.randn(1, backbone.latent_channels, 8, 32)
    half = 16 * backbone.vae_factor

    def change(decode) -> float:
        with torch.no_grad():
            straight, turned = decode(latents), decode(latents.roll(16, -1)).roll(-half, -1)
        seam = (turned - straight)[..., [*range(8), *range(-8, 0)]]
        return seam.abs().mean().item()

    assert change(lambda x: decode_circular(backbone, x)) < 0.2 * change(backbone.decode_latents)


METHODS = ("lora", "dora", "loha", "lokr", "oft")
ADAPTERS = [*(LowRankConfig(rank=2, targets="all_linear_conv", method=m) for m in METHODS), SpectralShiftConfig()]


@pytest.mark.parametrize("config", ADAPTERS, ids=lambda config: getattr(config, "method", "svd"))
def test_circular_padding_reaches_adapters_and_leaves_no_trace(backbone: AbstractUnetBackbone, config) -> None:
    latents = torch.randn(1, backbone.latent_channels, 8, 32)
    prompt = backbone.encode_prompt(["a dog"])

    def predict(x: Tensor) -> Tensor:
        with torch.no_grad():
            return backbone.predict(x, torch.tensor([500]), prompt)

    adapter = build_adapter("look", config)
    before = predict(latents)
    with injected(backbone, adapter):
        with torch.no_grad():
            for parameters in adapter.parameters().values():
                for parameter in parameters:
                    parameter.add_(0.05)
        changed = predict(latents)
        assert not torch.allclose(predict(latents.roll(8, -1)), changed.roll(8, -1), atol=1e-3)
        with circular_padding(backbone.denoiser):
            torch.testing.assert_close(predict(latents.roll(8, -1)), predict(latents).roll(8, -1), rtol=1e-3, atol=1e-4)
        assert torch.equal(predict(latents), changed)
    assert torch.equal(predict(latents), before)


def angles(height: int) -> tuple[Tensor, Tensor]:
    longitude = ((torch.arange(2 * height) + 0.5) / (2 * height) - 0.5) * 2 * torch.pi
    latitude = (0.5 - (torch.arange(height) + 0.5) / height) * torch.pi
    return longitude.expand(height, -1), latitude[:, None].expand(-1, 2 * height)


def test_a_panorama_of_directions_shows_each_direction() -> None:
    longitude, latitude = angles(256)
    shown = torch.stack(
        [latitude.cos() * longitude.sin(), latitude.sin(), latitude.cos() * longitude.cos()]
    )[None].double()  # fmt: skip
    for azimuth, elevation in [*FACES.values(), (179.0, 20.0), (33.0, -70.0)]:
        toward = directions(azimuth, elevation, 90.0, 40, 60)
        torch.testing.assert_close(look(shown, toward)[0].permute(1, 2, 0), toward, rtol=0, atol=2e-3)
    faces = cube(shown, 33)
    centers = {name: face[0, :, 16, 16].round().int().tolist() for name, face in faces.items()}
    assert centers == {
        "front": [0, 0, 1], "right": [1, 0, 0], "back": [0, 0, -1], "left": [-1, 0, 0],
        "up": [0, 1, 0], "down": [0, -1, 0],
    }  # fmt: skip


def test_turning_the_panorama_is_looking_elsewhere() -> None:
    panorama = torch.rand(1, 3, 32, 64, dtype=torch.float64, requires_grad=True)
    turned = perspective(panorama.roll(-16, -1), 0.0, 10.0, height=20, width=30)
    torch.testing.assert_close(turned, perspective(panorama, 90.0, 10.0, height=20, width=30))
    turned.sum().backward()
    assert panorama.grad is not None
    with pytest.raises(UsageError, match="field of view"):
        perspective(panorama, 0, fov=180.0, height=4, width=4)


def test_seam_numbers_on_pictures_with_and_without_one() -> None:
    x = torch.arange(128.0)
    closed = torch.sin(2 * torch.pi * 5 * x / 128).expand(1, 3, 64, -1)
    open_ = torch.sin(2 * torch.pi * 5.5 * x / 128 + 1).expand(1, 3, 64, -1)
    noise = 0.05 * torch.randn(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    assert 0.5 < seam_ratio(closed + noise).item() < 1.7
    assert 0.5 < discontinuity(closed + noise).item() < 1.7
    assert seam_ratio(open_ + noise).item() > 4
    assert discontinuity(open_ + noise).item() > 2
    assert pole_spread(torch.ones(1, 3, 4, 8)).item() == 0
    assert pole_spread(closed).item() > 0.5


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".JPEG"])
def test_marks_are_read_back_by_a_reader_of_its_own(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"round{ending}"
    save_panorama(Image.new("RGB", (64, 32), "teal"), path, heading=370.0)
    expected = properties(64, 32, heading=10.0)
    assert read_properties(path) == expected
    # Independent of Pillow and of our reader: the packet stands in the file's bytes and is XML.
    packet = re.search(rb"<x:xmpmeta.*</x:xmpmeta>", path.read_bytes(), re.DOTALL)
    assert packet is not None
    (description,) = ElementTree.fromstring(packet[0]).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    found = {key.split("}")[1]: value for key, value in description.attrib.items() if "panorama" in key}
    assert found == expected
    with Image.open(path) as image:
        assert image.size == (64, 32)


def test_element_style_marks_are_read_and_entities_are_not_resolved(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("private")
    marks = f"""<!DOCTYPE x [<!ENTITY leak SYSTEM "file://{secret}">]><x:xmpmeta xmlns:x="adobe:ns:meta/">
    <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description
    xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"><GPano:ProjectionType>equirectangular</GPano:ProjectionType>
    <GPano:PoseHeadingDegrees>&leak;</GPano:PoseHeadingDegrees></rdf:Description></rdf:RDF></x:xmpmeta>"""
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 4)).save(path, xmp=marks.encode())
    found = read_properties(path)
    assert found["ProjectionType"] == "equirectangular"
    assert "private" not in str(found)


def test_what_is_no_panorama_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="twice as wide as high"):
        save_panorama(Image.new("RGB", (10, 10)), tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"\.jpg"):
        save_panorama(Image.new("RGB", (20, 10)), tmp_path / "a.bmp")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(InputError, match="cannot be read"):
        read_properties(tmp_path / "text.jpg")
    Image.new("RGB", (20, 10)).save(tmp_path / "plain.png")
    assert read_properties(tmp_path / "plain.png") == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain.png", "text.jpg"]


def test_the_viewer_holds_the_very_bytes_and_asks_nobody(tmp_path: Path) -> None:
    import base64

    path, page = tmp_path / "p.png", tmp_path / "p.html"
    save_panorama(Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 32, 3), dtype=np.uint8)), path)
    write_viewer(path, page, title='<script>"a" & b')
    text = page.read_text(encoding="utf-8")
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert base64.b64decode(data) == path.read_bytes()
    assert not re.search(r"https?://|//[a-z]+\.", text)
    assert "&lt;script&gt;" in text
    assert text.count("<script>") == 1
    Image.new("RGB", (8, 8)).save(tmp_path / "square.png")
    with pytest.raises(InputError, match="twice as wide"):
        write_viewer(tmp_path / "square.png", page)
    with pytest.raises(InputError, match="cannot be read"):
        write_viewer(page, tmp_path / "q.html")
