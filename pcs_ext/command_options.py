"""What commands have in common: groups of flags, the reporter of a terminal, checks of outputs, printed results.

A group is a frozen dataclass; a command takes it as one argument, `machine: Machine = MACHINE`, and its fields appear
as flags without a prefix (`--device`, `--precision`), with the help that is written here once. Heavy modules are
imported inside the functions: `pcs-ext --help` imports this one.
"""

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from pcs_ext.errors import UsageError

Device = Literal["auto", "cuda", "mps", "cpu"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Output = Annotated[Path, arg(aliases=["-o"])]
_SEEDS = (0, 1, 2, 3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Machine:
    """Where and how a base is loaded."""

    device: Device = "auto"
    """where to run."""
    precision: Precision = "auto"
    """of the weights."""

    @property
    def loading(self) -> dict[str, Any]:
        """The keyword arguments of `load_backbone` and of what calls it."""
        return {"device": self.device, "precision": self.precision}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pictures:
    """Which pictures are made, and where they go."""

    output: Output = Path("images")
    """folder for the PNG files; existing files are kept, new ones get the next number. NAME.png for one image."""
    seeds: tuple[int, ...] = _SEEDS
    """one image per prompt and seed."""

    def seeds_for(self, prompts: Sequence[str]) -> tuple[int, ...]:
        """The seeds; of those nobody chose, NAME.png takes the first.

        Raises:
            UsageError: NAME.png for several images, or one that is there already.
        """
        if self.output.suffix.lower() != ".png" or self.output.is_dir():
            return self.seeds
        seeds = self.seeds[:1] if self.seeds == _SEEDS else self.seeds
        if len(prompts) * len(seeds) != 1:
            raise UsageError(
                f"--output {self.output} is one image, and {len(prompts)} prompts with {len(seeds)} seeds make "
                f"{len(prompts) * len(seeds)}; name a folder."
            )
        if self.output.exists():
            raise UsageError(f"{self.output} exists already and images are never replaced; choose another --output.")
        return seeds


@dataclasses.dataclass(frozen=True, kw_only=True)
class _References:
    """Photos that are shown to the base beside the prompts, and what shows them."""

    reference: tuple[Path, ...] = ()
    """photos of what the images shall show, or in whose look; nothing is learned, several count together."""
    reference_scale: float = 1.0
    """strength of the photos: 1 as trained, less keeps more of the prompt, 0 is the plain base."""
    reference_adapter: str = ""
    """folder, .safetensors file, or owner/name/path/file.safetensors on the hub; toybox has its own."""
    reference_encoder: str = ""
    """folder or hub id of its image encoder, where it does not lie beside the adapter."""
    reference_noun: tuple[str, ...] = ()
    """the prompt's word for what the photos show, for adapters that ask: one for all, or one for each photo."""
    reference_box: tuple[str, ...] = ()
    """where each photo's subject shall stand, for adapters that can be told: left,top,right,bottom, 0,0,0.5,1 being the
    left half."""
    reference_turn: tuple[str, ...] = ()
    """how far around each photo's subject to look from, for adapters that can be told: azimuth,elevation in degrees."""
    reference_map: tuple[str, ...] = ()
    """condition maps of what is drawn, for adapters that read some: depth=FILE, edges=FILE, edges-of=PHOTO,
    landmarks-of=PHOTO."""
    reference_style: Path | None = None
    """a picture in whose look to draw, for adapters that read one."""

    @property
    def asked(self) -> dict[str, Any]:
        """The keyword arguments of `pcs_ext.image.reference.reference.generate`."""
        return {
            "references": self.reference, "scale": self.reference_scale, "adapter": self.reference_adapter,
            "encoder": self.reference_encoder, "nouns": self.reference_noun, "boxes": self.reference_box,
            "turns": self.reference_turn,
            "maps": self.reference_map, "style": self.reference_style,
        }  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Picture:
    """One picture that is made of another one."""

    output: Output
    """the PNG to write, as large as the picture."""
    overwrite: bool = False
    """replace an existing output."""

    def check(self, *originals: Path) -> None:
        """See that the output can be written and is none of the originals.

        Raises:
            UsageError: it is no PNG, an original, or there already.
        """
        output = self.output
        if output.suffix.lower() != ".png":
            raise UsageError(f"--output is {output}; expected a name that ends in .png, which keeps every pixel.")
        if output.resolve() in [original.resolve() for original in originals]:
            raise UsageError(
                f"--output {output} is the picture itself; originals are never touched, choose another name."
            )
        if output.exists() and not self.overwrite:
            raise UsageError(f"{output} exists already; choose another --output or pass --overwrite to replace it.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sampling:
    """How a picture is sampled, where it differs from what the method or recipe says."""

    steps: int = 0
    """denoising steps; 0 takes the method's."""
    guidance_scale: float = 0.0
    """strength of the prompt, 1 = off; 0 takes the method's."""

    @property
    def asked(self) -> dict[str, Any]:
        """The keyword arguments of `resolve_edit`."""
        return {"steps": self.steps, "guidance_scale": self.guidance_scale}


Machine = Annotated[_Machine, arg(name="")]
Pictures = Annotated[_Pictures, arg(name="")]
Picture = Annotated[_Picture, arg(name="")]
References = Annotated[_References, arg(name="")]
Sampling = Annotated[_Sampling, arg(name="")]
MACHINE, PICTURES, REFERENCES, SAMPLING = _Machine(), _Pictures(), _References(), _Sampling()
"""The groups as they are when no flag is given: defaults of commands."""


def hush_libraries() -> None:
    """Keep the libraries' own progress bars off the terminal."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def console_reporter(jsonl: Path | None = None):
    """A console reporter; the libraries' own progress bars would only stand in its way.

    Args:
        jsonl: file that gets every event as a JSON line, too.
    """
    hush_libraries()
    from pcs_ext.reporter import ConsoleReporter, JsonlReporter, TeeReporter

    console = ConsoleReporter()
    return console if jsonl is None else TeeReporter(console, JsonlReporter(jsonl))


def print_paths(paths: Iterable[Path]) -> None:
    """What a command made, a line each: the part of its output that scripts read."""
    for path in paths:
        sys.stdout.write(f"{path}\n")


def print_json(value: object) -> None:
    """A value as JSON on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
