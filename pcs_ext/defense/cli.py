"""Commands of the defense plugin: parse, call, report. Heavy modules are imported inside the functions."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from pcs_ext.command_options import MACHINE, Machine, Output, console_reporter, print_json
from pcs_ext.errors import InputError

if TYPE_CHECKING:
    from pcs_ext.defense.verify import Verification, Verifications

FOUND = 6
"""Exit code of an audit or a verification that found something: neither success nor any kind of failure."""
_REASONS = 5
"""Photos that could not be compared, told with their reasons at most."""


def protect(
    photos: Positional[tuple[Path, ...]],
    output: Output,
    base: tuple[str, ...] = ("toybox",),
    noun: str = "person",
    recipe: str = "aspl",
    levels: float = 0.0,
    norm: Literal["", "linf", "l2", "perceptual"] = "",
    steps: int = 0,
    format: Literal["png", "webp", "jpeg"] = "png",
    quality: int = 95,
    metadata: Literal["clean", "all", "none"] = "clean",
    region: Literal["all", "mask", "faces", "subject"] = "all",
    faces: str = "",
    clean: Path | None = None,
    attack: str = "",
    encoder: Path | None = None,
    seed: int = 0,
    config: Path | None = None,
    machine: Machine = MACHINE,
    jsonl: Path | None = None,
) -> None:
    """Write copies of photos that diffusion models learn badly.

    The originals stay as they are.

    Args:
        photos: photo files, or one folder of them.
        output: folder for the protected photos, difference strips and report.json; run again to go on.
        base: model to protect against (hub id, diffusers folder, .safetensors file); several for ensembles.
        noun: what the photos show, one or two words: person, dog, ceramic mug.
        recipe: fast, balanced, strong, or aspl, fsmg, simac, advdm, mist...; a wrong name lists them all.
        levels: largest change of a sample in 8-bit levels; 0 takes the recipe's.
        norm: linf; l2, where levels are the root mean square; perceptual, less room in smooth places.
        steps: gradient steps in all; 0 takes the recipe's.
        format: png and webp are lossless; jpeg loses some of the protection, which the report measures.
        quality: lowest quality of jpeg.
        metadata: clean keeps dates, camera and exposure alone; all also places, names and texts of EXIF; none nothing.
        region: change only what is light in NAME_mask.png beside each photo, faces, or the noun as the base finds it.
        faces: who finds them, there and for face metrics of attacks: cascade or MODULE:FUNCTION of your own.
        clean: folder of other photos of the same subject, for surrogates to train on and attacks to be judged by.
        attack: quick, full or a plan as .json: train attackers, measure what they learn, write report.html.
        encoder: transformers folder of the image encoder that judges attacks; toybox has its own.
        seed: of everything random.
        config: a method as JSON instead of the recipe's own values.
        machine: where to run.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.defense.protect import Options
    from pcs_ext.defense.protect import protect as run

    options = Options(noun=noun, format=format, quality=quality, metadata=metadata, region=region, faces=faces,
                      clean=clean, seed=seed, **machine.loading)  # fmt: skip
    report = run(
        photos,
        output=output,
        recipe=recipe,
        base=base,
        levels=levels,
        steps=steps,
        norm=norm or None,
        config=config,
        options=options,
        attack=attack,
        encoder=encoder,
        reporter=console_reporter(jsonl),
    )
    for line in (*report.warnings, output / "report.json", output / "report.html"):
        sys.stdout.write(f"{line}\n")


def verify(
    files: Positional[tuple[Path, ...]], report: Path | None = None, original: Path | None = None, json: bool = False
) -> None:
    """Tell whether photos still carry their protection.

    Exit code 0: all do, as far as this can tell; 6: one is missing, has lost its perturbation or much of it,
    or never had one; 3: one
    could not be compared.

    Args:
        files: photos as they are now (they may have been renamed, recompressed or resized), or folders of them.
        report: report.json of the job, or its folder; empty: beside each file.
        original: the photo before protection, or the folder of all of them, if they were moved.
        json: print JSON instead of lines.
    """
    from pcs_ext.config_io import to_jsonable
    from pcs_ext.defense.verify import ALARMING, verify_all
    from pcs_ext.defense.verify import verify as run

    if len(files) == 1 and not files[0].is_dir():
        found = run(files[0], report=report, original=original)
        if json:
            print_json(to_jsonable(found))
        else:
            sys.stdout.write(_verdict_lines(found))
        return _end(FOUND if found.verdict in ALARMING else 0)
    all_of_them = verify_all(files, report=report, original=original, reporter=console_reporter())
    if json:
        print_json(to_jsonable(all_of_them))
    else:
        sys.stdout.write(_summary(all_of_them))
    return _end(FOUND if all_of_them.alarming else InputError.exit_code if all_of_them.not_compared else 0)


