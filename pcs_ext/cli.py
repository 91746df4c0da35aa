"""The command line: the one module that knows every plugin, and imports each only when its verb is called."""

import errno
import io
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

from pcs_ext import __version__
from pcs_ext.defense import cli as defense_cli
from pcs_ext.errors import InputError, Interrupted, PcsError, ResourceError, UsageError
from pcs_ext.help_examples import EXAMPLES as EXAMPLES_OF
from pcs_ext.image import (
    classes_cli,
    continual_cli,
    edits_cli,
    merge_cli,
    panels_cli,
    reference_cli,
    reference_space_cli,
    steered_cli,
)
from pcs_ext.image import cli as image_cli
from pcs_ext.svg import cli as svg_cli
from pcs_ext.svg.panorama import cli as panorama_cli
from pcs_ext.threed import avatar_cli
from pcs_ext.threed import cli as threed_cli
from pcs_ext.verbs import chosen, examples, explained, group, group_overview, overview, words_first
from pcs_ext.video import cli as video_cli

EXAMPLES = """
Examples
  pcs-ext learn PHOTOS --noun dog -o rex
  pcs-ext image rex "a photo of {subject} on the beach"
  pcs-ext video learn-motion CLIP.mp4 -o spin
  pcs-ext video make rex --motion spin "a photo of {subject} in the snow"
  pcs-ext 3d make rex "a photo of {subject}" --photos PHOTOS -o rex.glb
  pcs-ext svg customize LOGO.svg "a red {subject}" --noun dog -o OUT.svg
  pcs-ext protect PHOTOS --noun person -o OUT

Without --base commands run on toybox, a small demonstration model of toys that
is embedded. For real photos add --base with your model: a hub id, a diffusers
folder or a .safetensors file of Stable Diffusion 1.x, 2.x or SDXL.
pcs-ext COMMAND --help shows all settings of a command, with examples.
Exit codes: 0 done, 2 wrong usage, 3 unusable input, 4 not enough resources,
5 interrupted (the same command goes on), 6 audit or verify found something."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENOMEM)


def commands() -> dict[str, Callable[..., Any]]:
    """Verb -> function; the functions' signatures are the flags. "3d make" is the verb `make` of the group `3d`."""
    from pcs_ext import commands as general

    return {
        "learn": image_cli.learn,
        "image": image_cli.image,
        "image together": image_cli.together,
        "image swap": edits_cli.swap,
        "image layout": edits_cli.layout,
        "image insert": edits_cli.insert,
        "image follow": edits_cli.follow,
        "image heed": edits_cli.heed,
        "image style": edits_cli.style,
        "image restyle": edits_cli.restyle,
        "image diptych": panels_cli.diptych,
        "image try-on": panels_cli.try_on,
        "image guide": steered_cli.guide,
        "image view": steered_cli.view,
        "reference learn": reference_cli.learn,
        "reference tune": reference_cli.tune,
        "reference predict": reference_cli.predict,
        "reference teach": reference_cli.teach,
        "reference retrieve": reference_cli.retrieve,
        "reference invent": reference_cli.invent,
        "reference inpaint": reference_cli.inpaint,
        "reference place": reference_cli.place,
        "reference style-space": reference_space_cli.style_space,
        "reference restyle": reference_space_cli.restyle,
        "reference vary": reference_space_cli.vary,
        "reference landmarks": reference_space_cli.landmarks,
        "reference systems": reference_cli.systems,
        "evaluate": general.evaluate,
        "export": image_cli.export,
        "merge": merge_cli.merge,
        "continual add": continual_cli.add,
        "continual image": continual_cli.image,
        "continual report": continual_cli.report,
        "classes learn": classes_cli.learn,
        "classes read": classes_cli.read,
        "classes report": classes_cli.report,
        "tokens": image_cli.tokens,
        "recipes": image_cli.recipes,
        "protect": defense_cli.protect,
        "verify": defense_cli.verify,
        "svg customize": svg_cli.customize,
        "svg make": svg_cli.make,
        "svg vectorize": svg_cli.vectorize,
        "panorama make": panorama_cli.make,
        "panorama view": panorama_cli.view,
        "3d make": threed_cli.make,
        "3d texture": threed_cli.texture,
        "3d edit": threed_cli.edit,
        "3d animate": general.animate,
        "3d animate-photo": general.animate_photo,
        "3d learn-poses": avatar_cli.learn_poses,
        "3d avatar": avatar_cli.avatar,
        "3d learn-generator": avatar_cli.learn_generator,
        "3d generate": avatar_cli.generate,
        "3d views": threed_cli.views,
        "3d render": threed_cli.render,
        "3d export": threed_cli.export,
        "video learn-motion": video_cli.learn_motion,
        "video learn": video_cli.learn,
        "video learn-reference": video_cli.learn_reference,
        "video make": video_cli.make,
        "video edit": video_cli.edit,
        "video export": video_cli.export,
        "video recipes": video_cli.recipes,
        "censor": defense_cli.censor,
        "audit": defense_cli.audit,
        "systems": general.systems,
        "doctor": general.doctor,
        "demo": general.demo,
    }


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `pcs-ext`. Users' mistakes end in one message and an exit code, never in a traceback."""
    _print_anything()
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except PcsError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail(
            "interrupted; what was saved by then is kept. The same command goes on from there, or begins anew.",
            Interrupted.exit_code,
        )
    except BrokenPipeError:
        sys.exit(0)
    except UnicodeEncodeError as error:
        around = error.object[max(0, error.start - 20) : error.end + 10]
        # Bytes of the command line that are no text reach Python as surrogates; anything else is our mistake.
        if not any("\ud800" <= letter <= "\udfff" for letter in around):
            raise
        _fail(f"{around!a} has bytes that are no UTF-8 text; expected words, write them anew.", UsageError.exit_code)
    except OSError as error:
        if error.filename is None and error.errno not in _NO_ROOM:
            raise
        _fail(*_of_system(error))
    except (MemoryError, RuntimeError) as error:
        if not _of_memory(error):
            raise
        told = f" ({str(error).splitlines()[0]})" if str(error) else ""
        _fail(
            f"out of memory{told}. Ask for fewer or smaller pictures at a time, for another --device or --precision, "
            "or take a smaller base.",
            ResourceError.exit_code,
        )


