"""The page's plots as inline SVG; colours come from the page's style sheet, so that both themes fit."""

import dataclasses
from collections.abc import Sequence
from html import escape

from pcs_ext.demo.axes import Axis, axis_for, tick_label
from pcs_ext.demo.data import PlotPoint

_WIDTH, _HEIGHT = 640, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 28, 58
# Generous: on phones the style sheet enlarges the letters.
_LETTER, _LINE = 9.6, 18


_ALONE = """<style>
text { font-family: system-ui, sans-serif; fill: #5d5a55; } .axis { font-size: 14px; } .tick, .note { font-size: 12px; }
.label { font-size: 15px; font-weight: 600; fill: #24211d; } .grid { stroke: #e4e0d8; }
.ceiling { stroke: #8a857c; stroke-dasharray: 5 5; } .whisker { stroke-width: 2; opacity: .45; stroke: #2f6f9f; }
.mark { fill: #2f6f9f; } .s-dreambooth-lora.mark { fill: #c8501e; } .s-dreambooth-lora.whisker { stroke: #c8501e; }
.s-class-word.mark { fill: #8a857c; } .s-class-word.whisker { stroke: #8a857c; }
</style><rect width="100%" height="100%" fill="#fffdf9"/>"""


def standalone_scatter(points: Sequence[PlotPoint], ceiling: float | None) -> str:
    """`scatter` as a file of its own, with its own colours."""
    svg = scatter(points, ceiling)
    head, rest = svg.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}">{_ALONE}{rest}\n'


def scatter(points: Sequence[PlotPoint], ceiling: float | None) -> str:
    """Fidelity against editability: one point per system with its spread, labelled where it stands.

    Args:
        points: the systems.
        ceiling: fidelity that true views reach, drawn as a line; None draws none.
    """
    x = axis_for(_reach([(p.editability, p.editability_spread) for p in points]), _LEFT, _WIDTH - _RIGHT)
    x = dataclasses.replace(x, high=min(x.high, 1.02))
    heights = _reach([(p.fidelity, p.fidelity_spread) for p in points])
    y = axis_for([*heights, *([] if ceiling is None else [ceiling])], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        _grid(x, y),
        _axis_titles(
            "does what the prompt asks →",
            "looks like the subject →",
        ),
        "" if ceiling is None else _ceiling(y, ceiling),
        *[_whiskers(point, x, y) for point in points],
        *[_mark(point, x, y) for point in points],
        *_labels(points, x, y),
    ]
    summary = "; ".join(f"{p.label}: fidelity {p.fidelity:.2f}, editability {p.editability:.2f}" for p in points)
    return _svg(_WIDTH, _HEIGHT, "Fidelity against editability", summary, parts)


def loss_curve(losses: Sequence[float], system: str, label: str) -> str:
    """Training loss by step: every step faint, an exponential average on top."""
    width, height = 480, 220
    smooth = _smoothed(losses)
    # The first noisy steps would flatten the rest: the axis holds the average and all but the wildest steps.
    ordered = sorted(losses)
    top = max(max(smooth), ordered[int(0.98 * (len(ordered) - 1))])
    x = Axis(low=0, high=len(losses), start=48, end=width - 12)
    y = Axis(low=0, high=top * 1.08, start=height - 40, end=12)
    grid = _ticks(x, y, (x.ticks(4), y.ticks(4)), y_from=12, y_to=height - 40, x_from=48, x_to=width - 12)
    title = f'<text class="axis" x="{(48 + width - 12) / 2:.0f}" y="{height - 4}" text-anchor="middle">step</text>'
    lines = [
        f'<path class="line faint {_css(system)}" d="{_path([min(v, y.high) for v in losses], x, y)}"/>',
        f'<path class="line {_css(system)}" d="{_path(smooth, x, y)}"/>',
    ]
    summary = f"{len(losses)} steps, average loss from {smooth[0]:.3f} to {smooth[-1]:.3f}"
    return _svg(width, height, f"Training loss of {label}", summary, [grid, title, *lines])


def _svg(width: int, height: int, title: str, summary: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}. {escape(summary)}.">'
        + "".join(parts)
        + "</svg>"
    )


def _css(system: str) -> str:
    return "s-" + "".join(letter if letter.isalnum() else "-" for letter in system)


def _reach(values: Sequence[tuple[float, float]]) -> list[float]:
    return [value + sign * spread for value, spread in values for sign in (-1, 1)]


def _grid(x: Axis, y: Axis) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    return _ticks(x, y, (x.ticks(), y.ticks()), y_from=_TOP, y_to=bottom, x_from=_LEFT, x_to=right)


