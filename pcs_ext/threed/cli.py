"""Commands for 3D: parse, call, report. Heavy modules are imported inside the functions."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from pcs_ext.command_options import Device, Output, Precision, console_reporter


def make(
    subject: Positional[Path],
    prompt: Positional[str],
    output: Output,
    method: str = "dreambooth3d",
    preset: Literal["fast", "balanced", "paper"] = "balanced",
    photos: tuple[Path, ...] = (),
    depth: Path | None = None,
    head: Path | None = None,
    multiview: Path | None = None,
    view_model: str = "",
    base: str = "",
    steps: int = 0,
    seed: int = 0,
    config: Path | None = None,
    previews: int = 0,
    colors: Literal["auto", "vertex", "grid", "xatlas"] = "auto",
    viewer: bool = True,
    overwrite: bool = False,
    device: Device = "auto",
    precision: Precision = "auto",
    jsonl: Path | None = None,
) -> None:
    """Make a 3D object of a learned subject; interrupted, the same command goes on.

    Every stage lies in OUTPUT.work, which stays: `3d render` and `3d export` read it.

    Args:
        subject: folder written by `learn`.
        prompt: text with {subject} where the subject goes; words for the view are appended.
        output: the mesh to write: .glb, .obj, .ply or .usdz.
        method: dreambooth3d (needs --photos), consist3d (one photo), magic3d, dreamfusion, prolificdreamer, avatarbooth
            (needs --head), dream-in-4d-still, animate124-still (one photo), or mvdream (with --photos it learns the
            subject anew).
        preset: fast, to see that it works; balanced; or the steps of the paper.
        photos: what the subject was learned from: one folder, or files.
        depth: picture of how near things are in the one photo, brighter is nearer; without it consist3d inflates the
            mask beside the photo (NAME_mask.png).
        head: the subject's head as a subject of its own, for avatarbooth.
        multiview: folder of a multi-view adapter, for recipes that judge views together; without it the base's own.
        view_model: folder or hub id of a Zero123 in diffusers layout, for animate124-still.
        base: another base of the same family than the one it was learned on.
        steps: of the stages in all; 0 takes the preset's.
        seed: of everything random.
        config: a recipe as JSON instead of a method's own values (OUTPUT.work/recipe.json is one).
        previews: write a sheet of views to OUTPUT.work/previews every so many steps; 0 writes none.
        colors: at the vertices, or in a texture (xatlas makes charts one can paint on, grid needs nothing); auto: a
            texture where the format holds one.
        viewer: also write an HTML page beside a GLB in which one turns the object, offline.
        overwrite: replace the output (the work folder is never replaced).
        device: where the base runs.
        precision: of the base's weights.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.threed.make import make_3d
    from pcs_ext.threed.request import MakeOptions

    options = MakeOptions(
        method=method,
        effort=preset,
        photos=photos,
        depth=depth,
        head=head,
        multiview=multiview,
        view_model=view_model,
        base=base,
        steps=steps or None,
        seed=seed,
        config=config,
        previews=previews,
        colors=colors,
        viewer=viewer,
        overwrite=overwrite,
        device=device,
        precision=precision,
    )
    made = make_3d(subject, prompt, output, options, reporter=console_reporter(jsonl))
    _tell(output, len(made.mesh.faces), (*made.files[1:], made.work))


