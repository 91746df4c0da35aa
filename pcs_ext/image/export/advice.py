"""What one must know to use an exported file: the words of prompts, what is not in it, and what it does not fit."""

from collections.abc import Sequence
from pathlib import Path

from pcs_ext.artifact import ArtifactData
from pcs_ext.image.adapters import EmbeddingConfig
from pcs_ext.image.export.metadata import trigger_phrase
from pcs_ext.image.export.modules import EXPRESSIBLE, LEFT_OUT, adapter_configs, learned_tokens, method_of


def advice(data: ArtifactData, format: str, written: Sequence[Path]) -> list[str]:
    """Sentences for the user of another tool, who has no `{subject}` there.

    Args:
        data: the artifact.
        format: see `export_artifact`.
        written: the files or folders.
    """
    tokens = [token.placeholder for token in learned_tokens(data)]
    if format == "textual-inversion":
        said = [*_of_words(data, tokens, written), *_of_what_is_missing(data)]
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


def _of_words(data: ArtifactData, tokens: Sequence[str], written: Sequence[Path]) -> list[str]:
    away = str(data.concept.get("negative", ""))
    files, asked = ", ".join(path.stem for path in written), ", ".join(token for token in tokens if token != away)
    said = [
        f"prompts write {asked} in diffusers, embedding:NAME in ComfyUI and NAME in A1111 and Forge, where NAME is the "
        f"file's ({files})"
    ]
    return [*said, f"{away} belongs in the negative prompt"] if away in tokens else said


def _of_what_is_missing(data: ArtifactData) -> list[str]:
    """Trained layers, which a file of words cannot hold."""
    configs = adapter_configs(data).values()
    methods = {method_of(config) for config in configs if not isinstance(config, (EmbeddingConfig, *LEFT_OUT))}
    if not methods:
        return []
    able = [format for format, held in EXPRESSIBLE.items() if methods <= set(held.split(", "))]
    way = (
        f"export them beside it as {' or '.join(able)}"
        if able
        else "no format holds them: without pcs-ext, pictures will be less like the subject"
    )
    return [f"the words alone are in it; what else was learned ({', '.join(sorted(methods))}) is not: {way}"]
