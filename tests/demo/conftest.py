"""A small demonstration as data and images, without any model."""

from pathlib import Path

import pytest
from PIL import Image

from pcs_ext.demo.data import DemoData, PlotPoint, ShownPrompt, ShownSystem
from pcs_ext.image.evaluate import Figure, Report

SEEDS = (3, 4)
TEXTS = ("a photo of {subject} on the beach", "a pencil sketch of {subject}")


def figure(value: float, better: bool | None = True) -> Figure:
    return Figure(
        value=value,
        spread=0.02,
        interval=(value - 0.02, value + 0.02),
        unit="seed",
        units=2,
        n=4,
        prompts=2,
        encoder="dino (resnet, 12ab34cd)",
        higher_is_better=better,
    )


def _shown(folder: Path, recipe: str, label: str, fidelity: float) -> ShownSystem:
    paths = []
    for index in range(len(TEXTS) * len(SEEDS)):
        path = Path("images", recipe, f"{index}.png")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((64, 64), 40).convert("RGB").save(folder / path)
        paths.append(str(path))
    figures = {"dino-i-truth": figure(fidelity), "attributes": figure(0.9), "vendi": figure(1.5, None)}
    figures |= {"dino-i-truth-ceiling": figure(0.9, None)}
    return ShownSystem(
        id=recipe,
        label=label,
        images=tuple(paths),
        hits=(2, 1),
        report=Report(recipe=recipe, subject="rex", seeds=SEEDS, prompts=TEXTS, figures=figures),
        losses=() if recipe == "class-word" else tuple(1 / (step + 1) for step in range(50)),
        learn_seconds=0.0 if recipe == "class-word" else 65.0,
        sample_seconds=4.0,
    )


@pytest.fixture
def demo(tmp_path: Path) -> tuple[DemoData, Path]:
    """A demonstration of two prompts and two seeds, and the folder with its images."""
    shown = [("dreambooth-lora", "DreamBooth LoRA", 0.8), ("textual-inversion", "Textual inversion", 0.6)]
    systems = [_shown(tmp_path, *one) for one in [*shown, ("class-word", "The word “dog”", 0.4)]]
    Image.effect_noise((120, 90), 40).save(tmp_path / "1.jpg")
    data = DemoData(
        subject="rex",
        noun="dog",
        photos=("1.jpg",),
        prompts=(
            ShownPrompt(text=TEXTS[0], kind="context", asked="on the beach"),
            ShownPrompt(text=TEXTS[1], kind="style", asked="a pencil sketch"),
        ),
        seeds=SEEDS,
        systems=tuple(systems),
        points=tuple(
            PlotPoint(
                id=s.id,
                label=s.label,
                fidelity=s.report.figures["dino-i-truth"].value,
                fidelity_spread=0.02,
                editability=0.9,
                editability_spread=0.02,
            )
            for s in systems
        ),
        points_over="2 seeds",
        ceiling=0.9,
        base="toybox",
        resolution=64,
        measure_seconds=1.0,
        cores=2,
        device="cpu",
    )
    return data, tmp_path
