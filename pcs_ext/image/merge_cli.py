"""The command that joins learned subjects. Heavy modules are imported inside the function."""

import sys
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from pcs_ext.command_options import Device, Output, console_reporter


def merge(
    subjects: Positional[tuple[Path, ...]],
    names: tuple[str, ...],
    output: Output,
    method: Literal["auto", "kv", "fusion", "neurons"] = "auto",
    device: Device = "auto",
    overwrite: bool = False,
) -> None:
    """Join subjects that were learned apart, so that one prompt can name all of them.

    Args:
        subjects: folders written by `learn`, all on one base.
        names: one per subject, in their order: rex. Learned words become <rex>.
        output: folder for the joint subject; `pcs-ext image` takes it.
        method: kv (closed form of Custom Diffusion), fusion (Mix-of-Show, any low-rank subject), neurons (Cones), or
            whichever fits.
        device: where to compute.
        overwrite: replace what is at the output path.
    """
    from pcs_ext.config_io import check_output
    from pcs_ext.image.merge import merge as join
    from pcs_ext.image.subject import Artifact

    check_output(output, overwrite)
    artifacts = [Artifact.load(path) for path in subjects]
    # Full precision: small differences of weights are what is solved for.
    base = artifacts[0].backbone(device=device, precision="fp32") if artifacts else None
    data = join(artifacts, names, base, method=method, reporter=console_reporter())  # type: ignore[arg-type]
    data.save(output)
    for name, words in zip(names, data.concept["parts"], strict=True):
        sys.stdout.write(f"{name:12} is written as  {words}\n")
    sys.stdout.write(f"{output}\n")
