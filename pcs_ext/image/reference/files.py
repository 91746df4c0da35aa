"""Reference adapters on disk: published files and folders, and our own folders, which other tools read too.

A folder of ours holds `config.json`, which says what was trained and with what, and the weights: an IP-Adapter's as
`ip_adapter.safetensors` in the published layout, others' as `reference.safetensors`. Published files say nothing of
themselves; their image encoder lies beside them, as in h94/IP-Adapter.
"""

import dataclasses
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from pcs_ext.config_io import (
    atomic_folder,
    atomic_write_bytes,
    file_sha256,
    read_json,
    write_json,
)
from pcs_ext.errors import ArtifactError, ModelError
from pcs_ext.image.adapters import FullAdapter
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.hub import hub_folder
from pcs_ext.image.backbones.load import TOYBOX_WEIGHTS
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading
from pcs_ext.image.reference.encoder import PictureEncoder, width_of
from pcs_ext.image.reference.found import (
    CONFIG,
    OTHER_WEIGHTS,
    WEIGHTS,
    Place,
    ReferenceConfig,
    TrainedWith,
    fetched,
    find_adapter,
    settings_beside,
)
from pcs_ext.image.reference.kinds import KindConfig, adapter_class, build_adapter
from pcs_ext.image.reference.latents import OWN, LatentEncoder, open_eye
from pcs_ext.image.reference.systems.ip_adapter import IPAdapter, IPAdapterConfig

_ENCODERS = ("image_encoder", "models/image_encoder", "sdxl_models/image_encoder")
"""Where image encoders lie in a published repository, beside those next to the file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenedAdapter:
    """An adapter that fits a base, and the encoder it was trained with."""

    adapter: AbstractReferenceAdapter
    encoder: PictureEncoder
    latents: PictureEncoder | None = None
    """The base's own, for an adapter that asks for latents, too."""
    id: str = ""
    """What pictures say of it: the name of its folder or file, no place of this machine, and 8 hex digits of it."""


def open_adapter(backbone: AbstractBackbone, name: str = "", *, encoder: str = "") -> OpenedAdapter:
    """Find, read and check an adapter for a base.

    Args:
        backbone: what it shall work on.
        name: a folder, a `.safetensors` file, or a file on the hub, `owner/name/path/file.safetensors`; empty: the one
            that ships for toybox.
        encoder: folder or hub id of the image encoder; empty: the one the folder names, or that lies beside the file.

    Raises:
        ModelError: it is missing, damaged or a pickle, or there is none for the base; the message says how to get one.
        ArtifactError: it was made for another kind of base, or trained with another encoder.
    """
    place = find_adapter(backbone, name)
    settings = None if place.settings is None else place.settings.adapter
    if settings is None or isinstance(settings, IPAdapterConfig):
        adapter: AbstractReferenceAdapter = IPAdapter.from_published(_read(place.weights, published=True))
        adapter.check(backbone)
        eye = _encoder(place, adapter, encoder, backbone)
    else:
        eye = _encoder(place, adapter_class(settings), encoder, backbone)
        adapter = _ours(place, settings, eye, backbone)
    adapter.to(backbone.device, backbone.dtype).eval().requires_grad_(False)
    own = LatentEncoder.of(backbone) if adapter.asks_latents else None
    return OpenedAdapter(adapter=adapter, encoder=eye, latents=own, id=_identity(place))


def _identity(place: Place) -> str:
    weights = place.weights.resolve()
    name = weights.parent.name if place.settings is not None else weights.name
    if place.repository:
        name = f"{place.repository}/{place.inside}"
    return f"{name} ({file_sha256(weights)[:8]})"


def reading_of(encoder: PictureEncoder) -> Reading:
    """What an image encoder gives."""
    return Reading(
        sees=encoder.sees, width=encoder.width, layers=max(1, len(encoder.layers)), places=encoder.places
    )  # fmt: skip


def read_settings(folder: Path) -> ReferenceConfig:
    """What a folder of ours says of its adapter.

    Raises:
        ModelError: it is none.
    """
    there = [folder / name for name in (WEIGHTS, OTHER_WEIGHTS) if (folder / name).is_file()]
    said = settings_beside(there[0]) if there else None
    if said is None:
        raise ModelError(f"{folder} is no adapter of ours; expected a folder that `pcs-ext reference learn` wrote.")
    return said


def weights_digest(folder: Path) -> str:
    """Sha256 of the weights in a folder of ours."""
    return file_sha256(next(folder / name for name in (WEIGHTS, OTHER_WEIGHTS) if (folder / name).is_file()))


def save_adapter(adapter: AbstractReferenceAdapter, settings: TrainedWith, folder: Path, *, half: bool) -> None:
    """Write a folder whole: `WEIGHTS` in the published layout and `CONFIG`.

    Args:
        adapter: trained.
        settings: what it was trained with.
        folder: replaced if it is there.
        half: float16 instead of float32.
    """
    name = WEIGHTS if settings.kind == "ip-adapter" else OTHER_WEIGHTS
    tensors = {key: value.half() if half else value.float() for key, value in adapter.published().items()}
    with atomic_folder(folder) as made:
        atomic_write_bytes(made / name, save(tensors, metadata={"format": "pt"}))
        write_json(made / CONFIG, settings)


def _ours(
    place: Place, settings: KindConfig, eye: PictureEncoder, backbone: AbstractBackbone
) -> AbstractReferenceAdapter:
    """The adapter of a folder of ours, of any kind but IP-Adapter."""
    assert place.settings is not None
    made = build_adapter(settings, backbone, reading_of(eye))
    fill(made, place.weights, place.settings, backbone)
    return made


