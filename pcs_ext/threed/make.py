"""`3d make`: a learned subject and a prompt in, a mesh out. Every stage goes on where it was stopped."""

import dataclasses
from pathlib import Path
from typing import Any

from pcs_ext.config_io import write_json
from pcs_ext.errors import Interrupted
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.threed.export import check_tools, colors_for, finished_mesh, write_with_page
from pcs_ext.threed.job import Job
from pcs_ext.threed.mesh import WRITTEN
from pcs_ext.threed.outputs import free_outputs
from pcs_ext.threed.request import MakeOptions, Request, read_request
from pcs_ext.threed.shapes import Shape
from pcs_ext.threed.view_model import ViewModel, load_view_model
from pcs_ext.threed.work import Result, WorkFolder

WITHOUT_VIEW_MODEL = (
    "Without --view-model the photo is known from its own camera alone: what other sides look like comes from words. "
    "A diffusers folder of Zero123 knows more, beside any base."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """What a finished job left."""

    mesh: Any
    """The `trimesh.Trimesh` that was written."""
    shape: Shape
    """What it was cut out of."""
    files: tuple[Path, ...]
    """The mesh and, where wanted, the page that shows it."""
    work: Path
    """The job's folder."""


def make_3d(
    subject: Path,
    prompt: str,
    output: Path,
    options: MakeOptions | None = None,
    *,
    reporter: Reporter | None = None,
) -> Made:
    """Make a 3D object of a learned subject.

    The job lives in `OUTPUT.work/`; the same call goes on from there after an interruption, to the same tensors bit for
    bit on the CPU. The folder stays: `3d render` and `3d export` read it.

    Args:
        subject: folder written by `learn`.
        prompt: text with `{subject}`; view words are appended.
        output: ends in .glb, .obj, .ply or .usdz.
        options: how.
        reporter: hears events and progress.

    Raises:
        UsageError, ConfigError, InputError, ArtifactError, ModelError: before any training, with what to do.
        CheckpointError: the work folder belongs to another request.
        ResourceError: a library is missing; before any training.
        DivergedError: the loss stopped being finite.
        Interrupted: Ctrl-C; what was done is saved.
    """
    options, reporter = options or MakeOptions(), reporter or SilentReporter()
    colors = colors_for(output, options.colors)
    outputs = free_outputs(
        output, WRITTEN, viewer=options.viewer, textured=colors != "vertex", overwrite=options.overwrite
    )
    check_tools(colors)
    request = read_request(subject, prompt, options)
    backbone = load_backbone(request.base, device=options.device, precision=options.precision, reporter=reporter)
    view_model = _view_model(request, options, reporter)
    work = WorkFolder(output.with_name(f"{output.name}.work"), request.identity(backbone, view_model))
    write_json(work.path / "recipe.json", request.recipe)
    try:
        name, shape = Job(request, backbone, work, reporter, view_model).run()
        mesh = finished_mesh(shape, request.recipe.mesh, colors)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; what was done is in {work.path}. The same command goes on from there."
        ) from None
    work.finish(Result(field=name, mesh=request.recipe.mesh, prompt=request.artifact.concept.prompt(prompt)))
    return Made(mesh=mesh, shape=shape, files=tuple(write_with_page(mesh, outputs)), work=work.path)


def _view_model(request: Request, options: MakeOptions, reporter: Reporter) -> ViewModel | None:
    """The view model that was asked for; says what it means that none was, where one counts."""
    if request.view_model:
        return load_view_model(
            request.view_model, device=options.device, precision=options.precision, reporter=reporter
        )
    if request.photo is not None:
        reporter.event("no-view-model", WITHOUT_VIEW_MODEL)
    return None
