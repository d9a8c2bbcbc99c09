#!/usr/bin/env python3
"""Draws panels of grafana.json by what a Prometheus has recorded; dev/dashboard calls it.

    draw.py PROMETHEUS FROM TO EVENTS PICTURE

FROM and TO are epoch seconds. EVENTS is a file with lines of `FROM TO WORDS`: spans that are shaded and named. Needs
matplotlib. The curves are exactly what the panels' expressions answer, at one point a second.
"""

import json
import re
import sys
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from panels import panels, substituted

# By title, in this order. The others have nothing to show within minutes.
SHOWN = [
    "Lag in seconds", "Rows and records", "Visible latency",
    "PostgreSQL and Kafka", "Dead letters by class", "Retries",
    "Transaction time", "Bytes in flight", "Memory",
]
COLUMNS = 3
# The scrapes are a second apart; a rate needs a few of them.
RATE_INTERVAL = "5s"
COLORS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b"]
INK, FAINT, SHADE = "#24292f", "#d0d7de", "#fff3d6"


def ask(prometheus, expression, begin, end):
    query = urllib.parse.urlencode({"query": expression, "start": begin, "end": end, "step": 1})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{query}", timeout=30) as answer:
        found = json.load(answer)
    if found["status"] != "success":
        raise SystemExit(f"{expression}: {found}")
    return found["data"]["result"]


def name_of(legend, labels):
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), legend)


def shown(unit):
    """How Grafana writes such a number, nearly."""
    def scaled(value):
        for word in ("", "k"):
            if abs(value) < 1000:
                return f"{value:g}{word}"
            value /= 1000
        return f"{value:g}M"

    def seconds(value):
        if value and abs(value) < 1:
            return f"{round(value * 1000, 1):g} ms"
        return f"{value:g} s"

    return {
        "s": seconds,
        "bytes": lambda value: f"{value:g} MiB",
        "percentunit": lambda value: f"{value * 100:g} %",
        "cpm": lambda value: scaled(value) + "/min",
        "ops": lambda value: scaled(value) + "/s",
    }.get(unit, scaled)


def draw(axes, panel, prometheus, begin, end, events):
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults.get("custom", {})
    # So that the ticks are round numbers.
    divisor = 1 << 20 if defaults["unit"] == "bytes" else 1
    curves = []
    for target in panel["targets"]:
        for series in ask(prometheus, substituted(target["expr"], RATE_INTERVAL), begin, end):
            points = [(at - begin, float(value) / divisor) for at, value in series["values"]]
            # NaN: a quantile of nothing.
            known = [value for _, value in points if value == value]
            if any(known) or panel["title"] == "PostgreSQL and Kafka":
                curves.append((name_of(target["legendFormat"], series["metric"]), points))
    is_step = custom.get("lineInterpolation") == "stepAfter"
    floor = {}
    for (label, points), color in zip(sorted(curves), COLORS):
        if custom.get("stacking"):
            points = [(at, value + floor.get(at, 0)) for at, value in points]
        x, y = [at for at, _ in points], [value for _, value in points]
        style = {"drawstyle": "steps-post"} if is_step else {}
        axes.plot(x, y, color=color, linewidth=1.3, label=label, **style)
        if custom.get("stacking") or len(curves) == 1:
            axes.fill_between(x, [floor.get(at, 0) for at in x], y, color=color, alpha=0.15, linewidth=0)
        if custom.get("stacking"):
            floor = {**floor, **dict(points)}
    for event_from, event_to, _ in events:
        axes.axvspan(event_from - begin, event_to - begin, color=SHADE, zorder=0)
    axes.set_title(panel["title"], loc="left", fontsize=9, fontweight="bold", color=INK)
    axes.set_xlim(0, end - begin)
    is_log = custom.get("scaleDistribution", {}).get("type") == "log"
    if is_log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    if "max" in defaults:
        axes.set_ylim(top=defaults["max"] * 1.08)
    elif not curves:
        axes.set_ylim(top=1)
    if is_log:
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=defaults.get("decimals") == 0))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(defaults["unit"])(value)))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{int(value) // 60}:{int(value) % 60:02}"))
    axes.tick_params(labelsize=7, colors=INK, length=2)
    axes.grid(color=FAINT, linewidth=0.5)
    for side in axes.spines.values():
        side.set_color(FAINT)
    if len(curves) > 1 or (curves and "{{" in panel["targets"][0]["legendFormat"]):
        # Beside the title, if there is room for it.
        is_long = len(panel["title"]) + sum(len(label) + 5 for label, _ in curves) > 40
        place = {"loc": "center right" if is_step else "upper right"} if is_long else {"loc": "lower right", "bbox_to_anchor": (1.01, 0.985), "ncols": 5}
        axes.legend(fontsize=6.5, frameon=False, labelcolor=INK, columnspacing=1, handlelength=1.2, handletextpad=0.4,
                    borderaxespad=0.2, **place)


def main(prometheus, begin, end, events, picture):
    begin, end = int(begin), int(end)
    with open(events, encoding="utf-8") as lines:
        events = [(float(a), float(b), words.strip()) for a, b, words in (line.split(" ", 2) for line in lines)]
    by_title = {panel["title"]: panel for panel in panels()}
    n_rows = -(-len(SHOWN) // COLUMNS)
    figure, grid = plt.subplots(n_rows, COLUMNS, figsize=(10, 1.85 * n_rows + 0.2), layout="constrained")
    figure.set_facecolor("white")
    for axes, title in zip(grid.flat, SHOWN):
        draw(axes, by_title[title], prometheus, begin, end, events)
    # What the spans are is said once, in the first panel.
    for event_from, event_to, words in events:
        grid.flat[0].text((event_from + event_to) / 2 - begin, grid.flat[0].get_ylim()[1] * 0.97, words, fontsize=6.5,
                          color=INK, ha="center", va="top", rotation=90)
    figure.savefig(picture, dpi=132)


if __name__ == "__main__":
    if len(sys.argv) != 6:
        print(__doc__, file=sys.stderr)
        sys.exit(64)
    main(*sys.argv[1:])
