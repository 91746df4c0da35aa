"""docs/recipes.md lists exactly what `RECIPES` holds, and where each can be exported to."""

from pathlib import Path

from pcs_ext.image.adapters import PROMPT_ADAPTERS
from pcs_ext.image.export.modules import EXPRESSIBLE, LEFT_OUT, method_of
from pcs_ext.image.recipes import RECIPES

DOCS = Path(__file__).parents[2] / "docs" / "recipes.md"


def formats(name: str) -> str:
    """Formats that hold all that the recipe trains, by the exporters' own table; words need a file of their own, which
    is all that can be exported where no format holds the rest."""
    configs = RECIPES[name].build("dog", "sd").adapters.values()
    if any(isinstance(config, PROMPT_ADAPTERS) for config in configs):
        return "none"
    methods = {method_of(config) for config in configs if not isinstance(config, LEFT_OUT)}
    weights = methods - {"embedding"}
    able = [format for format, held in EXPRESSIBLE.items() if weights and weights <= set(held.split(", "))]
    words = "textual-inversion" if able or not weights else "words alone: textual-inversion"
    return ", ".join(able + [words] * ("embedding" in methods)) or "none"


def rows() -> list[str]:
    return [f"| {entry.id} | {entry.summary} | {entry.paper} | {formats(entry.id)} |" for entry in RECIPES.values()]


def test_the_table_is_the_registry() -> None:
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    start = lines.index("| --- | --- | --- | --- |") + 1
    table = [line for line in lines[start:] if line.startswith("|")]
    assert table == rows(), "write the table anew: python -m tests.image.test_recipe_docs"


if __name__ == "__main__":
    text = DOCS.read_text(encoding="utf-8").splitlines()
    first = text.index("| --- | --- | --- | --- |") + 1
    rest = [line for line in text[first:] if not line.startswith("|")]
    DOCS.write_text("\n".join([*text[:first], *rows(), *rest]) + "\n", encoding="utf-8")
