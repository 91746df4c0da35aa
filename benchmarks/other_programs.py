"""`python -m benchmarks.other_programs`: what programs that are not ours make of the files that are.

SVG: the exemplars of `examples/svg` and what `svg vectorize` writes of three photos, drawn by Chromium, Inkscape,
librsvg and resvg beside our rasteriser. Meshes: the standing body with colours that say where they are, as GLB, OBJ and
PLY, imported by Blender as a user would, and as USDZ, opened by USD's own library. Needs Debian's packages chromium,
inkscape, librsvg2-bin, blender and python3-numpy, and `pip install usd-core`. Writes `results/other_programs.json`.
"""

import importlib
import importlib.util
import io
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
import torch
import trimesh
import tyro
from PIL import Image
from torch import Tensor

from pcs_ext.cli import main as pcs_ext
from pcs_ext.config_io import write_json
from pcs_ext.results import as_result
from pcs_ext.svg.vector.read import read_svg
from pcs_ext.svg.vector.render import render
from pcs_ext.threed.avatar.figure import capsule_body
from pcs_ext.threed.mesh import write_mesh
from pcs_ext.threed.texture import Painter, TextureConfig, bake_texture

ROOT = Path(__file__).parents[1]
PROGRAMS = ("chromium", "inkscape", "rsvg-convert", "blender")
_CHROMIUM = (
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--default-background-color=FFFFFFFF",
)  # fmt: skip
_VECTORIZED = ("rex", "pip", "momo")
_LEAST_WINDOW = 600
"""Pixels; Chromium opens no smaller one."""


def main(output: Path = ROOT / "results" / "other_programs.json") -> None:
    """Draw, import, compare, write.

    Args:
        output: results file.
    """
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    missing += [] if importlib.util.find_spec("pxr") else ["usd-core"]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}. Run: apt-get install {' '.join(PROGRAMS[:2])} librsvg2-bin "
                 "blender python3-numpy, and pip install usd-core")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        rows = [*svg_rows(Path(folder)), *mesh_rows(Path(folder))]
    write_json(output, as_result(rows, command="python -m benchmarks.other_programs", seeds=[0]))
    for row in rows:
        sys.stdout.write(f"{row['method']:24} {row['metric']:44} {row['value']:.4f}  worst {row['worst']:.4f}\n")


def svg_rows(work: Path) -> list[dict[str, Any]]:
    """Mean difference per file between a program's picture and ours, levels of 255."""
    files = sorted((ROOT / "examples" / "svg").glob("*.svg"))
    for name in _VECTORIZED:
        photo = sorted((ROOT / "examples" / name).glob("*.jpg"))[0]
        files.append(work / f"{name}.svg")
        pcs_ext(["svg", "vectorize", str(photo), "-o", str(files[-1])])
    found: dict[str, list[float]] = {}
    for file in files:
        scene = read_svg(file).scene
        width, height = (round(side) for side in scene.size)
        ours = render(scene, height, width).permute(1, 2, 0).numpy() * 255
        for program, picture in _drawn(file, width, height, work).items():
            theirs = np.asarray(Image.open(picture).convert("RGB"))[:height, :width].astype(float)
            found.setdefault(program, []).append(float(np.abs(theirs - ours).mean()))
    return [_row(program, "difference of an SVG's picture, of 255", values) for program, values in found.items()]


def _drawn(file: Path, width: int, height: int, work: Path) -> dict[str, Path]:
    """Every program's picture of a file at its own size, on white."""
    made = {name: work / f"{name}.png" for name in ("chromium", "inkscape", "librsvg", "resvg")}
    window = f"--window-size={max(width, _LEAST_WINDOW)},{max(height, _LEAST_WINDOW)}"
    _run(*_CHROMIUM, f"--user-data-dir={work / 'profile'}", window, f"--screenshot={made['chromium']}", file.as_uri())
    _run("inkscape", str(file), f"--export-filename={made['inkscape']}", "--export-background=white")
    _run("rsvg-convert", "-b", "white", str(file), "-o", str(made["librsvg"]))
    made["resvg"].write_bytes(bytes(resvg_py.svg_to_bytes(svg_path=str(file), background="#ffffff")))
    return made


