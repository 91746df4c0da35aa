"""Learned tokens as the small file that diffusers, ComfyUI and A1111 all read.

One text encoder: a single float32 tensor `n d` whose key is the token. diffusers takes the key for the token; ComfyUI
and A1111 take the file's name for it and accept a single tensor of any key. Two encoders (SDXL): `clip_l` and `clip_g`;
diffusers is given each by hand: `load_textual_inversion(state["clip_l"], token=..., text_encoder=..., tokenizer=...)`.
SDXL's configuration has eos_token_id 2, by which transformers pools at the largest id, and that is then the new token:
set `eos_token_id` of the second encoder's inner model to the tokenizer's before.
"""

import re
from pathlib import Path

from torch import Tensor

from pcs_ext.artifact import ArtifactData
from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import PROMPT_ADAPTERS
from pcs_ext.image.export.files import ExportOptions, check_free, write_safetensors
from pcs_ext.image.export.metadata import model_spec, token_width, with_hashes
from pcs_ext.image.export.modules import LearnedToken, adapter_configs, cannot_express, learned_tokens

_SDXL_KEYS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}


def export_textual_inversion(data: ArtifactData, output: Path, options: ExportOptions | None = None) -> list[Path]:
    """Write one file per learned token, named after it.

    Trained layers, if the artifact has any, are not part of it: export them beside it.

    Args:
        data: the artifact.
        output: the folder.
        options: overwriting, metadata. Rows are always float32: they are few, and A1111 expects it.

    Returns:
        The files.

    Raises:
        UsageError: the artifact has no learned token, or a file exists.
    """
    options = options or ExportOptions()
    for config in adapter_configs(data).values():
        if isinstance(config, PROMPT_ADAPTERS):
            raise UsageError(cannot_express(config.kind, "textual-inversion"))
    tokens = learned_tokens(data)
    if not tokens:
        raise UsageError(
            "this subject has no learned token (its prompts use plain or rare words), so there is nothing to write as "
            "textual-inversion; export its layers as diffusers, peft or kohya."
        )
    files = {file_name(token.placeholder): token for token in tokens}
    if len(files) < len(tokens):
        raise UsageError("two learned tokens would have the same file name; give them names that differ in letters.")
    for name in files:
        check_free(Path(output) / name, options)
    return [_write(data, token, Path(output) / name, options) for name, token in files.items()]


def file_name(token: str) -> str:
    """The token without the characters that file names cannot hold everywhere: `<rex>` -> `rex.safetensors`."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '', token).strip('.') or 'token'}.safetensors"


def _write(data: ArtifactData, token: LearnedToken, file: Path, options: ExportOptions) -> Path:
    if len(token.rows) == 1:
        tensors = {token.placeholder: next(iter(token.rows.values()))}
    else:
        tensors = {_SDXL_KEYS[encoder]: rows for encoder, rows in token.rows.items()}
    tensors = {key: rows.float().contiguous() for key, rows in tensors.items()}
    return write_safetensors(file, tensors, _metadata(data, token, tensors, file, options), options)


def _metadata(
    data: ArtifactData, token: LearnedToken, tensors: dict[str, Tensor], file: Path, options: ExportOptions
) -> dict[str, str]:
    spec = model_spec(data, options, title=file.stem, kind="textual-inversion", text_width=token_width(data))
    spec["modelspec.trigger_phrase"] = token.placeholder
    return with_hashes(tensors, spec)
