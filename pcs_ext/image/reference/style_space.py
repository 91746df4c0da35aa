"""Style spaces on disk, as adapters look at photos by them: one of ours, or codes that another tool wrote.

A folder of ours holds `config.json` and `style_space.safetensors`. Of another generator and its encoder (StyleGAN with
e4e, say) only the codes are read: the folder holds a `config.json` alone, and beside every photo `NAME.jpg` lies
`NAME_codes.safetensors` with one tensor `codes`, `styles width`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from pcs_ext.config_io import (
    atomic_folder,
    atomic_write_bytes,
    config,
    config_hash,
    file_sha256,
    from_jsonable,
    read_json,
    write_json,
)
from pcs_ext.errors import ConfigError, ModelError, PhotoError
from pcs_ext.image.data import Photo
from pcs_ext.image.evaluate.encoders import Preprocessing
from pcs_ext.image.reference.encoder import PictureEncoder
from pcs_ext.image.reference.pairs import square
from pcs_ext.image.reference.shown import Sight
from pcs_ext.image.reference.style_networks import StyleAutoencoder, StyleNetworks

WEIGHTS, CONFIG = "style_space.safetensors", "config.json"
_HALF = (0.5, 0.5, 0.5)


@config
class WrittenCodes:
    """Codes that another tool writes beside photos."""

    name: str = ""
    """Whose they are, "stylegan2-ffhq, e4e": codes of one shape that mean different things are told apart by it.
    Folders of earlier versions say nothing; no adapter is trained on those."""
    styles: int = 18
    """Rows of a code; StyleGAN2's at 1,024 pixels has 18."""
    width: int = 512
    """Of each."""

    def __post_init__(self) -> None:
        if min(self.styles, self.width) < 1:
            raise ConfigError(f"styles and width must be at least 1, got {self.styles} and {self.width}.")