def mesh_rows(work: Path) -> list[dict[str, Any]]:
    """How what Blender or USD reads from every format differs from the mesh that was written."""
    body = capsule_body(64)
    low, high = (torch.tensor(corner.tolist()) for corner in body.bounds)

    def paint(places: Tensor, normals: Tensor) -> Tensor:
        return 0.1 + 0.8 * (places - low) / (high - low)

    textured, rows = bake_texture(body, paint, TextureConfig()), []
    colors = paint(torch.from_numpy(np.array(body.vertices)).float(), torch.empty(0))
    body.visual.vertex_colors = (colors.clamp(0, 1) * 255).round().byte().numpy()
    size = float((high - low).max())
    for kind in ("glb", "obj", "ply", "usdz"):
        file = work / f"body.{kind}"
        write_mesh(body if kind == "ply" else textured, file)
        found = _usd(file, paint) if kind == "usdz" else _blender(file, low, high)
        off = torch.tensor([found["low"], found["high"]]) - torch.stack([low, high])
        name = "usd, usdz" if kind == "usdz" else f"blender, {kind}"
        rows += [
            _row(name, "bounds off, share of the height", [float(off.abs().max()) / size]),
            _row(name, "volume off, share", [abs(found["volume"] / body.volume - 1)]),
            _row(name, "edges without two faces, share", [found["open_edges"] / (1.5 * found["faces"])]),
            _row(name, "colour of a face off, of 255", [found["color_off"]]),
        ]
    return rows


def _blender(file: Path, low: Tensor, high: Tensor) -> dict[str, Any]:
    script = Path(__file__).with_name("blender_reader.py")
    corners = [json.dumps(corner.tolist()) for corner in (low, high)]
    said = _run("blender", "-b", "--factory-startup", "-P", str(script), "--", str(file), *corners)
    lines = [line.removeprefix("found ") for line in said.splitlines() if line.startswith("found ")]
    if not lines:
        sys.exit(f"blender did not read {file.name}:\n{said[-2000:]}")
    return json.loads(lines[0])


def _usd(file: Path, paint: Painter) -> dict[str, Any]:
    """What USD's own library finds, turned from y up to z up."""
    Usd, UsdGeom, UsdShade = (importlib.import_module(f"pxr.{name}") for name in ("Usd", "UsdGeom", "UsdShade"))
    stage = Usd.Stage.Open(str(file))
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    (prim,) = [prim for prim in stage.Traverse() if prim.IsA(UsdGeom.Mesh)]
    shape = UsdGeom.Mesh(prim)
    corners = np.array(shape.GetPointsAttr().Get(), dtype=float)[:, [0, 2, 1]] * [1, -1, 1]
    faces = np.array(shape.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
    places = np.array(UsdGeom.PrimvarsAPI(prim).GetPrimvar("st").Get())[faces].mean(1)
    material = UsdShade.MaterialBindingAPI(prim).ComputeBoundMaterial()[0]
    source = material.ComputeSurfaceSource()[0].GetInput("diffuseColor").GetConnectedSource()[0]
    asset = UsdShade.Shader(source.GetPrim()).GetInput("file").Get().path
    with zipfile.ZipFile(file) as archive:
        picture = np.asarray(Image.open(io.BytesIO(archive.read(asset.removeprefix("./")))).convert("RGB"))
    height, width = picture.shape[:2]
    seen = picture[-1 - (places[:, 1] * height).astype(int), (places[:, 0] * width).astype(int)]
    painted = paint(torch.from_numpy(corners[faces].mean(1)).float(), torch.empty(0)).numpy() * 255
    mesh = trimesh.Trimesh(corners, faces, process=False)
    edges = np.unique(mesh.edges_sorted, axis=0, return_counts=True)[1]
    return {
        "low": corners.min(0).tolist(), "high": corners.max(0).tolist(), "volume": float(mesh.volume),
        "open_edges": int((edges != 2).sum()), "faces": len(faces), "color_off": float(np.abs(seen - painted).mean()),
    }  # fmt: skip


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def _row(method: str, metric: str, values: Sequence[float]) -> dict[str, Any]:
    return {"method": method, "metric": metric, "higher_is_better": False, "value": statistics.fmean(values),
            "spread": statistics.stdev(values) if len(values) > 1 else 0.0, "worst": max(values), "n": len(values),
            "baseline": None, "baseline_value": None, "seconds": None}  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main)
