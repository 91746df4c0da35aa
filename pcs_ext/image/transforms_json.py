"""Posed pictures in and out as `transforms.json`, the layout nerfstudio and Blender's NeRF scenes read."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcs_ext.config_io import atomic_write_bytes
from pcs_ext.errors import InputError, UsageError
from pcs_ext.image.cameras import Cameras

_MISFIT = 0.02
"""Relative error of a picture's shape, or of one focal length against the other, that is passed over."""


def write_transforms(path: Path, cameras: Cameras, files: Sequence[str], height: int, width: int) -> None:
    """Write poses and lenses; the axes are the file's own (OpenGL, z up), so the matrices go in unchanged.

    Args:
        path: of the JSON file.
        cameras: `b`.
        files: `b` picture paths, relative to the JSON file's folder.
        height, width: of the pictures in pixels.

    Raises:
        UsageError: unequal counts.
    """
    if len(files) != len(cameras):
        raise UsageError(f"expected one picture per camera, got {len(files)} for {len(cameras)}.")
    frames = []
    for file, matrix, fov in zip(files, cameras.camera_to_world.tolist(), cameras.fov.tolist(), strict=True):
        focal = height / 2 / math.tan(math.radians(fov) / 2)
        frames.append({"file_path": file, "transform_matrix": matrix, "fl_x": focal, "fl_y": focal})
    common = {"camera_model": "OPENCV", "w": width, "h": height, "cx": width / 2, "cy": height / 2}
    atomic_write_bytes(path, (json.dumps({**common, "frames": frames}, indent=1) + "\n").encode())


def read_transforms(path: Path) -> tuple[Cameras, list[str]]:
    """Cameras and their picture paths (as written in the file).

    Both the nerfstudio form (focal lengths, per file or per frame) and the Blender form (`camera_angle_x`) are read;
    azimuth and elevation are those of the viewing direction.

    Raises:
        InputError: missing, not JSON, without frames or lens, distorted, or with an off-centre principal point.
    """
    data, frames = _frames(path)
    try:
        matrices = torch.tensor([frame["transform_matrix"] for frame in frames], dtype=torch.float64)
        files = [str(frame["file_path"]) for frame in frames]
    except (ValueError, KeyError, TypeError) as error:
        raise _not_that(path, error) from error
    if matrices.shape[1:] != (4, 4):
        raise InputError(f"{path}: expected at least one frame with a 4 x 4 matrix, got {tuple(matrices.shape)}.")
    fov = torch.tensor([_fov({**data, **frame}, path) for frame in frames])
    azimuth, elevation = _angles(matrices[:, :3, 2])
    return Cameras(camera_to_world=matrices.float(), fov=fov, azimuth=azimuth, elevation=elevation), files


def read_aspects(path: Path) -> list[float | None]:
    """Width over height of each frame's picture as the file has it; None where it does not say.

    Raises:
        InputError: missing, not JSON, or without frames.
    """
    data, frames = _frames(path)
    return [_aspect({**data, **frame}) for frame in frames]


def check_aspect(path: Path, picture: str, aspect: float | None, height: int, width: int) -> None:
    """Whether a picture is what a file says its lens was: any size of the same shape.

    Args:
        path: of the transforms.json.
        picture: its name, for the message.
        aspect: one of `read_aspects`.
        height, width: of the picture, as it is read.

    Raises:
        InputError: it is not; angles would be wrong.
    """
    if aspect is not None and abs(math.log(width / height / aspect)) > _MISFIT + 1 / min(height, width):
        raise InputError(
            f"{path}: {picture} is {width} x {height} pixels, but its lens there is that of a picture {aspect:.3f} "
            "times as wide as high. Give the pictures that the cameras were found from, uncropped and turned as they "
            "were then; or write w and h into the file."
        )


def _frames(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    try:
        data = json.loads(path.read_text())
        return data, [dict(frame) for frame in data["frames"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _not_that(path, error) from error


def _not_that(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: expected a transforms.json with frames and 4 x 4 matrices, got: {error!r}.")


def _aspect(frame: dict[str, Any]) -> float | None:
    width, height = frame.get("w"), frame.get("h")
    if width and height:
        return width / height
    # `_fov` takes such pictures for squares.
    return 1.0 if "camera_angle_x" in frame and not (height and frame.get("fl_y", frame.get("fl_x"))) else None


def _angles(backward: Tensor) -> tuple[Tensor, Tensor]:
    azimuth = torch.rad2deg(torch.atan2(backward[:, 0], -backward[:, 1]))
    return azimuth.float(), torch.rad2deg(torch.asin(backward[:, 2].clamp(-1, 1))).float()


def _fov(frame: dict[str, Any], path: Path) -> float:
    bent = [key for key in ("k1", "k2", "k3", "k4", "p1", "p2") if frame.get(key)]
    if bent:
        raise InputError(f"{path}: expected undistorted pictures, got {', '.join(bent)}. Undistort them first.")
    width, height = frame.get("w"), frame.get("h")
    for key, size in (("cx", width), ("cy", height)):
        if size and abs(frame.get(key, size / 2) - size / 2) > 0.01 * size:
            raise InputError(f"{path}: expected {key} in the middle, got {frame[key]} of {size}. Crop the pictures.")
    across, focal_y = frame.get("fl_x"), frame.get("fl_y", frame.get("fl_x"))
    if across and focal_y and abs(math.log(across / focal_y)) > _MISFIT:
        raise InputError(
            f"{path}: expected square pixels, got fl_x {across} and fl_y {focal_y}. Scale the pictures to square ones."
        )
    if focal_y and height:
        return math.degrees(2 * math.atan(height / 2 / focal_y))
    if "camera_angle_x" in frame:
        ratio = height / width if height and width else 1.0
        return math.degrees(2 * math.atan(math.tan(frame["camera_angle_x"] / 2) * ratio))
    raise InputError(f"{path}: expected fl_y with h, or camera_angle_x, found neither. Add the lens to the file.")