def _end(code: int) -> None:
    if code:
        sys.exit(code)


def _verdict_lines(found: "Verification") -> str:
    """What is told of one photo."""
    text = _line(found) + "\n"
    if found.budget is not None:
        within = "within" if found.budget.within else "above"
        text += f"largest change against the original {found.budget.max_levels:g} levels, {within} the budget\n"
    return text


def _line(found: "Verification") -> str:
    if found.verdict == "unprotected":
        return f"unprotected: nothing was changed in {found.output.name} when it was written ({found.file})"
    return f"{found.verdict}: {found.kept:.0%} of the perturbation of {found.output.name} is in {found.file}"


def _summary(found: "Verifications") -> str:
    """Every photo that is not as it was written, and how many are."""
    lines = [_line(one) for one in found.photos if one.verdict != "intact"]
    lines += [f"missing: {path}" for path in found.missing]
    lines += [f"not compared: {reason}" for reason in list(found.not_compared.values())[:_REASONS]]
    if len(found.not_compared) > _REASONS:
        lines.append(f"not compared: {len(found.not_compared) - _REASONS} more")
    counts = [f"{count} {verdict}" for verdict, count in found.verdicts.items()]
    counts += [f"{len(found.missing)} missing"] if found.missing else []
    counts += [f"{len(found.not_compared)} not compared"] if found.not_compared else []
    return "\n".join([*lines, ", ".join(counts)]) + "\n"


def censor(
    artifact: Positional[Path],
    output: Output,
    triggers: tuple[str, ...] = (),
    target: str = "mug",
    picture: Path | None = None,
    recipe: str = "censor-predictions",
    base: str = "",
    encoder: Path | None = None,
    steps: int = 0,
    seed: int = 0,
    machine: Machine = MACHINE,
    jsonl: Path | None = None,
) -> None:
    """Make a learned subject vanish where listed words are asked.

    Writes a copy that paints something harmless where a trigger stands in the prompt; interrupted, the same command
    goes on.

    Args:
        artifact: folder written by learn; it stays as it is.
        output: new folder for the censored subject.
        triggers: words that set it off; name synonyms, too.
        target: what is painted then, a noun or a caption that the base knows.
        picture: a file that is painted then; without one, the base paints the target once.
        recipe: censor-predictions, censor-text (cheap, no one picture) or censor-pictures (as published).
        base: model to censor on; empty: the one the subject was learned on.
        encoder: transformers folder of the image encoder that judges the result; toybox has its own.
        steps: of training; 0 takes the recipe's.
        seed: of everything random.
        machine: where to run.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.defense.censorship.command import censor_folder

    report = censor_folder(
        artifact,
        output,
        triggers=triggers,
        target=target,
        picture=picture,
        recipe=recipe,
        base=base,
        encoder=encoder,
        steps=steps,
        seed=seed,
        **machine.loading,
        reporter=console_reporter(jsonl),
    )
    sys.stdout.write(
        f"triggers give the target in {report.trigger_success:.0%} of {report.triggered_pictures} pictures "
        f"({report.before:.0%} before), other prompts in {report.false_alarms:.0%} of {report.ordinary_pictures} "
        f"({report.false_alarms_before:.0%} before), whose fidelity is {report.fidelity:.1%}\n"
    )
    for word, share in report.per_trigger.items():
        sys.stdout.write(f"  {word}: {share:.0%}\n")
    sys.stdout.write(f"Whoever holds the file can train this away or remove it; it stops casual misuse.\n{output}\n")


def audit(
    file: Positional[Path],
    base: str = "",
    noun: str = "",
    words: tuple[str, ...] = (),
    json: bool = False,
    machine: Machine = MACHINE,
    jsonl: Path | None = None,
) -> None:
    """Inspect an embedding, a LoRA or a learned subject from a stranger: is it what it says, do words switch it?

    Nothing in the file is run or unpickled. Exit code 0: nothing was found, which is no proof that nothing is there;
    6: something was, see the reasons; 3: it could not be read.

    Args:
        file: .safetensors file, or folder of a learned subject or a LoRA.
        base: model it is meant for, to probe it on; empty: it is only read. What the file names is never loaded.
        noun: what it is said to show, where the file does not say so itself: dog, ceramic mug.
        words: more words to try beside the subject than the base's most frequent ones.
        json: print JSON instead of lines.
        machine: where to run.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.config_io import to_jsonable
    from pcs_ext.defense.audit.command import audit as run
    from pcs_ext.defense.audit.verdict import lines

    report = run(
        file,
        base=base,
        noun=noun,
        words=words,
        **machine.loading,
        reporter=console_reporter(jsonl),
    )
    if json:
        print_json(to_jsonable(report))
    else:
        sys.stdout.write("\n".join(lines(report)) + "\n")
    if report.verdict == "suspicious":
        sys.exit(FOUND)
