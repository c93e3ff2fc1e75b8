"""A curve over steps as SVG, drawn here: points, a smoothed line, round numbers on two axes."""

import math
from collections.abc import Sequence

from videodiff_ui.html import Html, tag

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 30
MOST = 600
"""Points drawn at most: more than the picture has columns would only make it slow."""


Points = Sequence[tuple[float, float]]


def curve(points: Points, label: str, name: str = "step", rare: Points = ()) -> Html:
    """Values (x, y) in the order of x, with a smoothed line over them; `rare` ones get dots and a line of their own.

    `label` says what y is; it is read aloud.
    """
    rare = [point for point in rare if all(map(math.isfinite, point))]
    points = [point for point in points if all(map(math.isfinite, point))]
    if len(points) < 2:
        return Html("")
    smooth = smoothed([y for _, y in points])
    step = -(-len(points) // MOST)
    kept = [*range(0, len(points) - 1, step), len(points) - 1]
    xs, ys = [points[i][0] for i in kept], [points[i][1] for i in kept]
    line = [smooth[i] for i in kept]
    x0, x1 = (pick([xs[0], xs[-1], *(x for x, _ in rare)]) for pick in (min, max))
    heights = [*ys, *(y for _, y in rare)]
    ticks_y = ticks(min(heights), max(heights))
    y0, y1 = min(ticks_y[0], *heights), max(ticks_y[-1], *heights)

    def across(x: float) -> float:
        return round(LEFT + (x - x0) / ((x1 - x0) or 1) * (WIDTH - LEFT - RIGHT), 1)

    def up(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y0) / ((y1 - y0) or 1) * (HEIGHT - TOP - BOTTOM), 1)

    def path(values: Sequence[float], kind: str) -> Html:
        drawn = " ".join(f"{across(x)},{up(y)}" for x, y in zip(xs, values, strict=True))
        return tag("polyline", points=drawn, class_=kind, fill="none")

    grid = [
        part
        for y in ticks_y
        for part in (
            tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=up(y), y2=up(y), class_="vd-grid"),
            tag("text", f"{y:g}", x=LEFT - 8, y=up(y) + 4, text_anchor="end"),
        )
    ]
    feet = [
        tag("text", f"{x:g}", x=across(x), y=HEIGHT - 10, text_anchor="middle") for x in ticks(x0, x1) if x0 <= x <= x1
    ]
    dots = [tag("circle", cx=across(x), cy=up(y), r=4, class_="vd-rare") for x, y in rare]
    between = " ".join(f"{across(x)},{up(y)}" for x, y in rare)
    dots.append(tag("polyline", points=between, class_="vd-rare", fill="none"))
    said = f"{label}: {smooth[0]:.4g} at {name} {points[0][0]:g}, {smooth[-1]:.4g} at {name} {points[-1][0]:g}"
    return tag(
        "svg", tag("title", said), *grid, *feet, path(ys, "vd-points"), path(line, "vd-line"),
        *(dots if rare else ()),
        viewbox=f"0 0 {WIDTH} {HEIGHT}", role="img", class_="vd-curve",
    )  # fmt: skip


def smoothed(values: Sequence[float]) -> list[float]:
    """A running mean whose memory is a twentieth of all values; it begins as their plain mean, so nothing drags."""
    keep = 1 - 1 / max(1.0, len(values) / 20)
    mean, result = 0.0, []
    for i, value in enumerate(values):
        mean += (value - mean) * max(1 - keep, 1 / (i + 1))
        result.append(mean)
    return result


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers that enclose low to high as closely as they can."""
    rough = (high - low) / count or abs(high) or 1.0
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * n for n in (1, 2, 5, 10) if scale * n >= rough * 0.999)
    return [round(i * step, 12) for i in range(math.floor(low / step), math.ceil(high / step) + 1)]
