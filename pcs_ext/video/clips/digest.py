"""What a clip's or a picture's files hold, in one word: whether something was made of the same ones."""

from pathlib import Path

from pcs_ext.config_io import config_hash, file_sha256
from pcs_ext.errors import InputError


def clip_digest(path: Path) -> str:
    """Of a file, its sha256; of a folder, a hash of its files and their names.

    Raises:
        InputError: nothing is there.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; expected a video, an animation, a picture or a folder of frames.")
    if path.is_file():
        return file_sha256(path)
    return config_hash({file.name: file_sha256(file) for file in sorted(path.iterdir()) if file.is_file()})
