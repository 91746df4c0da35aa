"""Small clips that tests write themselves, with PyAV and Pillow."""

import fractions
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import torch
from PIL import Image
from torch import Tensor

MILLISECOND = fractions.Fraction(1, 1000)


def moving(count: int = 12, height: int = 32, width: int = 32) -> Tensor:
    """`f 3 h w` uint8: a red level that tells the frame's number (10 per frame), green above, blue on the left."""
    frames = torch.zeros(count, 3, height, width, dtype=torch.uint8)
    frames[:, 0] = (torch.arange(count) * 10 % 250).to(torch.uint8)[:, None, None]
    frames[:, 1, : height // 2] = 200
    frames[:, 2, :, : width // 2] = 120
    return frames


def number_of(frames: Tensor) -> list[int]:
    """Which frames of `moving` these are."""
    return (frames[:, 0].float().mean((1, 2)) / 10).round().int().tolist()


def psnr(a: Tensor, b: Tensor) -> float:
    """Decibels between uint8 tensors."""
    return float(10 * torch.log10(255**2 / (a.float() - b.float()).pow(2).mean().clamp_min(1e-9)))


def encode(
    path: Path,
    frames: Tensor | None = None,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    milliseconds: Callable[[int], int] = lambda index: index * 100,
    gop: int = 6,
    alpha: np.ndarray | None = None,
    tuning: dict[str, str] | None = None,
    **options: Any,
) -> Path:
    """Encode frames (default `moving()`) with any codec, pixel format and presentation times.

    `tuning` goes to the encoder, `options` to the container.
    """
    frames = moving() if frames is None else frames
    with av.open(path, "w", options=options) as container:
        stream: Any = container.add_stream(codec, rate=10, options=tuning)
        stream.height, stream.width = frames.shape[2:]
        stream.pix_fmt = pix_fmt
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = MILLISECOND
        for index, pixels in enumerate(frames.permute(0, 2, 3, 1).numpy()):
            kind = "rgb24" if alpha is None else "rgba"
            full = pixels if alpha is None else np.dstack([pixels, alpha])
            frame: Any = av.VideoFrame.from_ndarray(np.ascontiguousarray(full), kind).reformat(format=pix_fmt)
            frame.pts, frame.time_base = milliseconds(index), MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def repeat_packets(path: Path, count: int, stamp: Callable[[int], int] = lambda index: index) -> Path:
    """A clip of `count` copies of one key frame, each at `stamp` / 25 s, muxed without encoding them again."""
    source = encode(path.with_name("one." + path.name), moving(1), codec="mpeg4")
    with av.open(source) as reading, av.open(path, "w") as writing:
        origin: Any = reading.streams.video[0]
        stream = writing.add_stream_from_template(origin)
        data = bytes(next(reading.demux(origin)))
        for index in range(count):
            packet: Any = av.Packet(data)
            packet.stream, packet.time_base = stream, fractions.Fraction(1, 25)
            packet.pts = packet.dts = stamp(index)
            packet.is_keyframe = True
            writing.mux(packet)
    return path


def cut_at_key_frame(source: Path, path: Path, number: int = 1) -> Path:
    """Copy the packets from key frame `number` (from 0) on, as a recording that is joined in the middle."""
    with av.open(source) as reading, av.open(path, "w") as writing:
        origin: Any = reading.streams.video[0]
        stream = writing.add_stream_from_template(origin)
        keys = 0
        for packet in reading.demux(origin):
            keys += packet.is_keyframe
            if packet.size and keys > number:
                packet.stream = stream
                writing.mux(packet)
    return path


def ffmpeg(*arguments: str | Path) -> None:
    """Run imageio's ffmpeg."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def pictures(frames: Tensor) -> list[Image.Image]:
    """Pillow images of `f c h w` uint8."""
    return [Image.fromarray(pixels) for pixels in frames.permute(0, 2, 3, 1).numpy()]


def animate(path: Path, frames: Tensor | None = None, **options: Any) -> Path:
    """Write an animated GIF, WebP or PNG."""
    images = pictures(moving() if frames is None else frames)
    images[0].save(path, save_all=True, append_images=images[1:], **{"duration": 100, "loop": 0, **options})
    return path