def fill(made: AbstractReferenceAdapter, weights: Path, settings: TrainedWith, backbone: AbstractBackbone) -> None:
    """Put the weights of a folder of ours into an untrained adapter of its kind.

    Raises:
        ModelError: the file is damaged.
        ArtifactError: it was made for another base.
    """
    full = [adapter for adapter in made.inside if isinstance(adapter, FullAdapter)]
    if full and settings.base_fingerprint != backbone.fingerprint:
        raise ArtifactError(
            f"{weights.parent} holds weights of {settings.base} itself ({settings.base_fingerprint}), and "
            f"{backbone.name} is another base ({backbone.fingerprint}). Pass that one with --base."
        )
    made.load_published(_read(weights, published=False))
    made.check(backbone)
    with made.inserted(backbone):  # once before sampling: weights made in inference mode could not be tuned
        for parameters in made.groups().values():
            for parameter in parameters:
                parameter.requires_grad_(False)


def _read(weights: Path, *, published: bool) -> dict[str, Tensor]:
    try:
        state = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{weights} is damaged or no safetensors file ({error}); fetch it again.") from None
    if published and not any(key.startswith("ip_adapter.") for key in state):
        seen = ", ".join(sorted(state)[:3]) or "nothing"
        raise ArtifactError(
            f"{weights} holds {seen}, ...; expected an IP-Adapter (tensors image_proj.* and ip_adapter.*)."
        )
    return state


def _encoder(
    place: Place,
    adapter: AbstractReferenceAdapter | type[AbstractReferenceAdapter],
    asked: str,
    backbone: AbstractBackbone,
) -> PictureEncoder:
    if asked:
        folder = encoder_folder(asked)
    elif place.settings is not None:
        inside = place.weights.with_name("image_encoder")
        folder = inside if inside.is_dir() else encoder_folder(place.settings.encoder)
    else:
        assert isinstance(adapter, AbstractReferenceAdapter), "files that say nothing of themselves are IP-Adapter's"
        folder = _beside(place, adapter)
    opened = open_eye(folder, adapter, backbone)
    if isinstance(adapter, AbstractReferenceAdapter) and opened.width != adapter.width:
        raise ArtifactError(
            f"the reference adapter reads vectors of width {adapter.width}, {opened.id} gives {opened.width}; pass the "
            "encoder it was trained with by --reference-encoder."
        )
    if place.settings is not None:
        check_encoder(opened, place.settings)
    return opened


def check_encoder(opened: PictureEncoder, settings: TrainedWith) -> None:
    """See that an adapter looks through the eyes it was trained with.

    Raises:
        ArtifactError: it does not.
    """
    if opened.digest != settings.encoder_digest:
        raise ArtifactError(
            f"the reference adapter was trained with {settings.encoder} ({settings.encoder_digest}), this is "
            f"{opened.id}: to its eyes pictures look different. Pass that encoder, or train the adapter again."
        )


def encoder_folder(name: str) -> Path:
    """Where an image encoder lies: `toybox/NAME`, a folder, or a hub id; nowhere, if it is the base's autoencoder.

    Raises:
        ModelError: there is none.
    """
    if name == OWN:
        return Path(name)
    if name.startswith("toybox/"):
        return TOYBOX_WEIGHTS / name.removeprefix("toybox/")
    folder = Path(name).expanduser()
    if folder.is_absolute() and not folder.is_dir():
        raise ModelError(
            f"the image encoder should lie in {name}, which is no folder. Pass the place where it lies now by "
            "--encoder or --reference-encoder."
        )
    return folder if folder.is_dir() else hub_folder(name)


def encoder_name(name: str) -> str:
    """The same encoder by a name that leads to it from any folder."""
    folder = Path(name).expanduser()
    return name if name == OWN or name.startswith("toybox/") or not folder.is_dir() else str(folder.resolve())


def _beside(place: Place, adapter: AbstractReferenceAdapter) -> Path:
    """The image encoder of a published file whose vectors have the right width."""
    seen = []
    for described in _candidates(place):
        width = width_of(read_json(described), adapter.sees)
        seen.append(f"{described.parent} ({width})")
        if width == adapter.width:
            return _whole(place, described)
    found = ", ".join(dict.fromkeys(seen)) or "none"
    raise ModelError(
        f"no image encoder for vectors of width {adapter.width} lies beside {place.weights} (found: {found}). Put it "
        "into image_encoder/ there, as h94/IP-Adapter has it, or pass its folder with --reference-encoder."
    )


def _candidates(place: Place) -> list[Path]:
    if not place.repository:
        roots = (place.weights.parent, place.weights.parent.parent)
        paths = [root / name / CONFIG for root in roots for name in _ENCODERS]
        return [path for path in paths if path.is_file()]
    near = str(PurePosixPath(place.inside).parent / "image_encoder")
    found = []
    for name in dict.fromkeys((near, *_ENCODERS)):
        try:
            found.append(fetched(place.repository, f"{name}/{CONFIG}"))
        except ModelError:
            continue
    return found


def _whole(place: Place, described: Path) -> Path:
    """The encoder's folder, with its weights fetched where it lies on the hub."""
    if place.repository:
        inside = described.parent.relative_to(_snapshot(place))
        fetched(place.repository, (inside / "model.safetensors").as_posix())
    return described.parent


def _snapshot(place: Place) -> Path:
    depth = len(PurePosixPath(place.inside).parts)
    return place.weights.parents[depth - 1]
