"""Alert rules, their tests, the runbook and the dashboard."""

import re

from place import duration

ALERTS = "deploy/prometheus/alerts.yml"
TESTS = "deploy/prometheus/alerts_test.yml"
RUNBOOK = "deploy/runbook.md"
DASHBOARD = "deploy/grafana/dashboards/tributary.json"

# What users may rely on; more may be added.
PROMISED = (
    "BacklogHigh OldestEventOld DeadLettersGrowing FailureRateHigh RateLimitHits SignatureFailures RedisDown DatabaseDown "
    "WorkerSilent NoData DestinationFailing DataLost"
)


def _alerts(place):
    return [rule for group in place.yaml(ALERTS)["groups"] for rule in group["rules"]]


def promtool(place):
    """promtool accepts the configuration and the rules."""
    yield from place.complaints("promtool", "check", "config", "--lint=all", "--lint-fatal", "deploy/prometheus/prometheus.yml")
    yield from place.complaints("promtool", "check", "rules", "--lint=all", "--lint-fatal", ALERTS)


def tests(place):
    """The tests of the rules pass."""
    yield from place.complaints("promtool", "test", "rules", TESTS)


def complete(place):
    """Every alert has a duration, a severity, a summary, and a description that names its section of the runbook."""
    alerts = _alerts(place)
    names = [rule["alert"] for rule in alerts]
    yield from (f"{name} is missing" for name in PROMISED.split() if f"Webhook{name}" not in names)
    yield from (f"{name} is there twice" for name in names if names.count(name) > 1)
    for rule in alerts:
        name, annotations = rule["alert"], rule.get("annotations", {})
        if not isinstance(rule.get("for"), str) or duration(rule["for"]) < 0:
            yield f"{name}: no `for`"
        if rule.get("labels", {}).get("severity") not in ("critical", "warning"):
            yield f"{name}: no severity"
        if not annotations.get("summary"):
            yield f"{name}: no summary"
        if f'See "{name}" in {RUNBOOK}.' not in annotations.get("description", ""):
            yield f"{name}: the description does not name its section of the runbook"
        yield from (f"{name}: the code has no metric {metric}" for metric in place.unknown_metrics(rule["expr"]))


def covered(place):
    """Every alert has a test in which it fires and one in which it does not."""
    fires, holds = set(), set()
    for test in place.yaml(TESTS)["tests"]:
        for case in test.get("alert_rule_test", []):
            (fires if case.get("exp_alerts") else holds).add(case["alertname"])
    for rule in _alerts(place):
        if rule["alert"] not in fires:
            yield f"{rule['alert']} is never expected to fire"
        # At once is at once: for that one, a moment before is the moment without a cause.
        if rule["alert"] not in holds:
            yield f"{rule['alert']} is never expected not to fire"


def runbook(place):
    """The runbook has a section for every alert, with what it means, how to see it and what to do, and no other."""
    sections = re.split(r"^### +", place.text(RUNBOOK), flags=re.M)[1:]
    sections = {section.split("\n", 1)[0].strip(): section for section in sections}
    alerts = {rule["alert"]: rule["labels"]["severity"] for rule in _alerts(place)}
    yield from (f"no section for {name}" for name in alerts if name not in sections)
    yield from (f"a section for {name}, which is no alert" for name in sections if name not in alerts)
    for name, section in sections.items():
        for part in ("**Means.**", "**See it.**", "**Do.**"):
            if part not in section:
                yield f"{name}: {part} is missing"


def dashboard(place):
    """The dashboard is whole: ids, places, data sources, units; its metrics exist."""
    board = place.json(DASHBOARD)
    ids = [panel["id"] for panel in board["panels"]]
    yield from (f"panel id {one} is there twice" for one in set(ids) if ids.count(one) > 1)
    taken = {}
    for panel in board["panels"]:
        at = panel["gridPos"]
        if at["x"] + at["w"] > 24:
            yield f"{panel['title']}: too wide"
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            if taken.setdefault(cell, panel["title"]) != panel["title"]:
                yield f"{panel['title']} lies over {taken[cell]}"
                break
        if panel["type"] == "row":
            continue
        if not panel.get("description"):
            yield f"{panel['title']}: no description"
        if panel["type"] != "heatmap" and not panel["fieldConfig"]["defaults"].get("unit"):
            yield f"{panel['title']}: no unit"
        for target in panel["targets"]:
            if target["datasource"] != {"type": "prometheus", "uid": "${datasource}"}:
                yield f"{panel['title']}: another data source than the chosen one"
            for metric in place.unknown_metrics(target["expr"]):
                yield f"{panel['title']}: the code has no metric {metric}"
    names = {variable["name"] for variable in board["templating"]["list"]}
    if not {"datasource", "platform", "instance"} <= names:
        yield f"variables: {names}"


CHECKS = (promtool, tests, complete, covered, runbook, dashboard)