def texture(
    mesh: Positional[Path],
    subject: Positional[Path],
    output: Output,
    prompt: str = "a photo of {subject}",
    preset: Literal["fast", "balanced", "paper"] = "balanced",
    controlnet: Path | None = None,
    control: Literal["normal", "depth"] = "normal",
    layout: Literal["auto", "grid", "xatlas"] = "auto",
    texture_size: int = 0,
    base: str = "",
    steps: int = 0,
    seed: int = 0,
    config: Path | None = None,
    previews: int = 0,
    viewer: bool = True,
    overwrite: bool = False,
    device: Device = "auto",
    precision: Precision = "auto",
    jsonl: Path | None = None,
) -> None:
    """Give a mesh a learned subject's look (TextureDreamer); interrupted, the same command goes on.

    Shape and faces stay; the texture holds colour, roughness and metalness. The mesh's front is +z in a GLB or OBJ
    (y up), -y in a PLY (z up).

    Args:
        mesh: .glb, .obj or .ply; it is never written to.
        subject: folder written by `learn`.
        output: .glb or .obj.
        prompt: text with {subject} where the subject goes; words for the view are appended.
        preset: fast, to see that it works; balanced; or many steps.
        controlnet: folder of a diffusers ControlNet for the base; without it the score does not know the geometry.
        control: what the ControlNet reads.
        layout: of the texture: xatlas makes charts one can paint on; grid has a seam at every edge and needs nothing;
            auto: xatlas where it is installed.
        texture_size: texels per side; 0: enough for the mesh.
        base: another base of the same family than the one the subject was learned on.
        steps: 0 takes the preset's.
        seed: of everything random.
        config: a recipe as JSON (OUTPUT.work/recipe.json is one).
        previews: write a sheet of views to OUTPUT.work/previews every so many steps; 0 writes none.
        viewer: also write an HTML page beside a GLB in which one turns the object, offline.
        overwrite: replace the output (the work folder is never replaced).
        device: where the base runs.
        precision: of the base's weights.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.threed.texture_job import texture_3d
    from pcs_ext.threed.texture_request import TextureOptions

    options = TextureOptions(
        prompt=prompt,
        effort=preset,
        controlnet=controlnet,
        control=control,
        layout=layout,
        texture_size=texture_size or None,
        base=base,
        steps=steps or None,
        seed=seed,
        config=config,
        previews=previews,
        viewer=viewer,
        overwrite=overwrite,
        device=device,
        precision=precision,
    )
    made = texture_3d(mesh, subject, output, options, reporter=console_reporter(jsonl))
    _tell(output, len(made.mesh.faces), (*made.files[1:], made.work))


def edit(
    scene: Positional[Path],
    subject: Positional[Path],
    prompt: Positional[str],
    output: Output,
    box: tuple[float, float, float, float, float, float],
    mode: Literal["add", "replace"] = "add",
    scene_prompt: str = "",
    content_prompt: str = "a photo of {subject}",
    preset: Literal["fast", "balanced", "paper"] = "balanced",
    base: str = "",
    steps: int = 0,
    seed: int = 0,
    config: Path | None = None,
    previews: int = 0,
    viewer: bool = True,
    overwrite: bool = False,
    device: Device = "auto",
    precision: Precision = "auto",
    jsonl: Path | None = None,
) -> None:
    """Put a learned subject into a box of a 3D scene (TIP-Editor); outside the box nothing changes.

    Args:
        scene: OUTPUT.work of `3d make`; it is never written to.
        subject: folder written by `learn`: what comes into the box.
        prompt: of the edited scene, with {subject} for what is new.
        output: the mesh to write: .glb, .obj, .ply or .usdz.
        box: least x, y, z, then greatest; the scene's cube reaches from -1.5 -1.5 -0.75 to 1.5 1.5 2.25, z up.
        mode: beside what is in the box, or instead of it.
        scene_prompt: what the scene shows; empty takes the prompt it was made with.
        content_prompt: what the content of the box alone is to show.
        preset: fast, to see that it works; balanced; or the paper's steps.
        base: another base of the same family than the one the subject was learned on.
        steps: of both stages together; 0 takes the preset's.
        seed: of everything random.
        config: a recipe as JSON (OUTPUT.work/recipe.json is one).
        previews: write a sheet of views to OUTPUT.work/previews every so many steps; 0 writes none.
        viewer: also write an HTML page beside a GLB in which one turns the object, offline.
        overwrite: replace the output (the work folder is never replaced).
        device: where the base runs.
        precision: of the base's weights.
        jsonl: also write every event as a JSON line to this file.
    """
    from pcs_ext.threed.box import Box
    from pcs_ext.threed.edit_job import edit_3d
    from pcs_ext.threed.edit_request import EditOptions

    options = EditOptions(
        box=Box(low=box[:3], high=box[3:]),
        mode=mode,
        scene_prompt=scene_prompt,
        content_prompt=content_prompt,
        effort=preset,
        base=base,
        steps=steps or None,
        seed=seed,
        config=config,
        previews=previews,
        viewer=viewer,
        overwrite=overwrite,
        device=device,
        precision=precision,
    )
    made = edit_3d(scene, subject, prompt, output, options, reporter=console_reporter(jsonl))
    _tell(output, len(made.mesh.faces), (*made.files[1:], made.work))


def views(
    subject: Positional[Path],
    prompt: Positional[str],
    output: Output,
    seeds: tuple[int, ...] = (0, 1),
    elevation: float = 15.0,
    multiview: Path | None = None,
    base: str = "",
    steps: int = 0,
    overwrite: bool = False,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Draw a learned subject from four sides together (MVDream): a picture of what `3d make --method mvdream` sees.

    Args:
        subject: folder written by `learn`.
        prompt: text with {subject} where the subject goes; it need not name a view.
        output: .png, a row for every seed: front, one side, back, other side.
        seeds: one set of views each.
        elevation: degrees above the horizon.
        multiview: folder of a multi-view adapter; without it the base's own.
        base: another base of the same family than the one it was learned on.
        steps: of sampling; 0 takes the subject's.
        overwrite: replace what is there.
        device: where the base runs.
        precision: of the base's weights.
    """
    from pcs_ext.threed.view_sets import draw_views

    draw_views(
        subject,
        prompt,
        output,
        seeds=seeds,
        elevation=elevation,
        multiview=multiview,
        base=base,
        steps=steps or None,
        overwrite=overwrite,
        device=device,
        precision=precision,
        reporter=console_reporter(None),
    )
    sys.stdout.write(f"{output}\n")


