#!/usr/bin/env python3
"""What grafana.json asks of Prometheus, for dev/ops-test and dev/dashboard.

    panels.py rules                 every expression as a recording rule, for promtool check rules
    panels.py check SCRAPE DOC      names, types and links of the dashboard and the alerts, against a worker's /metrics
                                    and docs/operating.md; prints what is wrong, and ends with 1 then

Relies on the standard library only.
"""

import json
import re
import sys
from pathlib import Path

OPS = Path(__file__).resolve().parent
METRIC = re.compile(r"\b(?:stock_db_writer|process)_[a-z_]+\b")
# What Prometheus itself makes.
VARIABLES = {
    "$__rate_interval": "1m",
    "$job": ".*",
    "$instance": ".*",
    "$topic": ".*",
}


def substituted(expression, rate_interval="1m"):
    """As Grafana sends it, with everything chosen."""
    for name, value in {**VARIABLES, "$__rate_interval": rate_interval}.items():
        expression = expression.replace(name, value)
    if "$" in expression:
        raise SystemExit(f"grafana.json: a variable is not known here: {expression}")
    return expression


def dashboard():
    return json.loads((OPS / "grafana.json").read_text())


def panels():
    """All panels that show something, in their order."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions():
    """(where, expression) of every target, annotation and variable."""
    board = dashboard()
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], substituted(target["expr"])
    for annotation in board["annotations"]["list"]:
        yield annotation["name"], substituted(annotation["expr"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], substituted(re.match(r"label_values\((.*), \w+\)$", variable["definition"])[1])


def rules():
    print("groups:\n  - name: grafana.json\n    rules:")
    for number, (_, expression) in enumerate(expressions()):
        print(f"      - record: panel:{number}\n        expr: {json.dumps(expression)}")


def wrong_in_the_dashboard():
    board = dashboard()
    for key in ("title", "uid", "schemaVersion"):
        if not board.get(key):
            yield f"grafana.json: has no {key}"
    seen, taken = set(), set()
    for panel in board["panels"]:
        title = panel["title"]
        if panel["id"] in seen:
            yield f"grafana.json: {title}: its id is another panel's"
        seen.add(panel["id"])
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                if (x, y) in taken or x >= 24:
                    yield f"grafana.json: {title}: lies on another panel, or outside"
                taken.add((x, y))
    for panel in panels():
        title, defaults = panel["title"], panel["fieldConfig"]["defaults"]
        if not panel.get("description") or not defaults.get("unit"):
            yield f"grafana.json: {title}: has no description or no unit"
        for part in [panel, *panel["targets"]]:
            if part["datasource"]["uid"] != "${datasource}":
                yield f"grafana.json: {title}: is bound to one data source"
        for target in panel["targets"]:
            if "$instance" not in target["expr"] or not target.get("legendFormat"):
                yield f"grafana.json: {title}: {target['refId']} obeys no variable, or has no legend"


def alerts():
    """Name and lines of each rule. The file is plain enough to be read without a YAML library."""
    text = (OPS / "alerts.yml").read_text()
    return [(block.split("\n", 1)[0].strip(), block) for block in text.split("- alert: ")[1:]]


def wrong_in_the_alerts(doc):
    tests = (OPS / "alerts_test.yml").read_text()
    anchors = {re.sub(r"[^\w\- ]", "", line.lstrip("# ")).strip().lower().replace(" ", "-")
               for line in doc.splitlines() if line.startswith("#")}
    for name, block in alerts():
        for key in ("severity:", "summary:", "description:", "runbook:"):
            if key not in block:
                yield f"alerts.yml: {name}: has no {key}"
        anchor = re.search(r"runbook: docs/operating\.md#(\S+)", block)
        if not anchor or anchor[1] not in anchors:
            yield f"alerts.yml: {name}: its runbook is no section of docs/operating.md"
        asked = re.escape(f"""'ALERTS{{alertname="{name}", alertstate="firing"}}'""")
        if not re.search(asked + r", exp_samples: \[\]", tests):
            yield f"alerts_test.yml: {name}: is never seen silent"
        if not re.search(asked + r"\n\s+exp_samples:\n", tests):
            yield f"alerts_test.yml: {name}: is never seen firing"


def scraped(text):
    """The type of each metric, by name; and the names of its samples."""
    types, helped, samples, wrong = {}, set(), set(), []
    for line in text.splitlines():
        words = line.split(" ", 3)
        if line.startswith("# TYPE "):
            types[words[2]] = words[3]
        elif line.startswith("# HELP "):
            if len(words) > 3 and words[3].strip():
                helped.add(words[2])
        elif line and not line.startswith("#"):
            samples.add(re.match(r"[a-zA-Z_:][a-zA-Z0-9_:]*", line)[0])
    for sample in sorted(samples):
        family = re.sub(r"_(bucket|sum|count)$", "", sample)
        family = family if types.get(family) == "histogram" else sample
        if family not in types or family not in helped:
            wrong.append(f"/metrics: {sample}: has no TYPE or no HELP")
    return types, samples, wrong


def documented(doc):
    """(name, type) in the table of metrics."""
    section = doc.split("\n### Metrics\n", 1)[-1].split("\n#", 1)[0]
    return dict(re.findall(r"^\| `((?:stock_db_writer|process)_\w+)[^|]*\| (\w+) \|", section, re.M))


def check(scrape, doc):
    doc = Path(doc).read_text()
    types, samples, wrong = scraped(Path(scrape).read_text())
    wrong += [*wrong_in_the_dashboard(), *wrong_in_the_alerts(doc)]
    used = list(expressions()) + [(name, "\n".join(re.findall(r"expr:(.*?)\n        (?:for|labels):", block, re.S)))
                                  for name, block in alerts()]
    for where, expression in used:
        for name in METRIC.findall(expression):
            if name not in samples:
                wrong.append(f"{where}: {name} is in no sample of /metrics")
    described = documented(doc)
    ours = {name: kind for name, kind in types.items() if METRIC.fullmatch(name)}
    for name in sorted(described.keys() | ours.keys()):
        if described.get(name) != ours.get(name):
            wrong.append(f"docs/operating.md: {name} is {described.get(name)}, and {ours.get(name)} in /metrics")
    print("\n".join(dict.fromkeys(wrong)), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["rules"]:
            rules()
        case ["check", scrape, doc]:
            sys.exit(check(scrape, doc))
        case _:
            print(__doc__, file=sys.stderr)
            sys.exit(64)
