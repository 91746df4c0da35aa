"""A small demonstration as data and images, without any model."""

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from pcs_ext.demo.data import (
    DemoData,
    PlotPoint,
    ShownArm,
    ShownClip,
    ShownDrawing,
    ShownMethod,
    ShownObject,
    ShownPanorama,
    ShownPrompt,
    ShownProtected,
    ShownProtection,
    ShownSystem,
    ShownVideo,
)
from pcs_ext.image.evaluate import Figure, Report
from tests.support.small_jobs import Learned, learn_small

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


def noise(path: Path, size: tuple[int, int] = (64, 64)) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 40).convert("RGB").save(path)
    return str(path.relative_to(path.parents[1]))


def protection(folder: Path) -> ShownProtection:
    arms = tuple(
        ShownArm(
            id=arm,
            label=f"{arm} photos",
            pictures=tuple(noise(folder / "protection" / f"{arm}{index}.png") for index in range(2)),
            likeness=0.8,
        )
        for arm in ("clean", "protected", "noise")
    )
    photo = ShownProtected(
        original="1.jpg",
        protected=noise(folder / "protection" / "1.png"),
        difference=noise(folder / "protection" / "strip.png"),
        levels=8.0,
        ssim=0.97,
    )
    return ShownProtection(
        recipe="aspl",
        noun="dog",
        levels=8.0,
        steps=60,
        photos=(photo,),
        arms=arms,
        attacker="dreambooth-lora",
        attacker_steps=100,
        drop=0.05,
        drop_interval=(0.02, 0.08),
        noise_drop=0.01,
        report="protection/report.html",
        seconds=90.0,
    )


@pytest.fixture
def whole(demo: tuple[DemoData, Path]) -> tuple[DemoData, Path]:
    """The same with all its parts."""
    data, folder = demo
    panorama = noise(folder / "panorama" / "panorama.png", (64, 32))
    (folder / "panorama" / "panorama.html").write_text('<!doctype html><p id="hint">"Drag" & look</p>')
    turning = "panorama/turning.webp"
    Image.effect_noise((64, 64), 40).convert("RGB").save(folder / turning)
    drawing = {"picture": noise(folder / "drawing" / "customized.png")}
    for name in ("exemplar", "redrawn", "outlines"):
        (folder / "drawing" / f"{name}.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
        drawing[name] = f"drawing/{name}.svg"
    clips = []
    for label, read in (("The clip", "jumping"), ("Rex, with its motion", "jumping"), ("Rex, without", "")):
        stem = f"video/{len(clips)}"
        still = noise(folder / f"{stem}.png")
        (folder / f"{stem}.mp4").write_bytes(b"film")
        clips.append(
            ShownClip(label=label, clip=f"{stem}.mp4", still=still, read=read, fidelity=0.9 if read else 0.0,
                      likeness=0.5)
        )  # fmt: skip
    parts = {
        "panorama": ShownPanorama(
            picture=panorama, viewer="panorama/panorama.html", text="a photo of {subject}", seam=1.0, seconds=9.0
        ),
        "object": ShownObject(
            method="dreambooth3d",
            text="a photo of {subject}",
            model="object/object.glb",
            viewer="panorama/panorama.html",
            made=turning,
            true=turning,
            faces=1200,
            likeness=0.5,
            seconds=120.0,
        ),
        "drawing": ShownDrawing(
            **drawing,
            noun="house",
            text="a red {subject}",
            kept=("roof", "door"),
            dropped=("sun",),
            added=("added-1",),
            seconds=60.0,
        ),
        "video": ShownVideo(
            motion="jumping",
            text="a photo of {subject} in the snow",
            recipe="motion-director",
            from_noise=False,
            steps=100,
            clips=tuple(clips),
            methods=(ShownMethod(label="motion-director", figures=(0.7, 0.6, 0.5, 0.4, None)),),
            seconds=70.0,
        ),
        "protection": protection(folder),
    }
    return dataclasses.replace(data, **parts), folder


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """What 3D jobs start from, on a tiny base; read-only."""
    return learn_small(tmp_path_factory.mktemp("learned"))
