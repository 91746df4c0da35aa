"""CLIP's tokenizer from a folder or the hub cache; files that are missing are an error."""

from pathlib import Path

from transformers import CLIPTokenizer

from pcs_ext.errors import ModelError

FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
"""What a CLIP tokenizer is read from."""


def read_clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer in a folder.

    Raises:
        ModelError: no vocabulary there. transformers would return a tokenizer that knows no word.
    """
    whole = (folder / "tokenizer.json").is_file()
    if not whole and not all((folder / name).is_file() for name in ("vocab.json", "merges.txt")):
        raise ModelError(
            f"{folder} holds no CLIP tokenizer; expected vocab.json and merges.txt, or tokenizer.json. Copy them from "
            "where the model came from."
        )
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def hub_clip_tokenizer(repository: str) -> CLIPTokenizer | None:
    """The tokenizer of a hub repository, fetched when it is not in the cache; None where it cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return read_clip_tokenizer(Path(snapshot_download(repository, allow_patterns=list(FILES))))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ModelError):
        return None
