"""Programs on prompts: change what a backbone's `encode_prompt` returns, and leave no trace."""

from collections.abc import Callable, Sequence
from typing import Protocol

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.types import Conditioning


class Encode(Protocol):
    """`AbstractBackbone.encode_prompt`, or it with programs around it."""

    def __call__(self, prompts: Sequence[str], *, size: tuple[int, int] | None = None) -> Conditioning: ...


class PromptProgram(Protocol):
    """What stands around an encoder: it may change prompts before and conditioning after."""

    def __call__(self, encode: Encode, prompts: Sequence[str], size: tuple[int, int] | None) -> Conditioning:
        """Conditioning of the prompts; `encode` is what stood there before. Differentiable."""
        ...


def add_program(
    backbone: AbstractBackbone, name: str, program: PromptProgram, *, reads: Callable[[str], str] | None = None
) -> None:
    """Put a program around `backbone.encode_prompt`, outside of those that are there.

    Args:
        backbone: any.
        name: by which it is removed; unique.
        program: what to put.
        reads: `text -> what of it is encoded`, for programs that take marks out of prompts; None: all of it.
    """
    encoder = vars(backbone).get("encode_prompt")
    if not isinstance(encoder, _Programmed):
        encoder = _Programmed(backbone.encode_prompt, shadowed=encoder)
        vars(backbone)["encode_prompt"] = encoder
    assert name not in encoder.programs, f"a prompt program named {name!r} is there already"
    encoder.programs[name] = program
    if reads is not None:
        encoder.reads[name] = reads


def remove_program(backbone: AbstractBackbone, name: str) -> None:
    """Take a program out, wherever it stands; after the last, the backbone's own method is back."""
    encoder = vars(backbone)["encode_prompt"]
    assert isinstance(encoder, _Programmed), "encode_prompt was replaced behind the programs' back"
    del encoder.programs[name]
    encoder.reads.pop(name, None)
    if encoder.programs:
        return
    del vars(backbone)["encode_prompt"]
    if encoder.shadowed is not None:
        vars(backbone)["encode_prompt"] = encoder.shadowed


def find_program(backbone: AbstractBackbone, name: str) -> PromptProgram | None:
    """The program of that name, if it is there."""
    encoder = vars(backbone).get("encode_prompt")
    return encoder.programs.get(name) if isinstance(encoder, _Programmed) else None


def read_text(backbone: AbstractBackbone, text: str) -> str:
    """What the text encoder reads of a prompt: without the marks that programs take out of it."""
    encoder = vars(backbone).get("encode_prompt")
    for reads in reversed(encoder.reads.values()) if isinstance(encoder, _Programmed) else ():
        text = reads(text)
    return text


class _Programmed:
    """`encode_prompt` with programs around it, the first one innermost."""

    def __init__(self, original: Encode, *, shadowed: Encode | None) -> None:
        self.original, self.shadowed = original, shadowed
        self.programs: dict[str, PromptProgram] = {}
        self.reads: dict[str, Callable[[str], str]] = {}

    def __call__(self, prompts: Sequence[str], *, size: tuple[int, int] | None = None) -> Conditioning:
        encode = self.original
        for program in self.programs.values():
            encode = _around(program, encode)
        return encode(prompts, size=size)


def _around(program: PromptProgram, inner: Encode) -> Encode:
    def encode(prompts: Sequence[str], *, size: tuple[int, int] | None = None) -> Conditioning:
        return program(inner, prompts, size)

    return encode
