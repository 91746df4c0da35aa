"""`python -m pcs_ext.threed.studios CHECKOUT` puts the plug-in into a checkout of threestudio."""

import argparse
import sys
from pathlib import Path

from pcs_ext.errors import PcsError
from pcs_ext.threed.studios.plugin_folder import install


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m pcs_ext.threed.studios", description=__doc__)
    parser.add_argument("checkout", type=Path, help="folder of a threestudio checkout (it has launch.py)")
    try:
        sys.stdout.write(f"{install(parser.parse_args(arguments).checkout)}\n")
    except PcsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
