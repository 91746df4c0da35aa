"""Protecting many photos: kills in the middle, and every kind of file."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from pcs_ext.defense.photos import read_own_photo
from pcs_ext.defense.protect import Options, protect
from pcs_ext.image.backbone import AbstractBackbone
from tests.support.albums import digests, picture

OPTIONS = Options(noun="dog", seed=3)


@pytest.mark.parametrize(
    ("photos", "least", "most", "waits"),
    [(8, 3, 8, (0.05, 0.25)), pytest.param(200, 50, 50, (0.005, 0.03), marks=pytest.mark.slow)],
)
def test_kills_lose_and_duplicate_nothing(
    photos: int, least: int, most: int, waits: tuple[float, float], tmp_path: Path, tiny_sd_path: Path
) -> None:
    """Kills after shares `waits` of what the whole work takes on this machine, now."""
    album = tmp_path / "album"
    album.mkdir()
    for index in range(photos):
        picture(index).save(album / f"{index}.png")
    before = digests(album)
    command = [sys.executable, "-m", "tests.defense.crash_worker", str(tiny_sd_path), str(album)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None

        def live(output: Path, kill_after: float | None) -> int:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write(f"live {output}\n")
            worker.stdin.flush()
            while True:
                line = worker.stdout.readline().split()
                if line[0] == "born" and kill_after is not None:
                    time.sleep(kill_after)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(line[1]), signal.SIGKILL)
                if line[0] == "dead":
                    return int(line[1])

        try:
            assert worker.stdout.readline().strip() == "ready"
            began = time.monotonic()
            assert live(tmp_path / "whole", None) == 0
            lasts = time.monotonic() - began
            draws, kills = random.Random(0), 0
            while live(tmp_path / "killed", draws.uniform(*waits) * lasts if kills < most else None) != 0:
                kills += 1
                assert kills <= most
        finally:
            worker.kill()
    assert kills >= least
    whole, killed = digests(tmp_path / "whole"), digests(tmp_path / "killed")
    assert {k: v for k, v in killed.items() if k.endswith(".png")} == {
        k: v for k, v in whole.items() if k.endswith(".png")
    }
    assert len([name for name in killed if name.endswith(".png")]) == photos
    entries = json.loads((tmp_path / "killed" / "report.json").read_text())["photos"]
    assert [entry["state"] for entry in entries] == ["done"] * photos
    assert digests(album) == before


@pytest.mark.slow
def test_the_budget_holds_on_five_hundred_photos_of_all_kinds(tmp_path: Path, sd: AbstractBackbone) -> None:
    album = tmp_path / "album"
    album.mkdir()
    pillow_heif.register_heif_opener()
    kinds = list(every_kind())
    for index in range(500):
        name, image, options = kinds[index % len(kinds)]
        levels = [(value + index) % 256 for value in range(256)] * len(image.getbands())
        shifted = image if image.mode in ("1", "P", "I;16", "F") else image.point(levels)
        shifted.save(album / f"{index:03d}-{name}", **options)
    before = digests(album)
    assert len(before) == 500
    report = protect(album, output=tmp_path / "out", recipe="photoguard", base=sd, steps=2, levels=8, options=OPTIONS)
    assert digests(album) == before
    assert len(report.photos) == 500
    largest = 0
    for name, entry in report.photos.items():
        original = read_own_photo(tmp_path / "out" / entry["photo"])
        written = read_own_photo(tmp_path / "out" / name)
        change = written.pixels[: original.pixels.shape[0]].int() - original.pixels.int()
        assert int(change.abs().max()) == entry["budget"]["measured"]["max_levels"] <= 8, name
        largest = max(largest, int(change.abs().max()))
        if original.alpha is not None:
            assert written.alpha is not None
            assert bool((written.alpha == original.alpha).all()), name
    assert largest == 8


def every_kind() -> Iterator[tuple[str, Image.Image, dict[str, Any]]]:
    """Pictures of every format and mode, one pixel, 20,000 pixels and 16 bits among them: name, picture, options."""
    rgb, alpha = picture(0), picture(3).convert("L")
    clear, gray_clear = rgb.copy(), rgb.convert("L")
    clear.putalpha(alpha)
    gray_clear.putalpha(alpha)
    deep = Image.fromarray(np.random.default_rng(5).integers(0, 65536, (34, 40), dtype=np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    for suffix in ("png", "jpg", "webp", "tiff", "bmp", "avif", "heic"):
        yield f"rgb.{suffix}", rgb, {}
    for suffix in ("png", "jpg", "tiff"):
        yield f"gray.{suffix}", rgb.convert("L"), {}
    for suffix in ("png", "webp", "tiff"):
        yield f"clear.{suffix}", clear, {"lossless": True} if suffix == "webp" else {}
    yield "gray_clear.png", gray_clear, {}
    for suffix in ("png", "gif"):
        yield f"palette.{suffix}", rgb.quantize(16), {}
    yield "bits.png", rgb.convert("1"), {}
    yield "deep.png", deep, {}
    yield "deep.tiff", deep, {}
    yield "float.tiff", Image.fromarray(np.random.default_rng(6).random((34, 40)).astype(np.float32)), {}
    for suffix in ("jpg", "tiff"):
        yield f"cmyk.{suffix}", rgb.convert("CMYK"), {}
    yield "turned.jpg", rgb, {"exif": turned.tobytes()}
    yield "one.png", rgb.crop((0, 0, 1, 1)), {}
    yield "one.jpg", rgb.crop((0, 0, 1, 1)), {}
    yield "wide.png", rgb.resize((20000, 2)), {}
    yield "tall.jpg", rgb.resize((3, 20000)), {}
