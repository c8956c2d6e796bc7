"""Checks of the alert rules, their tests, the runbook and the dashboard."""

import re

from repo import duration

ALERTS = "deploy/prometheus/alerts.yml"
TESTS = "deploy/prometheus/alerts_test.yml"
RUNBOOK = "docs/operate/runbook.md"
DASHBOARD = "deploy/grafana/dashboards/tributary.json"

# Alerts that users may rely on. Others may be added.
PROMISED = (
    "BacklogHigh OldestEventOld DeadLettersGrowing FailureRateHigh RateLimitHits SignatureFailures "
    "RedisDown DatabaseDown WorkerSilent NoData DestinationFailing DataLost"
)


def _alerts(repo):
    return [rule for group in repo.yaml(ALERTS)["groups"] for rule in group["rules"]]


def promtool(repo):
    """promtool accepts the configuration and the rules."""
    lint = ("--lint=all", "--lint-fatal")
    config = "deploy/prometheus/prometheus.yml"
    yield from repo.run_or_report("promtool", "check", "config", *lint, config)
    yield from repo.run_or_report("promtool", "check", "rules", *lint, ALERTS)


def tests(repo):
    """The tests of the alert rules pass."""
    yield from repo.run_or_report("promtool", "test", "rules", TESTS)


def complete(repo):
    """Every alert has a duration, a severity, a summary, and a link to its runbook section."""
    alerts = _alerts(repo)
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
        if f"See {RUNBOOK}#{name.lower()}." not in annotations.get("description", ""):
            yield f"{name}: the description does not link its section of the runbook"
        unknown = repo.unknown_metrics(rule["expr"])
        yield from (f"{name}: the code has no metric {metric}" for metric in unknown)


def covered(repo):
    """Every alert has a case in which it fires and one in which it does not."""
    fires, holds = set(), set()
    for test in repo.yaml(TESTS)["tests"]:
        for case in test.get("alert_rule_test", []):
            (fires if case.get("exp_alerts") else holds).add(case["alertname"])
    for rule in _alerts(repo):
        if rule["alert"] not in fires:
            yield f"{rule['alert']} is never expected to fire"
        if rule["alert"] not in holds:
            yield f"{rule['alert']} is never expected not to fire"


def runbook(repo):
    """The runbook has a section with meaning, check and remedy for every alert, and no other."""
    sections = re.split(r"^### +", repo.text(RUNBOOK), flags=re.M)[1:]
    sections = {section.split("\n", 1)[0].strip(): section for section in sections}
    alerts = {rule["alert"]: rule["labels"]["severity"] for rule in _alerts(repo)}
    yield from (f"no section for {name}" for name in alerts if name not in sections)
    unknown = (name for name in sections if name not in alerts)
    yield from (f"a section for {name}, which is no alert" for name in unknown)
    for name, section in sections.items():
        for part in ("**Meaning.**", "**Check.**", "**Do.**"):
            if part not in section:
                yield f"{name}: {part} is missing"


def dashboard(repo):
    """The dashboard has unique ids, no overlaps, data sources and units; its metrics exist."""
    board = repo.json(DASHBOARD)
    ids = [panel["id"] for panel in board["panels"]]
    yield from (f"panel id {one} is there twice" for one in set(ids) if ids.count(one) > 1)
    taken = {}
    for panel in board["panels"]:
        at = panel["gridPos"]
        if at["x"] + at["w"] > 24:
            yield f"{panel['title']}: too wide"
        columns = range(at["x"], at["x"] + at["w"])
        rows = range(at["y"], at["y"] + at["h"])
        for cell in ((x, y) for x in columns for y in rows):
            if taken.setdefault(cell, panel["title"]) != panel["title"]:
                yield f"{panel['title']} overlaps {taken[cell]}"
                break
        if panel["type"] == "row":
            continue
        if not panel.get("description"):
            yield f"{panel['title']}: no description"
        if panel["type"] != "heatmap" and not panel["fieldConfig"]["defaults"].get("unit"):
            yield f"{panel['title']}: no unit"
        for target in panel["targets"]:
            if target["datasource"] != {"type": "prometheus", "uid": "${datasource}"}:
                yield f"{panel['title']}: does not use the selected data source"
            for metric in repo.unknown_metrics(target["expr"]):
                yield f"{panel['title']}: the code has no metric {metric}"
    names = {variable["name"] for variable in board["templating"]["list"]}
    if not {"datasource", "platform", "instance"} <= names:
        yield f"variables: {names}"


CHECKS = (promtool, tests, complete, covered, runbook, dashboard)
