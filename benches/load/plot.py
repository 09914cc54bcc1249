"""Plots as SVG, written by hand: small, and readable on light and on dark pages."""

import math
from html import escape

STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 }
.soft { fill: #57606a }
.grid { stroke: #8c959f; stroke-opacity: .35 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .soft { fill: #9198a1 } }
</style>"""


def svg(width, height, title, parts):
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", STYLE, *parts, "</svg>", ""])


def text(x, y, content, anchor="start", css=""):
    css = f' class="{css}"' if css else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{css}>{escape(content)}</text>'


def rect(x, y, width, height, color):
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{color}"/>'


def bars(title, series, panels):
    """A row for each (name, color) of `series`, a column of bars for each panel: its title, its
    unit, a value (or None) for each row, and how a value is written."""
    row, top, left, wide, gap = 21, 40, 135, 165, 70
    height = top + row * len(series) + 8
    parts = []
    for index, (name, _) in enumerate(series):
        parts.append(text(left - 8, top + row * index + 14, name, "end"))
    for column, (heading, unit, values, form) in enumerate(panels):
        x = left + column * (wide + gap)
        parts += [text(x, 14, heading, css="title"), text(x, 30, unit, css="soft")]
        parts.append(f'<path class="grid" d="M{x} {top}V{height - 8}"/>')
        most = max((value for value in values if value is not None), default=1) or 1
        for index, ((_, color), value) in enumerate(zip(series, values)):
            y = top + row * index
            if value is not None:
                length = max(1, wide * value / most)
                parts.append(rect(x, y + 3, round(length, 1), row - 6, color))
                parts.append(text(round(x + length + 5), y + 14, form(value)))
    return svg(left + len(panels) * (wide + gap), height, title, parts)


def lines(title, x_label, y_label, ticks, series):
    """A line for each (name, color, values) of `series`, over evenly spaced `ticks`; the other
    axis is logarithmic, so that equal ratios are equally far apart."""
    left, top, wide, high = 70, 34, 420, 250
    ends = [value for *_, values in series for value in values if value is not None]
    marks = log_ticks(min(ends), max(ends))
    low, span = math.log(marks[0]), math.log(marks[-1] / marks[0])

    def place(index, value):
        x = left + 20 + (wide - 40) * index / (len(ticks) - 1)
        return round(x, 1), round(top + high - high * (math.log(value) - low) / span, 1)

    parts = [text(8, 16, y_label, css="title")]
    parts.append(text(left + wide / 2, top + high + 40, x_label, "middle", "title"))
    for mark in marks:
        y = place(0, mark)[1]
        parts.append(f'<path class="grid" d="M{left} {y}h{wide}"/>')
        parts.append(text(left - 8, y + 4, f"{mark:,g}", "end", "soft"))
    for index, tick in enumerate(ticks):
        parts.append(text(place(index, marks[0])[0], top + high + 20, tick, "middle", "soft"))
    for row, (name, color, values) in enumerate(series):
        points = [place(index, value) for index, value in enumerate(values) if value is not None]
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:g}" cy="{y:g}" r="3" fill="{color}"/>' for x, y in points]
        x, y = left + wide + 24, top + 10 + 22 * row
        parts += [rect(x, y - 4, 16, 8, color), text(x + 24, y + 4, name)]
    return svg(left + wide + 180, top + high + 50, title, parts)


def log_ticks(least, most):
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
    ticks = [base * 10.0**power for power in range(first, last + 1) for base in (1, 2, 5)]
    low = max(tick for tick in ticks if tick <= least)
    high = min((tick for tick in ticks if tick >= most), default=ticks[-1])
    return [tick for tick in ticks if low <= tick <= high]