@config
class StyleSpaceConfig:
    """What the folder of a style space says."""

    kind: Literal["style-space"] = "style-space"
    """Tag in JSON."""
    networks: StyleNetworks | None = None
    """Of ours; exactly one of this and `written`."""
    written: WrittenCodes | None = None
    """Of codes in files."""

    def __post_init__(self) -> None:
        if (self.networks is None) == (self.written is None):
            raise ConfigError("a style space has either networks or written, and not both.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StyleEye(PictureEncoder):
    """Photos as codes of a style space, `styles width` each."""

    shape: tuple[int, int]
    """Rows of a code, and their width."""
    named: bool = True
    """Whether the digest tells it from every other style space; not of codes that do not say whose they are."""

    @property
    def width(self) -> int:
        """Of a code's rows."""
        return self.shape[1]

    @property
    def places(self) -> int:
        """Rows of a code."""
        return self.shape[0]

    @property
    def layers(self) -> tuple[int, ...]:
        """None are seen."""
        return ()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Pictures `b 3 h w` in [-1, 1] -> `b styles width`, float32. Not differentiable.

        Raises:
            ModelError: codes are read from files here.
        """
        if self.model is None:
            raise ModelError(
                "this style space reads codes that another tool wrote beside photos; it cannot look at pictures. Show "
                "photos with NAME_codes.safetensors beside them."
            )
        model = cast(StyleAutoencoder, self.model)
        return model.encode(squares(images.to(self.device), model.sizes.resolution)).float()

    def sight(self, images: Tensor, masks: Tensor | None, *, cut: bool) -> Sight:
        """See `PictureEncoder.sight`; a code has no places, so that none is covered."""
        features = self(images)
        if masks is None or not cut:
            return Sight(features=features)
        kept = (masks > 0.5).to(images)
        return Sight(features=features, cut=self(images * kept - (1 - kept)))

    def of_files(self, photos: Sequence[Photo]) -> Sight | None:
        """See `PictureEncoder.of_files`.

        Raises:
            PhotoError: a file of codes is missing, damaged or of another shape.
        """
        if self.model is not None:
            return None
        return Sight(features=torch.stack([read_codes(photo.path, self.shape) for photo in photos]).to(self.device))

    @torch.no_grad()
    def blank(self, features: Tensor) -> Tensor:
        """Zeros, as in the released code of W+ adapter."""
        return torch.zeros_like(features)


def squares(images: Tensor, side: int) -> Tensor:
    """The largest centred squares of `b 3 h w`, resized."""
    return torch.stack([square(image.float(), side) for image in images])


def codes_file(photo: Path) -> Path:
    """Where another tool writes a photo's code."""
    return photo.with_name(f"{photo.stem}_codes.safetensors")


def read_codes(photo: Path, shape: tuple[int, int]) -> Tensor:
    """What another tool wrote beside a photo, `styles width`, float32.

    Raises:
        PhotoError: it is missing, damaged or of another shape.
    """
    path = codes_file(photo)
    expected = f"one tensor `codes` of {shape[0]} x {shape[1]}"
    if not path.is_file():
        raise PhotoError(f"{path} is missing: the style space is another tool's; expected its codes, {expected}.")
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise PhotoError(f"{path} is damaged or no safetensors file ({error}); expected {expected}.") from None
    codes = found.get("codes")
    if codes is None or tuple(codes.shape) != shape:
        seen = {name: tuple(tensor.shape) for name, tensor in found.items()}
        raise PhotoError(f"{path} holds {seen}; expected {expected}.")
    return codes.float()


def save_style_space(model: StyleAutoencoder, folder: Path, files: Mapping[str, bytes] | None = None) -> None:
    """Write a folder whole.

    Args:
        model: trained.
        folder: replaced if it is there.
        files: what else lies in it.
    """
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_folder(folder) as made:
        atomic_write_bytes(made / WEIGHTS, save(tensors, metadata={"format": "pt"}))
        write_json(made / CONFIG, StyleSpaceConfig(networks=model.sizes))
        for name, data in (files or {}).items():
            atomic_write_bytes(made / name, data)


def open_style_space(folder: Path, device: torch.device | str = "cpu") -> StyleEye:
    """A folder of `save_style_space`, or one that says what codes lie beside photos.

    Raises:
        ModelError: it is none, or damaged.
        ConfigError: its config.json says what it cannot be.
    """
    said = _said(folder)
    if said.written is not None:
        whose = [said.written.name] if said.written.name else []
        digest = config_hash([said.written.styles, said.written.width, *whose])[:8]
        shape, model = (said.written.styles, said.written.width), None
    else:
        assert said.networks is not None
        digest = config_hash([file_sha256(folder / WEIGHTS)])[:8]
        shape, model = (said.networks.styles, said.networks.width), _read(folder / WEIGHTS, said.networks, device)
    side = 1 if said.networks is None else said.networks.resolution
    return StyleEye(
        id=f"{folder.resolve().name} ({digest})",
        digest=digest,
        sees="codes",
        model=model,
        preprocessing=Preprocessing(resize=side, crop=(side, side), mean=_HALF, std=_HALF),
        device=torch.device(device),
        output="codes",
        shape=shape,
        named=said.written is None or bool(said.written.name),
    )


def check_named(eye: PictureEncoder) -> None:
    """See that an adapter that is trained on a style space's codes can be told from one of another's.

    Raises:
        ConfigError: nobody says whose codes they are.
    """
    if isinstance(eye, StyleEye) and not eye.named:
        raise ConfigError(
            f"{eye.id} does not say whose codes lie beside the photos, so that adapters of two tools' codes could not "
            f"be told apart; name the generator and its encoder in the folder's {CONFIG}: "
            '"written": {"name": "stylegan2-ffhq, e4e", ...}.'
        )


def _said(folder: Path) -> StyleSpaceConfig:
    path = folder / CONFIG
    told = read_json(path) if path.is_file() else {}
    if not isinstance(told, dict) or told.get("kind") != "style-space":
        raise ModelError(
            f"{folder} is no style space, and the adapter reads codes of one; pass as --encoder a folder that "
            "`pcs-ext reference style-space PAIRS -o FOLDER` wrote, or one whose config.json says what codes another "
            'tool writes beside photos: {"kind": "style-space", "written": {"name": "stylegan2-ffhq, e4e", "styles": '
            '18, "width": 512}}.'
        )
    said = from_jsonable(StyleSpaceConfig, told, where=str(path))
    if said.networks is not None and not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} holds no {WEIGHTS}; train it again with `pcs-ext reference style-space`.")
    return said


def _read(weights: Path, sizes: StyleNetworks, device: torch.device | str) -> StyleAutoencoder:
    model = StyleAutoencoder(sizes)
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ModelError(f"{weights} is damaged or does not fit its config.json ({error}); train it again.") from None
    return model.to(device).eval().requires_grad_(False)
