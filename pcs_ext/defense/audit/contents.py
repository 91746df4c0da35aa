"""What an embedding, a LoRA or an artifact holds, read as plain tensors: no pickle is opened, no code of the file is
run, and nothing it names is downloaded."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from torch import Tensor

from pcs_ext.artifact import CONFIG, PICKLE_SUFFIXES, ArtifactData, refuse_pickle
from pcs_ext.config_io import file_sha256, from_jsonable
from pcs_ext.defense.audit.foreign import told
from pcs_ext.defense.audit.layers import LayerChange, parse_layers
from pcs_ext.defense.audit.strength import HEADER, of_folder, of_header
from pcs_ext.errors import ArtifactError, ConfigError
from pcs_ext.image.adapters import EmbeddingConfig, LowRankConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.export.modules import adapter_configs

Kind = Literal["artifact", "embedding", "layers"]
_ENCODER_OF_KEY = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
_MAX_VECTORS = 75
"""A prompt holds no more."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LearnedRows:
    """The vectors of one placeholder."""

    placeholder: str
    """What prompts write for it."""
    rows: dict[str, Tensor]
    """`text_encoder`, `text_encoder_2` -> float32 `n d`."""
    also: tuple[str, ...] = ()
    """By what else programs call it: A1111 by the file's name whatever stands in the file, others by its key."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Contents:
    """Everything of a file that an audit looks at."""

    path: Path
    sha256: str
    """Of the file; of the tensors' file for a folder."""
    kind: Kind
    tokens: tuple[LearnedRows, ...]
    layers: tuple[LayerChange, ...]
    unread: tuple[str, ...]
    """Keys whose meaning is not known here: an audit is blind to them."""
    noun: str
    """What the file says it shows; empty: it does not say."""
    phrase: str
    """What the file says prompts should write; empty: it does not say."""
    family: str
    """`sd`, `sdxl`, or empty where the file does not say."""
    notes: tuple[str, ...] = ()
    """What a reader should know about how it was read."""


def read_contents(path: Path) -> Contents:
    """Read a `.safetensors` file, the folder of an artifact, or a folder with one `.safetensors` file.

    Raises:
        ArtifactError: missing, a pickle (the message says how its owner converts it), damaged, or nothing of these.
    """
    path = Path(path)
    if not path.exists():
        raise ArtifactError(f"{path} does not exist; expected an embedding, a LoRA or the folder of a learned subject.")
    if path.is_dir() and (path / CONFIG).is_file():
        return _of_artifact(path)
    return _of_file(_single_file(path) if path.is_dir() else path, path)


def _single_file(folder: Path) -> Path:
    found = sorted(folder.glob("*.safetensors"))
    pickles = _pickles(folder)
    if not found and pickles:
        raise ArtifactError(refuse_pickle(pickles[0]))
    if len(found) != 1:
        raise ArtifactError(f"{folder} holds {len(found)} .safetensors files; expected one. Name the file to audit.")
    return found[0]


def _pickles(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and file.suffix.lower() in PICKLE_SUFFIXES)


def _beside(path: Path) -> tuple[str, ...]:
    """A note on the pickles of a folder: programs may load them instead of what was audited."""
    found = _pickles(path) if path.is_dir() else []
    if not found:
        return ()
    names = ", ".join(told(file.name) for file in found[:3]) + (f" and {len(found) - 3} more" if found[3:] else "")
    return (f"pickles beside it were not opened, and can run any program in whoever loads them: {names}",)


def _of_artifact(path: Path) -> Contents:
    data = ArtifactData.load(path)
    try:
        concept = from_jsonable(Concept, data.concept, where="the artifact's concept")
    except ConfigError as error:
        raise ArtifactError(str(error)) from None
    tokens, layers, unread = [], [], []
    for name, config in adapter_configs(data).items():
        tensors = data.tensors_of(name)
        if isinstance(config, EmbeddingConfig):
            tokens.append(_rows_of_adapter(config, tensors))
            continue
        scale = config.scaling if isinstance(config, LowRankConfig) else 1.0
        found, unknown = parse_layers(tensors, strength=lambda *_, scale=scale: scale)
        layers += found
        unread += [f"{name}/{key}" for key in unknown]
    return Contents(
        path=path,
        sha256=file_sha256(path / "adapter.safetensors"),
        kind="artifact",
        tokens=tuple(tokens),
        layers=tuple(layers),
        unread=tuple(unread),
        noun=concept.class_noun,
        phrase=concept.name,
        family=data.base_family,
        notes=_beside(path),
    )


