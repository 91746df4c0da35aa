"""What one must know to use an exported file: the words of prompts, what is not in it, and what it does not fit."""

from collections.abc import Sequence
from pathlib import Path

from pcs_ext.artifact import ArtifactData
from pcs_ext.image.export.metadata import trigger_phrase
from pcs_ext.image.export.modules import learned_tokens


def advice(data: ArtifactData, format: str, written: Sequence[Path]) -> list[str]:
    """Sentences for the user of another tool, who has no `{subject}` there.

    Args:
        data: the artifact.
        format: see `export_artifact`.
        written: the files or folders.
    """
    tokens = [token.placeholder for token in learned_tokens(data)]
    if format == "textual-inversion":
        files = ", ".join(path.stem for path in written)
        said = [
            f"prompts write {', '.join(tokens)} in diffusers, embedding:NAME in ComfyUI and NAME in A1111 and Forge, "
            f"where NAME is the file's ({files})"
        ]
    else:
        said = [f'prompts write "{trigger_phrase(data)}" where the subject goes']
        if tokens:
            said.append(
                f"learned words ({', '.join(tokens)}) cannot be in this format and must be exported, too: "
                "--format textual-inversion -o FOLDER"
            )
    if data.base_name == "toybox":
        said.append(
            "this subject was learned on toybox, the embedded demonstration model, and fits no other; for other tools "
            "learn it with --base and their model"
        )
    return said
