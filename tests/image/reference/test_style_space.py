"""A style-based autoencoder, its training, and codes that another tool wrote."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from pcs_ext.config_io import write_json
from pcs_ext.errors import ConfigError, Interrupted, ModelError, PhotoError
from pcs_ext.image.data import find_photos
from pcs_ext.image.levels import levels_of
from pcs_ext.image.reference.albums import each_subjects, read_subjects
from pcs_ext.image.reference.style_learn import PREVIEW, divergence, learn_style_space, pyramid_error, read_squares
from pcs_ext.image.reference.style_networks import ModulatedConv, StyleAutoencoder, StyleNetworks
from pcs_ext.image.reference.style_space import (
    WEIGHTS,
    StyleEye,
    StyleSpaceConfig,
    WrittenCodes,
    check_named,
    open_style_space,
    squares,
)
from pcs_ext.reporter import SilentReporter
from tests.support.tiny_albums import albums
from tests.support.tiny_reference import drawn

SIZES = StyleNetworks(resolution=16, width=8, depth=2, channels=8, capacity=128)


@torch.no_grad()
@pytest.mark.parametrize("demodulate", [True, False])
def test_a_style_scales_weights_whose_lengths_are_brought_to_one(demodulate: bool) -> None:
    """StyleGAN2, equations 1 and 3, with weights of every row written out."""
    torch.manual_seed(0)
    layer = ModulatedConv(3, 5, 4, demodulate=demodulate)
    layer.bias.normal_()
    maps, code = drawn(2, 3, 6, 6), drawn(2, 4, seed=1)
    expected = []
    for own, style in zip(maps, layer.style(code), strict=True):
        weight = style[None, :, None, None] * layer.weight
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        expected.append(F.conv2d(own[None], weight, layer.bias, padding=1)[0])
    torch.testing.assert_close(layer(maps, code), torch.stack(expected), atol=1e-5, rtol=1e-4)


def test_every_layer_has_a_row_of_the_code_and_colours_share_the_next() -> None:
    assert (StyleNetworks(resolution=1024).styles, StyleNetworks(resolution=64).styles, SIZES.styles) == (18, 10, 6)
    torch.manual_seed(0)
    model = StyleAutoencoder(SIZES)
    codes = drawn(1, 6, 8).requires_grad_(True)
    read: list[torch.Tensor] = []
    for layer in (*model.synthesis.layers, *model.synthesis.colours):
        layer.register_forward_hook(lambda module, given, output: read.append(given[1]))
    assert model.decode(codes).shape == (1, 3, 16, 16)
    rows = [next(row for row in range(6) if torch.equal(own, codes[:, row])) for own in read]
    # Constant, its colours; then of every size two layers and colours.
    assert rows == [0, 1, 1, 2, 3, 3, 4, 5]
    model.decode(codes).sum().backward()
    assert codes.grad is not None
    assert (codes.grad.abs().amax(2) > 0).all()
    for wrong in ({"resolution": 48}, {"resolution": 4}, {"width": 0}):
        with pytest.raises(ConfigError):
            StyleNetworks(**wrong)


@torch.no_grad()
def test_codes_are_the_mapping_of_one_latent_and_offsets_that_begin_at_zero() -> None:
    torch.manual_seed(0)
    model, pictures = StyleAutoencoder(SIZES), drawn(2, 3, 16, 16).clamp(-1, 1)
    mean, _, offsets = model.encoder(pictures)
    assert offsets.abs().max() == 0
    codes = model.encode(pictures)
    assert (codes == codes[:, :1]).all()
    torch.testing.assert_close(model.mapping(3 * mean), codes[:, 0], atol=1e-5, rtol=1e-4)
    for layer in model.encoder.offsets:
        layer.weight.normal_()  # type: ignore[union-attr, operator]
    _, _, offsets = model.encoder(pictures)
    torch.testing.assert_close(model.encode(pictures) - codes, offsets, atol=1e-5, rtol=1e-4)
    # 0.5 (1 + 4 - 1 - log 4) and 0, the mean of both.
    means, spreads = torch.tensor([[1.0, 0.0]]), torch.tensor([[float(torch.tensor(4.0).log()), 0.0]])
    assert float(divergence(means, spreads)) == pytest.approx(0.5 * (4 - 1.386294) / 2, abs=1e-5)
    # A checkerboard of 1 and -1 against nothing: 1 in full size, 0 in its halves and quarters.
    board = (1 - 2 * ((torch.arange(8)[:, None] + torch.arange(8)) % 2)).float().expand(1, 3, 8, 8)
    assert float(pyramid_error(board, torch.zeros_like(board))) == pytest.approx(1 / 3)


class Largest(TorchDispatchMode):
    """Knows how many numbers the largest float tensor has that is made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.is_floating_point():
            self.numbers = max(self.numbers, made.numel())
        return made


def test_squares_are_held_as_levels_and_albums_are_read_one_at_a_time(tmp_path: Path) -> None:
    pairs = albums(tmp_path / "pairs")
    with Largest() as largest:
        pictures, digests = read_squares(pairs, 64)
    assert (pictures.dtype, pictures.shape) == (torch.uint8, (12, 3, 64, 64))
    photos = [photo for own in read_subjects(pairs) for photo in own.photos]
    assert digests == [photo.digest for photo in photos]
    assert torch.equal(pictures[0], levels_of(squares(photos[0].image[None], 64))[0])
    assert largest.numbers <= 3 * 64 * 64, "no more than one picture is ever there as floats"
    first = next(each_subjects(pairs))
    (pairs / "dog-album" / "0.png").write_bytes(b"no picture")
    assert next(each_subjects(pairs)).nouns == first.nouns, "the cats' album comes first, and the dogs' is not read yet"
    with pytest.raises(PhotoError, match="dog-album/0.png"):
        read_squares(pairs, 64)


