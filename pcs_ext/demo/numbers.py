"""The page's measurements: the plot, the loss curves, the times and the table with what each number means."""

from pcs_ext.demo.data import DemoData, ShownSystem
from pcs_ext.demo.plots import loss_curve, scatter
from pcs_ext.demo.wording import display_name, esc, machine_text
from pcs_ext.image.evaluate import Figure, meaning

_TITLES = {
    "dino-i-truth": "Likeness to the real subject",
    "dino-i": "Likeness to the photos",
    "clip-i-truth": "Likeness to the real subject, CLIP",
    "clip-i": "Likeness to the photos, CLIP",
    "attributes": "Does what the prompt asks",
    "attributes/context": "… of places",
    "attributes/accessory": "… of things to wear",
    "attributes/style": "… of styles",
    "attributes/view": "… of views",
    "clip-t": "Agreement with the prompt, CLIP",
    "subject": "Keeps the subject's own traits",
    "vendi": "Different pictures per prompt",
    "drift": "Damage to everything else",
    "copies": "Copies of a photo",
}
_PERCENT = ("attributes", "subject", "copies")


def numbers_section(data: DemoData) -> str:
    """Plot, times, losses and table."""
    curves = "".join(
        f'<div class="panel"><h3>{esc(system.label)}: loss</h3>'
        f"{loss_curve(system.losses, system.id, system.label)}</div>"
        for system in data.systems
        if system.losses
    )
    return (
        '<h2 id="numbers-title">How faithful is it?</h2>'
        f'<p class="soft">{display_name(data)} comes from a world that knows the truth: likeness is measured against '
        "new views that no model ever saw, and what a picture shows is read off by a network that was trained apart "
        "from everything it judges.</p>"
        f'<div class="two">{_plot(data)}{_times(data)}</div>'
        f'<div class="halves">{curves}</div>'
        f'<div class="panel measured">{_table(data)}</div>'
    )


def _plot(data: DemoData) -> str:
    if not data.points:
        return ""
    return (
        '<div class="panel"><h3>Fidelity against editability</h3>'
        '<p class="small soft">Across: how much of what prompts ask for is shown. Up: how like true new views the '
        f"pictures are. Whiskers: one standard deviation over {esc(data.points_over)}.</p>"
        f"{scatter(data.points, data.ceiling)}</div>"
    )


def seconds_text(seconds: float) -> str:
    """A duration for people: "48 s", "2 min 5 s"."""
    if seconds < 10:
        return f"{seconds:.1f}\N{NO-BREAK SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    text = f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _times(data: DemoData) -> str:
    times = [(f"Learn: {system.label}", system.learn_seconds) for system in data.systems if system.losses]
    pictures = len(data.systems) * len(data.prompts) * len(data.seeds)
    times.append((f"Generate {pictures} pictures", sum(system.sample_seconds for system in data.systems)))
    parts = {
        "Panorama": data.panorama,
        "Object": data.object,
        "Motion and clips": data.video,
        "Drawing": data.drawing,
        "Protect and attack": data.protection,
    }
    times += [(label, part.seconds) for label, part in parts.items() if part is not None]
    times.append(("Measure", data.measure_seconds))
    longest = max(seconds for _, seconds in times) or 1.0
    rows = "".join(
        f"<div><dt>{esc(label)}</dt><dd>{seconds_text(seconds)}</dd>"
        f'<span class="bar" aria-hidden="true"><b style="width: {100 * seconds / longest:.1f}%"></b></span></div>'
        for label, seconds in times
    )
    total = seconds_text(sum(seconds for _, seconds in times))
    return (
        f'<div class="panel times"><h3>Time</h3><p class="big">{total}</p>'
        f'<p class="small soft">for everything on this page, on {machine_text(data)}.</p>'
        f'<dl class="bars">{rows}</dl></div>'
    )


def _table(data: DemoData) -> str:
    metrics = [metric for metric in _TITLES if any(metric in system.report.figures for system in data.systems)]
    ceilings = any(f"{metric}-ceiling" in data.systems[0].report.figures for metric in metrics)
    heads = "".join(f'<th scope="col">{esc(system.label)}</th>' for system in data.systems)
    heads += '<th scope="col">True views</th>' if ceilings else ""
    rows = "".join(_row(data, metric, ceilings) for metric in metrics)
    return (
        "<h3>Measured</h3>"
        f'<table style="--columns: {len(data.systems) + ceilings}"><thead><tr><th scope="col">'
        f'<span class="small">± one standard deviation</span></th>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        f"{_conditions(data, metrics)}"
    )


def _row(data: DemoData, metric: str, ceilings: bool) -> str:
    cells = "".join(_cell(system, metric, data) for system in data.systems)
    if ceilings:
        top = data.systems[0].report.figures.get(f"{metric}-ceiling")
        cells += f'<td data-label="True views">{"" if top is None else f"{top.value:.2f}"}</td>'
    return f'<tr><th scope="row">{_TITLES[metric]}<span>{esc(meaning(metric))}</span></th>{cells}</tr>'


def _cell(system: ShownSystem, metric: str, data: DemoData) -> str:
    figure = system.report.figures.get(metric)
    label = esc(system.label)
    if figure is None:
        return f'<td data-label="{label}">–</td>'
    best = ' class="best"' if _is_best(figure, metric, data) else ""
    value, spread = _number(figure.value, metric), _number(figure.spread, metric)
    return f'<td data-label="{label}"{best}>{value}<i>± {spread}</i></td>'


def _number(value: float, metric: str) -> str:
    return f"{100 * value:.0f} %" if metric.split("/")[0] in _PERCENT else f"{value:.2f}"


def _is_best(figure: Figure, metric: str, data: DemoData) -> bool:
    found = [system.report.figures[metric].value for system in data.systems if metric in system.report.figures]
    if figure.higher_is_better is None or len(found) < 2 or min(found) == max(found):
        return False
    return figure.value == (max(found) if figure.higher_is_better else min(found))


def _conditions(data: DemoData, metrics: list[str]) -> str:
    """Encoder, counts and unit behind every row."""
    items = []
    for metric in metrics:
        figure = next(s.report.figures[metric] for s in data.systems if metric in s.report.figures)
        counts = f"{figure.n} values, {figure.prompts} prompts, spread over {figure.units} {figure.unit}s"
        items.append(f"<li>{esc(_TITLES[metric])} (<code>{metric}</code>): {esc(figure.encoder)}; {counts}</li>")
    return f"<details><summary>Who measured, and over what</summary><ul>{''.join(items)}</ul></details>"