def _print_anything() -> None:
    """Let output be written whatever letters the terminal or the file knows: names of files are any bytes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if stream.encoding.lower() == "utf-8" else "backslashreplace")


def _of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether memory ran out. PyTorch has an error class for devices alone; its CPU allocator says so in words."""
    named = type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, MemoryError) or named or "can't allocate memory" in str(error)


def _run(arguments: list[str]) -> None:
    verbs = commands()
    first = arguments[0] if arguments else ""
    width = min(shutil.get_terminal_size().columns, 100)
    if first == "help":
        arguments = [*arguments[1:], "--help"]
        first = arguments[0]
    if first in ("", "-h", "--help"):
        bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        return _show(overview(verbs, EXAMPLES, width=width, bold=bold), asked=bool(first))
    if first in ("-V", "--version"):
        return _show(f"pcs-ext {__version__}\n", asked=True)
    if first not in verbs and group(first, verbs) and arguments[1:] in ([], ["-h"], ["--help"]):
        return _show(group_overview(first, verbs, width=width), asked=len(arguments) > 1)
    verb, rest = chosen(arguments, verbs)
    rest = words_first(rest, verbs[verb])
    import tyro

    from pcs_ext.heap import keep_freed_memory

    keep_freed_memory()
    try:
        tyro.cli(
            explained(verbs[verb]),
            prog=f"pcs-ext {verb}",
            args=rest,
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone, tyro.conf.PositionalMetavarFromFieldName),
        )
    except SystemExit as end:
        if end.code == 0 and {"-h", "--help"} & set(rest):
            sys.stdout.write(examples(EXAMPLES_OF.get(verb, ())))
        raise


def _show(text: str, *, asked: bool) -> None:
    """Help that was asked for is output; help for a command that is not whole is a mistake's message."""
    if asked:
        sys.stdout.write(text)
        return
    sys.stderr.write(text)
    sys.exit(UsageError.exit_code)


def _of_system(error: OSError) -> tuple[str, int]:
    """What the system refused, in words, and whose fault it is."""
    where = f" {error.filename}" if error.filename is not None else ""
    code = ResourceError.exit_code if error.errno in _NO_ROOM else InputError.exit_code
    return f"cannot use{where}: {(error.strerror or str(error)).lower()}. Nothing there was changed.", code


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"pcs-ext: {message}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