def render(
    source: Positional[Path],
    output: Output,
    frames: int = 60,
    side: int = 256,
    elevation: float = 15.0,
    fps: float = 20.0,
    background: float = 1.0,
    overwrite: bool = False,
) -> None:
    """Film a turn around a 3D object.

    Args:
        source: OUTPUT.work of `3d make` (the field itself), or a .glb, .obj or .ply file.
        output: .mp4, .webp or .gif; .png for a sheet of all views.
        frames: views, evenly spaced from the front on.
        side: of a view, pixels.
        elevation: degrees above the horizon.
        fps: frames per second.
        background: grey behind the object, 0 to 1.
        overwrite: replace what is there.
    """
    from pcs_ext.threed.export import render_3d

    render_3d(
        source,
        output,
        frames=frames,
        side=side,
        elevation=elevation,
        frames_per_second=fps,
        background=background,
        overwrite=overwrite,
    )
    sys.stdout.write(f"{output}\n")


def export(
    source: Positional[Path],
    output: Output,
    colors: Literal["auto", "vertex", "grid", "xatlas"] = "auto",
    texture_size: int = 0,
    resolution: int = 0,
    threshold: float = 0.0,
    splats: bool = False,
    viewer: bool = True,
    overwrite: bool = False,
) -> None:
    """Write a 3D object as another file: GLB, USDZ, OBJ (with MTL and PNG) or PLY.

    Args:
        source: OUTPUT.work of `3d make`, whose mesh is cut anew, or a .glb, .obj or .ply file to convert.
        output: the file to write.
        colors: at the vertices, or in a texture (grid or xatlas); auto: a texture where the format holds one.
        texture_size: texels per side; 0: enough for the mesh.
        resolution: samples per side of the cut; 0 takes the recipe's.
        threshold: density at the surface; 0 takes the recipe's.
        splats: write a .ply of Gaussian splats for splat viewers and editors: an edited scene's own, else one per face.
        viewer: also write an HTML page beside a GLB in which one turns the object, offline.
        overwrite: replace what is there.
    """
    from pcs_ext.threed.export import export_3d

    written = export_3d(
        source,
        output,
        colors=colors,
        texture_size=texture_size or None,
        resolution=resolution or None,
        threshold=threshold or None,
        splats=splats,
        viewer=viewer,
        overwrite=overwrite,
    )
    for path in written:
        sys.stdout.write(f"{path}\n")


def _tell(output: Path, faces: int, others: Sequence[Path]) -> None:
    """What was written, a line each."""
    sys.stdout.write(f"{output}  {faces} faces\n")
    for path in others:
        sys.stdout.write(f"{path}\n")