class Stopping(SilentReporter):
    """Presses Ctrl-C after a step."""

    def progress(self, task: str, step: int, total: int, **values: float) -> None:
        if (task, step) == ("learn style space", 4):
            raise KeyboardInterrupt


def test_a_space_is_learned_stopped_resumed_stored_and_opened(tmp_path: Path) -> None:
    pairs, file = albums(tmp_path / "pairs"), tmp_path / "tiny.json"
    sizes = {"resolution": 16, "width": 8, "depth": 1, "channels": 8, "capacity": 128}
    write_json(file, {"networks": sizes, "steps": 30, "batch_size": 6, "learning_rate": 1e-2})
    asked: dict[str, Any] = {"config": file, "device": "cpu"}
    with pytest.raises(Interrupted, match="same command goes on"):
        learn_style_space(pairs, tmp_path / "resumed", **asked, reporter=Stopping())
    learn_style_space(pairs, tmp_path / "resumed", **asked)
    learn_style_space(pairs, tmp_path / "straight", **asked)
    resumed, straight = (load_file(tmp_path / name / WEIGHTS) for name in ("resumed", "straight"))
    assert all(torch.equal(resumed[key], straight[key]) for key in straight)
    assert not (tmp_path / "resumed.training").exists()
    with Image.open(tmp_path / "straight" / PREVIEW) as image:
        assert image.size == (8 * 16, 3 * 16)
    eye = open_style_space(tmp_path / "straight")
    assert (eye.places, eye.width) == (6, 8)
    assert eye.digest == open_style_space(tmp_path / "resumed").digest
    latents = drawn(2, 8, seed=2)
    random = eye.model.decode(eye.model.codes(latents, torch.zeros(1, 6, 1)))
    assert (random[0] - random[1]).abs().mean() > 0.02, "all latents are one picture: the mapping learned nothing"
    photos = [photo.image[None, :, :36, :36] for photo in find_photos(pairs / "dog-album")[:1]]
    photos += [photo.image[None, :, :36, :36] for photo in find_photos(pairs / "cat-album")[:1]]
    model = eye.model
    red, blue = (model.decode(eye(photo))[0].mean((1, 2)) for photo in photos)
    assert red[0] - red[2] > blue[0] - blue[2] + 0.1, "the red dog is not redder than the blue cat"


def test_codes_of_another_tool_lie_beside_photos(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    write_json(folder / "config.json", StyleSpaceConfig(written=WrittenCodes(styles=4, width=6)))
    eye, given = open_style_space(folder), find_photos([photos / "0.png", photos / "1.png"])
    codes = drawn(2, 4, 6)
    for photo, own in zip(given, codes, strict=True):
        save_file({"codes": own.contiguous()}, photo.path.with_name(f"{photo.path.stem}_codes.safetensors"))
    seen = eye.of_files(given)
    assert seen is not None
    assert torch.equal(seen.features, codes)
    with pytest.raises(ModelError, match="cannot look at pictures"):
        eye(torch.zeros(1, 3, 8, 8))
    save_file({"codes": torch.zeros(4, 5)}, photos / "0_codes.safetensors")
    with pytest.raises(PhotoError, match=r"holds \{'codes': \(4, 5\)\}; expected one tensor `codes` of 4 x 6"):
        eye.of_files(given)
    (photos / "0_codes.safetensors").write_bytes(b"no")
    with pytest.raises(PhotoError, match="is damaged"):
        eye.of_files(given)
    (photos / "0_codes.safetensors").unlink()
    with pytest.raises(PhotoError, match=r"0_codes.safetensors is missing"):
        eye.of_files(given)


def test_codes_of_one_shape_are_told_apart_by_their_tools_name(tmp_path: Path) -> None:
    def of(name: str) -> StyleEye:
        (tmp_path / f"space-{name}").mkdir()
        written = WrittenCodes(name=name, styles=4, width=6)
        write_json(tmp_path / f"space-{name}" / "config.json", StyleSpaceConfig(written=written))
        return open_style_space(tmp_path / f"space-{name}")

    faces, cars, nobodys = of("faces, e4e"), of("cars, e4e"), of("")
    assert len({eye.digest for eye in (faces, cars, nobodys)}) == 3
    assert nobodys.digest == "5960c5d1", "adapters of earlier versions still open"
    check_named(faces)
    with pytest.raises(ConfigError, match="space- .* does not say whose codes lie beside the photos"):
        check_named(nobodys)


def test_what_is_no_style_space_is_refused(eye: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no style space.*reference style-space"):
        open_style_space(eye)
    write_json(tmp_path / "config.json", StyleSpaceConfig(networks=SIZES))
    with pytest.raises(ModelError, match="holds no style_space.safetensors"):
        open_style_space(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"no")
    with pytest.raises(ModelError, match="is damaged"):
        open_style_space(tmp_path)
    with pytest.raises(ConfigError, match="either networks or written"):
        StyleSpaceConfig()
