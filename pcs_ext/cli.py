"""The command line: the one module that knows every plugin, and imports each only when its verb is called."""

import sys
from collections.abc import Callable, Collection
from typing import Any

from pcs_ext.defense import cli as defense_cli
from pcs_ext.errors import Interrupted, PcsError, UsageError
from pcs_ext.image import cli as image_cli
from pcs_ext.image import continual_cli
from pcs_ext.svg import cli as svg_cli
from pcs_ext.svg.panorama import cli as panorama_cli

DESCRIPTION = """Teach a diffusion model your subject once; use it in images, video, 3D, vector art and panoramas.

  pcs-ext learn PHOTOS --noun dog -o rex         learn a subject from a folder of photos
  pcs-ext image rex "a photo of {subject} on the beach"
  pcs-ext protect PHOTOS -o OUT                  copies that models learn badly
  pcs-ext svg customize LOGO.svg "a red {subject}" --noun dog -o OUT.svg    a drawing anew, its layers kept
  pcs-ext svg vectorize PICTURE -o OUT.svg       a picture as layers of paths
  pcs-ext panorama make PROMPT -o OUT.jpg        a 360 degree picture and a page to look around in
  pcs-ext COMMAND --help                         all settings of one command

Exit codes: 0 done, 2 wrong usage, 3 unusable input, 4 not enough resources, 5 interrupted (run again to resume)."""


def commands() -> dict[str, Callable[..., Any]]:
    """Verb -> function; the functions' signatures are the flags. "3d make" is the verb `make` of the group `3d`."""
    from pcs_ext import commands as general

    return {
        "learn": image_cli.learn,
        "image": image_cli.image,
        "evaluate": general.evaluate,
        "export": image_cli.export,
        "continual add": continual_cli.add,
        "continual image": continual_cli.image,
        "continual report": continual_cli.report,
        "tokens": image_cli.tokens,
        "recipes": image_cli.recipes,
        "protect": defense_cli.protect,
        "verify": defense_cli.verify,
        "svg customize": svg_cli.customize,
        "svg make": svg_cli.make,
        "svg vectorize": svg_cli.vectorize,
        "panorama make": panorama_cli.make,
        "panorama view": panorama_cli.view,
        "censor": defense_cli.censor,
        "systems": general.systems,
        "doctor": general.doctor,
        "demo": general.demo,
    }


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `pcs-ext`. Users' mistakes end in one message and an exit code, never in a traceback."""
    import tyro

    try:
        verbs = commands()
        tyro.extras.subcommand_cli_from_dict(
            verbs,
            prog="pcs-ext",
            description=DESCRIPTION,
            args=grouped(sys.argv[1:] if arguments is None else arguments, verbs),
            sort_subcommands=False,
            config=(tyro.conf.FlagConversionOff, tyro.conf.OmitArgPrefixes),
        )
    except PcsError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("Interrupted; the same command goes on from what was saved.", Interrupted.exit_code)
    except BrokenPipeError:
        sys.exit(0)


def grouped(arguments: list[str], verbs: Collection[str]) -> list[str]:
    """Arguments with a group and its verb as one word; a group may be a verb of its own, too.

    Raises:
        UsageError: a group without a verb of it.
    """
    first, second = [*arguments, "", ""][:2]
    group = [verb.split()[1] for verb in verbs if verb.startswith(f"{first} ")]
    if second in group:
        return [f"{first} {second}", *arguments[2:]]
    if group and first not in verbs:
        raise UsageError(f"{first} takes one of {', '.join(group)} next, not {second!r}.")
    return arguments


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"pcs-ext: {message}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
