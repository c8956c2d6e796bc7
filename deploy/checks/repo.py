"""Access to the files of the repository and to external programs."""

import functools
import json
import os
import pathlib
import re
import subprocess

import yaml


class Repo:
    """The repository. Every path is relative to its root, the working directory."""

    def __init__(self, tools: str):
        self.tools = pathlib.Path(tools)
        debug = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", "target"), "debug")
        self.binaries = pathlib.Path(os.environ.get("TEST_BINARIES") or debug)

    def text(self, path: str) -> str:
        return pathlib.Path(path).read_text(encoding="utf-8")

    def yaml(self, path: str):
        return yaml.safe_load(self.text(path))

    def json(self, path: str):
        return json.loads(self.text(path))

    def run(
        self, *command: str, env: dict | None = None, stdin: str = ""
    ) -> subprocess.CompletedProcess:
        """Runs a program, from the tools folder if it is there."""
        tool = self.tools / command[0]
        program = str(tool) if tool.exists() else command[0]
        return subprocess.run(
            [program, *command[1:]],
            input=stdin,
            text=True,
            capture_output=True,
            timeout=60,
            env={**os.environ, **(env or {})},
        )

    def run_or_report(self, *command: str, **more):
        """Runs a program and yields its output as a problem if it fails."""
        done = self.run(*command, **more)
        if done.returncode != 0:
            output = f"{done.stdout}{done.stderr}"
            yield f"{' '.join(command)}: exit status {done.returncode}: {output}".strip()

    @functools.cached_property
    def source(self) -> str:
        """All Rust code of the binaries."""
        crates = ("shared", "ingress", "worker", "dlq-tool")
        files = (sorted(pathlib.Path(crate, "src").rglob("*.rs")) for crate in crates)
        return "\n".join(path.read_text() for paths in files for path in paths)

    def is_variable(self, name: str) -> bool:
        """Returns whether the code reads the variable `name`, with or without `_FILE`."""
        return any(f'"{one}"' in self.source for one in (name, name.removesuffix("_FILE")))

    @functools.cached_property
    def metrics(self) -> set:
        """The names of all metrics in the code."""
        return set(re.findall(r'"(webhook_[a-z_]+)"', self.source))

    def unknown_metrics(self, query: str) -> list:
        """Returns the metrics of a query that the code does not have."""
        known = self.metrics
        base = lambda name: re.sub(r"_(bucket|count|sum)$", "", name)
        names = re.findall(r"\bwebhook_[a-z_]+\b", query)
        return [name for name in names if name not in known and base(name) not in known]


def duration(text) -> float:
    """Returns the seconds of `1m30s`, `500ms` or `35s`. A bare number is in milliseconds."""
    text = str(text)
    if text.isdigit():
        return int(text) / 1000
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    assert "".join(number + unit for number, unit in parts) == text, f"not a duration: {text}"
    return sum(float(number) * units[unit] for number, unit in parts)
