"""The folder that threestudio picks up from its `custom/`."""

from importlib import resources
from pathlib import Path

from pcs_ext.config_io import atomic_write_text
from pcs_ext.errors import InputError

_INIT = '''"""Registers the parts of pcs_ext; written by `python -m pcs_ext.threed.studios`."""

from pcs_ext.threed.studios.threestudio_parts import register_parts

register_parts()
'''


def install(checkout: Path) -> Path:
    """Write `custom/pcs_ext` with its `__init__.py` and `configs/*.yaml`; files of the same names are replaced.

    Args:
        checkout: folder of a threestudio checkout.

    Returns:
        the folder written.

    Raises:
        InputError: it is not a checkout of threestudio.
    """
    if not (checkout / "launch.py").is_file() or not (checkout / "threestudio").is_dir():
        raise InputError(f"{checkout} is no checkout of threestudio: expected launch.py and threestudio/ in it.")
    folder = checkout / "custom" / "pcs_ext"
    atomic_write_text(folder / "__init__.py", _INIT)
    for name, text in yaml_recipes().items():
        atomic_write_text(folder / "configs" / name, text)
    return folder


def yaml_recipes() -> dict[str, str]:
    """File name -> text of the recipes for threestudio."""
    folder = resources.files("pcs_ext.threed.studios").joinpath("yaml")
    return {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".yaml")}