def _ticks(
    x: Axis,
    y: Axis,
    ticks: tuple[list[float], list[float]],
    *,
    y_from: float,
    y_to: float,
    x_from: float,
    x_to: float,
) -> str:
    parts = []
    for value in ticks[0]:
        at = f"{x(value):.1f}"
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{y_from}" y2="{y_to}"/>')
        label = tick_label(value, ticks[0])
        parts.append(f'<text class="tick" x="{at}" y="{y_to + 18}" text-anchor="middle">{label}</text>')
    for value in ticks[1]:
        at = f"{y(value):.1f}"
        parts.append(f'<line class="grid" x1="{x_from}" x2="{x_to}" y1="{at}" y2="{at}"/>')
        label = tick_label(value, ticks[1])
        parts.append(f'<text class="tick" x="{x_from - 8}" y="{at}" dy="4" text-anchor="end">{label}</text>')
    return "".join(parts)


def _axis_titles(horizontal: str, vertical: str) -> str:
    across, down = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + _HEIGHT - _BOTTOM) / 2
    return (
        f'<text class="axis" x="{across:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">{horizontal}</text>'
        f'<text class="axis" transform="translate(16 {down:.0f}) rotate(-90)" text-anchor="middle">{vertical}</text>'
    )


def _ceiling(y: Axis, value: float) -> str:
    at = y(value)
    return (
        f'<line class="ceiling" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<text class="note" x="{_LEFT + 8}" y="{at - 7:.1f}">what true new views reach</text>'
    )


def _whiskers(point: PlotPoint, x: Axis, y: Axis) -> str:
    at_x, at_y = x(point.editability), y(point.fidelity)
    left, right = (x(point.editability + sign * point.editability_spread) for sign in (-1, 1))
    low, high = (y(point.fidelity + sign * point.fidelity_spread) for sign in (-1, 1))
    css = f'class="whisker {_css(point.id)}"'
    return (
        f'<line {css} x1="{left:.1f}" x2="{right:.1f}" y1="{at_y:.1f}" y2="{at_y:.1f}"/>'
        f'<line {css} x1="{at_x:.1f}" x2="{at_x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
    )


def _mark(point: PlotPoint, x: Axis, y: Axis) -> str:
    radius = 6 if point.id == "class-word" else 7.5
    css = f"mark {_css(point.id)}"
    return f'<circle class="{css}" cx="{x(point.editability):.1f}" cy="{y(point.fidelity):.1f}" r="{radius}"/>'


def _labels(points: Sequence[PlotPoint], x: Axis, y: Axis) -> list[str]:
    """Labels beside their points, moved to where they cover neither a point nor another label."""
    taken = [(x(p.editability) - 9, y(p.fidelity) - 9, x(p.editability) + 9, y(p.fidelity) + 9) for p in points]
    parts = []
    for point in points:
        at_x, at_y, width = x(point.editability), y(point.fidelity), _LETTER * len(point.label)
        places = [(at_x + 14, at_y - 12), (at_x + 14, at_y + 20), (at_x - 14 - width, at_y - 12)]
        places += [(at_x - 14 - width, at_y + 20), (at_x - width / 2, at_y - 30), (at_x - width / 2, at_y + 36)]
        boxes = [(left, base - _LINE + 4, left + width, base + 4) for left, base in places]
        best = min(range(len(boxes)), key=lambda index: (_trouble(boxes[index], taken), index))
        taken.append(boxes[best])
        left, base = places[best]
        parts.append(f'<text class="label {_css(point.id)}" x="{left:.1f}" y="{base:.1f}">{escape(point.label)}</text>')
    return parts


def _trouble(box: tuple[float, float, float, float], taken: Sequence[tuple[float, float, float, float]]) -> float:
    outside = max(0.0, _LEFT - box[0]) + max(0.0, box[2] - (_WIDTH - 4)) + max(0.0, _TOP - 12 - box[1])
    outside += max(0.0, box[3] - (_HEIGHT - _BOTTOM))
    overlap = sum(
        max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
        * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
        for other in taken
    )
    return 20 * outside + overlap


def _path(values: Sequence[float], x: Axis, y: Axis) -> str:
    every = max(1, len(values) // 400)
    steps = range(0, len(values), every)
    return "M" + "L".join(f"{x(index + 1):.1f} {y(values[index]):.1f}" for index in steps)


def _smoothed(values: Sequence[float]) -> list[float]:
    """Exponential average over about a twentieth of the run, without the usual bias towards the first value."""
    keep = 1 - 1 / max(2.0, len(values) / 20)
    total, weight, smooth = 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        smooth.append(total / weight)
    return smooth
