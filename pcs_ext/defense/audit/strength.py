"""How strongly loaders apply a file's layers, where not the tensors but settings beside them say so.

peft's `adapter_config.json` and diffusers' `lora_adapter_metadata` (in the header) hold the same settings. Both are
obeyed by their loaders, so a change that is tiny in its tensors may be large in a model, and the other way round.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from pcs_ext.config_io import read_json
from pcs_ext.defense.audit.foreign import told
from pcs_ext.errors import ArtifactError, ConfigError

Strength: TypeAlias = Callable[[str, str, int], float | None]
"""(component, module path, rank of the tensors) -> what the product is multiplied by; None: nothing says so."""
HEADER = "lora_adapter_metadata"
APART = 16.0
"""A header that weakens layers by more than this makes two files of one: programs that do not read it (A1111, ComfyUI)
apply the layers so many times as strongly. One audit cannot stand for both."""
_PREFIXES = {"denoiser": "unet", "text_encoder": "text_encoder", "text_encoder_2": "text_encoder_2"}
_MAX_JSON_BYTES = 1 << 20
_MOST = 1e12
"""No alpha is larger: such numbers only overflow."""
_PATTERN = re.compile(r"\^?(?:[\w-]|\\?\.)*(?:\.\*)?(?:[\w-]|\\?\.)*")
"""Module names, and at most one wildcard: what is matched in short time whatever a stranger writes."""
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "layer_replication": (None, [], {}),
    "use_qalora": (None, False),
    "init_lora_weights": (None, True, False, "gaussian"),
}
"""Settings that change what the layers do, with the values that do not. Others bring tensors of their own, which are
named as unread."""
_LONGEST = 300
"""Characters of a module's path that patterns are tried on."""


def of_folder(file: Path) -> Strength | None:
    """What `adapter_config.json` beside peft's `adapter_model.safetensors` says; None: there is none.

    Raises:
        ArtifactError: it is no such configuration, or sets what an audit cannot compute.
    """
    place = file.parent / "adapter_config.json"
    if file.name != "adapter_model.safetensors" or not place.is_file():
        return None
    if place.stat().st_size > _MAX_JSON_BYTES:
        raise ArtifactError(f"{place} has {place.stat().st_size} bytes; expected at most {_MAX_JSON_BYTES}.")
    try:
        settings = read_json(place)
    except ConfigError as error:
        raise ArtifactError(str(error)) from None
    return strength_of({"": settings}, str(place))


def of_header(header: Mapping[str, str], file: Path) -> Strength | None:
    """What diffusers reads from the header of a LoRA file; None: nothing.

    Raises:
        ArtifactError: it is no such configuration, or sets what an audit cannot compute.
    """
    if HEADER not in header:
        return None
    where = f"{HEADER} in the header of {file}"
    try:
        data = json.loads(header[HEADER])
    except (ValueError, RecursionError):
        raise ArtifactError(f"{where} is not JSON, so the strength of its layers cannot be told.") from None
    if not isinstance(data, dict):
        raise ArtifactError(f"{where} is not a table of settings, so the strength of its layers cannot be told.")
    parts: dict[str, dict[str, Any]] = {}
    for component, prefix in _PREFIXES.items():
        own = {key.removeprefix(f"{prefix}."): v for key, v in data.items() if key.startswith(f"{prefix}.")}
        if own:
            parts[component] = own
    said = strength_of(parts, where)

    def strength(component: str, name: str, rank: int) -> float | None:
        scale = said(component, name, rank)
        if scale is not None and abs(scale) < 1 / APART:
            raise ArtifactError(
                f"{where} weakens {told(name)} to {scale:.2g} of its tensors: programs that read it and programs that "
                "do not apply it very differently, and one audit cannot stand for both. Have it saved with alpha = "
                "rank."
            )
        return scale

    return strength


def strength_of(parts: Mapping[str, Any], where: str) -> Strength:
    """The rule that peft applies: `lora_alpha / r` (or over its root), with what `alpha_pattern` and `rank_pattern` say
    of a module in its place.

    Args:
        parts: settings by component; "" holds for all of them.
        where: names them in messages.

    Raises:
        ArtifactError: they are none, or set what an audit cannot compute; also from the rule itself.
    """
    rules = {component: _rule(settings, where) for component, settings in parts.items()}

    def strength(component: str, name: str, rank: int) -> float | None:
        rule = rules.get(component, rules.get(""))
        return None if rule is None else rule.scale(name, rank)

    return strength


@dataclasses.dataclass(frozen=True)
class _Rule:
    """The settings of one component."""

    where: str
    alpha: float
    rank: float
    alphas: list[tuple[re.Pattern[str], float]]
    ranks: list[tuple[re.Pattern[str], float]]
    root: bool

    def scale(self, name: str, found: int) -> float:
        """What a module's product is multiplied by; `found` is the rank of its tensors."""
        if (self.alphas or self.ranks) and "." not in name and re.search(r"_\d+_", name):
            raise ArtifactError(
                f"{self.where} has patterns for names with dots, and the layers have kohya's names without; their "
                "strength depends on who converts them."
            )
        # Newer libraries leave the level `text_model` out of the names that patterns are matched with.
        spellings = (name[:_LONGEST], name[:_LONGEST].removeprefix("text_model."))
        pairs = [(_matched(self.alphas, one, self.alpha), _matched(self.ranks, one, self.rank)) for one in spellings]
        first, second = (alpha / (rank**0.5 if self.root else rank) for alpha, rank in pairs)
        ranks = {rank for _, rank in pairs}
        if not math.isclose(first, second, rel_tol=1e-6) or found not in ranks or len(name) > _LONGEST:
            raise ArtifactError(
                f"{self.where} does not fit {told(name)} of rank {found} (alpha and rank there: {pairs[0]}, "
                f"{pairs[1]}), so its strength cannot be told."
            )
        return first


def _rule(settings: Any, where: str) -> _Rule:
    if not isinstance(settings, dict):
        raise ArtifactError(f"{where}: expected a table of settings, got {type(settings).__name__}.")
    odd = [key for key, neutral in _NEUTRAL.items() if key in settings and settings[key] not in neutral]
    if odd:
        raise ArtifactError(f"{where} sets {odd[0]}, which an audit cannot compute; what the file does is not told.")
    return _Rule(
        where,
        alpha=_number(settings.get("lora_alpha"), where),
        rank=_number(settings.get("r"), where, least=1),
        alphas=_patterns(settings.get("alpha_pattern"), where),
        ranks=_patterns(settings.get("rank_pattern"), where, least=1),
        root=bool(settings.get("use_rslora")),
    )


def _number(value: object, where: str, *, least: float = -_MOST) -> float:
    if isinstance(value, (int, float)) and least <= value <= _MOST:  # never true of NaN
        return float(value)
    raise ArtifactError(f"{where}: expected numbers lora_alpha and r (and such patterns), got {told(str(value))}.")


def _patterns(value: object, where: str, *, least: float = -_MOST) -> list[tuple[re.Pattern[str], float]]:
    """In the file's order, as peft's `get_pattern_key` reads them: the end of a module's path."""
    if value is None:
        return []
    if not isinstance(value, dict) or not all(_PATTERN.fullmatch(key) for key in value):
        raise ArtifactError(f"{where}: expected patterns of module names, at most one `.*` in each.")
    return [(re.compile(rf"(.*\.)?({key})$"), _number(number, where, least=least)) for key, number in value.items()]


def _matched(patterns: Iterable[tuple[re.Pattern[str], float]], name: str, otherwise: float) -> float:
    return next((number for pattern, number in patterns if pattern.match(name)), otherwise)