def _rows_of_adapter(config: EmbeddingConfig, tensors: Mapping[str, Tensor]) -> LearnedRows:
    rows = {key.removesuffix(".weight"): rows.float() for key, rows in tensors.items() if key.endswith(".weight")}
    if not rows or any(tensor.dim() != 2 or len(tensor) != config.num_vectors for tensor in rows.values()):
        raise ArtifactError(f"the vectors of {told(config.placeholder)} are not {config.num_vectors} rows of numbers.")
    return LearnedRows(placeholder=config.placeholder, rows=rows)


def _of_file(file: Path, path: Path) -> Contents:
    if file.suffix.lower() in PICKLE_SUFFIXES or _looks_like_pickle(file):
        raise ArtifactError(refuse_pickle(file))
    tensors, header = _read(file)
    phrase = header.get("modelspec.trigger_phrase", "").strip()
    rows = _embedding(tensors, file, phrase)
    strength = of_folder(file) or of_header(header, file)
    layers, unread = ([], []) if rows else parse_layers(tensors, strength=strength)
    if not rows and not layers:
        keys = ", ".join(told(key) for key in list(tensors)[:3])
        raise ArtifactError(
            f"{file} is neither an embedding nor a LoRA that this audit can read (keys such as {keys}); expected a "
            "textual-inversion file, LoRA layers as kohya, diffusers or peft write them, or a learned subject's folder."
        )
    return Contents(
        path=path,
        sha256=file_sha256(file),
        kind="embedding" if rows else "layers",
        tokens=(rows,) if rows else (),
        layers=tuple(layers),
        unread=tuple(unread),
        noun="",
        phrase=rows.placeholder if rows else phrase,
        family="sdxl" if rows and len(rows.rows) == 2 else "",
        notes=(*_beside(path), *(_weakened(layers) if HEADER in header else ())),
    )


def _weakened(layers: Sequence[LayerChange]) -> tuple[str, ...]:
    least = min((abs(layer.scale) for layer in layers), default=1.0)
    if least >= 1:
        return ()
    return (
        f"its header weakens layers to {least:.2g}: programs that do not read it apply them {1 / least:.3g} times as "
        "strongly as they were audited",
    )


def _looks_like_pickle(file: Path) -> bool:
    """A zip archive or a pickle's first opcode: what torch.save writes, whatever the file is called."""
    with open(file, "rb") as handle:
        start = handle.read(10)
    if start[3:9] == b"\0\0\0\0\0{":  # a safetensors header of 640, 896 or 1152 bytes starts like a pickle
        return False
    return start.startswith(b"PK\x03\x04") or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04"))


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(file, framework="pt") as handle:
            header: dict[str, str] = handle.metadata() or {}
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118 (not a dictionary)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{file} is damaged or not a safetensors file ({error}).") from None
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
            raise ArtifactError(f"{file}: {told(key)} holds numbers that are not finite; it cannot be judged.")
    return tensors, header


def _embedding(tensors: Mapping[str, Tensor], file: Path, phrase: str) -> LearnedRows | None:
    """The vectors of a textual-inversion file, or None."""
    float_rows = {key: t for key, t in tensors.items() if t.is_floating_point() and t.dim() in (1, 2)}
    if not tensors or len(float_rows) < len(tensors) or any("." in key for key in tensors):
        return None
    rows = {key: (t[None] if t.dim() == 1 else t).float() for key, t in float_rows.items()}
    if any(len(tensor) > _MAX_VECTORS for tensor in rows.values()):
        return None
    if set(rows) <= set(_ENCODER_OF_KEY):
        named = {_ENCODER_OF_KEY[key]: t for key, t in rows.items()}
        return LearnedRows(placeholder=phrase or file.stem, rows=named, also=(file.stem,))
    if len(rows) != 1:
        return None
    key, tensor = next(iter(rows.items()))
    named = key if key not in ("emb_params", "string_to_param", "*") else phrase or file.stem
    also = tuple(name for name in dict.fromkeys([phrase, file.stem]) if name and name != named)
    return LearnedRows(placeholder=named, rows={"text_encoder": tensor}, also=also)


def claimed_words(contents: Contents, noun: str) -> frozenset[str]:
    """Lower-case words that the file may be expected to act on: of its phrase and its noun."""
    return frozenset(re.findall(r"[a-z]+", f"{contents.phrase} {contents.noun} {noun}".lower()))


def facts(contents: Contents) -> dict[str, Any]:
    """What a report says about the file before anything is judged."""
    return {
        "path": str(contents.path),
        "sha256": contents.sha256,
        "kind": contents.kind,
        "says_it_shows": contents.noun,
        "called_by": contents.phrase,
        "learned_tokens": {t.placeholder: {k: list(r.shape) for k, r in t.rows.items()} for t in contents.tokens},
        "layers": len(contents.layers),
        "numbers": sum(math.prod(t.shape) for layer in contents.layers for t in layer.tensors.values())
        + sum(r.numel() for token in contents.tokens for r in token.rows.values()),
    }
