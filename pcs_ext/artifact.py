"""A learned subject on disk: one folder of safetensors and JSON that every plugin reads and every export starts from.

adapter.safetensors   all tensors, keyed `<adapter name>/<tensor name>`
config.json           recipe, concept, adapters, base, training facts, sha256 of the files beside it
environment.json      versions and machine kind
preview.png           optional picture of the subject
"""

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pcs_ext.config_io import atomic_folder, config, config_hash, file_sha256, from_jsonable, read_json, write_json
from pcs_ext.errors import ArtifactError, ConfigError
from pcs_ext.runtime import environment

SCHEMA_VERSION = 1
TENSORS, CONFIG, ENVIRONMENT, PREVIEW = "adapter.safetensors", "config.json", "environment.json", "preview.png"
PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")

Kind = Literal["image-subject", "motion"]
_WORDS: dict[str, str] = {
    "image-subject": "a learned subject (`pcs-ext learn`)",
    "motion": "a learned motion (`pcs-ext video learn`)",
}
_MAX_JSON_BYTES = 16 << 20
_MAX_PREVIEW_BYTES = 16 << 20
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@config
class _Base:
    """The backbone the subject was learned on."""

    name: str
    fingerprint: str
    family: str


@config
class _Stored:
    """What config.json holds, field for field."""

    schema_version: int
    kind: str
    recipe: dict[str, Any]
    concept: dict[str, Any]
    adapters: dict[str, dict[str, Any]]
    base: _Base
    training: dict[str, Any]
    files: dict[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArtifactData:
    """A learned subject in memory, as plain data: nothing here knows how to build an adapter."""

    recipe: dict[str, Any]
    """The full recipe as JSON data; its `id` names the system."""
    concept: dict[str, Any]
    """How prompts name the subject, as JSON data."""
    adapters: dict[str, dict[str, Any]]
    """Adapter name (letters, digits, underscores) -> its configuration as JSON data, in the order of injection."""
    tensors: dict[str, dict[str, Tensor]]
    """Adapter name -> its state dict, on the CPU."""
    base_name: str
    """What the user typed for the base."""
    base_fingerprint: str
    """Of the base's frozen weights, 16 hex digits."""
    base_family: str
    """`sd` or `sdxl`."""
    training: dict[str, Any]
    """Facts of the run as JSON data: seed, steps, sha256 of the photos, last losses."""
    kind: Kind = "image-subject"
    """What was learned."""
    environment: dict[str, str] = dataclasses.field(default_factory=environment)
    """Versions and machine kind of the run."""
    preview: bytes | None = None
    """A PNG picture of the subject."""

    @property
    def content_hash(self) -> str:
        """First 16 hex digits of the sha256 over configuration and tensors: what images of the subject refer to."""
        import hashlib

        digest = hashlib.sha256()
        for key, tensor in sorted(_flat(self).items()):
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return config_hash([self.recipe, self.concept, self.adapters, self.base_fingerprint, digest.hexdigest()])

    def tensors_of(self, name: str) -> dict[str, Tensor]:
        """State dict of one adapter."""
        return self.tensors[name]

    def save(self, path: Path) -> None:
        """Write the folder; it appears whole or not at all. An artifact already there is replaced.

        Raises:
            ArtifactError: something that is not an artifact has this name.
        """
        path = Path(path)
        _check_replaceable(path)
        assert self.adapters.keys() == self.tensors.keys(), "every adapter needs its tensors and its configuration"
        assert all(re.fullmatch(r"[A-Za-z0-9_]+", name) for name in self.adapters), "adapter names"
        with atomic_folder(path) as folder:
            save_file({key: tensor.contiguous() for key, tensor in _flat(self).items()}, folder / TENSORS)
            write_json(folder / ENVIRONMENT, self.environment)
            if self.preview is not None:
                (folder / PREVIEW).write_bytes(self.preview)
            files = {file.name: file_sha256(file) for file in sorted(folder.iterdir())}
            base = _Base(name=self.base_name, fingerprint=self.base_fingerprint, family=self.base_family)
            stored = _Stored(
                schema_version=SCHEMA_VERSION,
                kind=self.kind,
                recipe=self.recipe,
                concept=self.concept,
                adapters=self.adapters,
                base=base,
                training=self.training,
                files=files,
            )
            write_json(folder / CONFIG, stored)

    @classmethod
    def load(cls, path: Path, *, kind: Kind = "image-subject") -> "ArtifactData":
        """Read and verify a folder.

        Args:
            path: the folder.
            kind: what it must hold.

        Raises:
            ArtifactError: it is missing, foreign, of another version, incomplete, changed or corrupt.
        """
        path = Path(path)
        _check_folder(path, "pcs-ext learn" if kind == "image-subject" else "pcs-ext video learn")
        stored = _read_config(path, kind)
        for name, sha256 in stored.files.items():
            _verify(path, name, sha256)
        if TENSORS not in stored.files or ENVIRONMENT not in stored.files:
            raise ArtifactError(f"{path / CONFIG} does not list {TENSORS} and {ENVIRONMENT} among its files.")
        return cls(
            recipe=stored.recipe,
            concept=stored.concept,
            adapters=stored.adapters,
            tensors=_read_tensors(path / TENSORS, stored.adapters),
            base_name=stored.base.name,
            base_fingerprint=stored.base.fingerprint,
            base_family=stored.base.family,
            training=stored.training,
            kind=kind,
            environment=_read_environment(path / ENVIRONMENT),
            preview=_read_preview(path / PREVIEW) if PREVIEW in stored.files else None,
        )


def _flat(data: ArtifactData) -> dict[str, Tensor]:
    return {f"{name}/{key}": tensor for name, state in data.tensors.items() for key, tensor in state.items()}


def _check_replaceable(path: Path) -> None:
    if path.exists() and not (path.is_dir() and (path / CONFIG).is_file() and (path / TENSORS).is_file()):
        raise ArtifactError(f"{path} exists and is not a learned subject, so it is not replaced; choose another name.")


def _check_folder(path: Path, command: str) -> None:
    if not path.exists():
        raise ArtifactError(f"{path} does not exist; expected the folder that `{command}` wrote.")
    if path.is_file() and path.suffix.lower() in PICKLE_SUFFIXES:
        raise ArtifactError(refuse_pickle(path))
    if path.is_file():
        raise ArtifactError(f"{path} is a file; expected the folder that `{command}` wrote.")
    pickles = [file.name for file in path.iterdir() if file.suffix.lower() in PICKLE_SUFFIXES]
    if pickles and not (path / CONFIG).exists():
        raise ArtifactError(refuse_pickle(path / sorted(pickles)[0]))
    for name in (CONFIG, TENSORS, ENVIRONMENT):
        if not (path / name).is_file():
            raise ArtifactError(
                f"{path} has no {name}, so it is not a learned subject, or not all of one; "
                f"expected the folder that `{command}` wrote."
            )


def refuse_pickle(path: Path) -> str:
    """Why a pickle is not opened, and how its owner converts it."""
    target = path.with_suffix(".safetensors").name
    return (
        f"{path} is a pickle: opening one can run any program hidden in it, so it is never loaded. If you trust where "
        f'it comes from, convert it first:\n  python -c "import torch; from safetensors.torch import save_file; '
        f"save_file(torch.load('{path.name}', map_location='cpu', weights_only=True), '{target}')\""
    )


def _read_config(path: Path, kind: Kind) -> _Stored:
    file = path / CONFIG
    data = _read_bounded_json(file)
    found = data.get("kind") if isinstance(data, dict) else type(data).__name__
    if not isinstance(data, dict) or found != kind:
        whose = f"it is {_WORDS[found]}" if found in _WORDS else "it belongs to another tool"
        raise ArtifactError(f"{file} has kind {found!r}, expected {kind!r}; {whose}.")
    if data.get("schema_version") != SCHEMA_VERSION:
        raise ArtifactError(
            f"{file} has schema_version {data.get('schema_version')!r}, this version reads {SCHEMA_VERSION}; "
            "update pcs_ext, or learn the subject again."
        )
    try:
        return from_jsonable(_Stored, data, where=str(file))
    except ConfigError as error:
        raise ArtifactError(str(error)) from None


def _read_bounded_json(file: Path) -> Any:
    if file.stat().st_size > _MAX_JSON_BYTES:
        raise ArtifactError(f"{file} has {file.stat().st_size} bytes, expected at most {_MAX_JSON_BYTES}.")
    try:
        return read_json(file)
    except ConfigError as error:
        raise ArtifactError(str(error)) from None


def _verify(path: Path, name: str, sha256: str) -> None:
    if name not in (TENSORS, ENVIRONMENT, PREVIEW):
        raise ArtifactError(f"{path / CONFIG} lists an unknown file {name!r}.")
    if not (path / name).is_file():
        raise ArtifactError(f"{path} has no {name}, which its {CONFIG} lists; copy the folder again, whole.")
    got = file_sha256(path / name)
    if got != sha256:
        raise ArtifactError(
            f"{path / name} is not the file that was saved: sha256 is {got[:16]}..., {CONFIG} says {sha256[:16]}.... "
            "It is corrupt or was changed; copy the folder again."
        )


def _read_tensors(file: Path, adapters: dict[str, dict[str, Any]]) -> dict[str, dict[str, Tensor]]:
    tensors: dict[str, dict[str, Tensor]] = {name: {} for name in adapters}
    try:
        with safe_open(file, framework="pt") as handle:
            for key in handle.keys():  # noqa: SIM118 (not a dictionary)
                name, _, tensor_name = key.partition("/")
                if name not in tensors or not tensor_name:
                    raise ArtifactError(
                        f"{file} holds {key!r}, which belongs to none of the adapters {list(adapters)}."
                    )
                tensor = handle.get_tensor(key)
                if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                    raise ArtifactError(f"{file}: {key} holds numbers that are not finite; the training diverged.")
                tensors[name][tensor_name] = tensor
    except SafetensorError as error:
        raise ArtifactError(f"{file} is corrupt or not a safetensors file ({error}).") from None
    return tensors


def _read_environment(file: Path) -> dict[str, str]:
    data = _read_bounded_json(file)
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise ArtifactError(f"{file} is not a table of names and versions.")
    return data


def _read_preview(file: Path) -> bytes:
    if file.stat().st_size > _MAX_PREVIEW_BYTES:
        raise ArtifactError(f"{file} has {file.stat().st_size} bytes, expected at most {_MAX_PREVIEW_BYTES}.")
    data = file.read_bytes()
    if not data.startswith(_PNG_SIGNATURE):
        raise ArtifactError(f"{file} is not a PNG file.")
    return data
