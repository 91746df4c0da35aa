"""CLIP's tokenizer from a folder or the hub cache; files that are missing are an error."""

from pathlib import Path

from transformers import CLIPTokenizer

from pcs_ext.errors import ModelError


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


def cached_clip_tokenizer(repository: str, subfolder: str = "") -> CLIPTokenizer | None:
    """The tokenizer of a hub repository that was downloaded before; None where it was not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot = Path(snapshot_download(repository, local_files_only=True))
        return read_clip_tokenizer(snapshot / subfolder)
    except (LocalEntryNotFoundError, ModelError):
        return None
