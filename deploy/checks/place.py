"""Where things are, and how programs are run."""

import functools
import json
import os
import pathlib
import re
import subprocess

import yaml


class Place:
    """The repository, from whose root everything is run."""

    def __init__(self, tools: str):
        self.tools = pathlib.Path(tools)
        self.binaries = pathlib.Path(
            os.environ.get("TEST_BINARIES") or pathlib.Path(os.environ.get("CARGO_TARGET_DIR", "target"), "debug")
        )

    def text(self, path: str) -> str:
        return pathlib.Path(path).read_text(encoding="utf-8")

    def yaml(self, path: str):
        return yaml.safe_load(self.text(path))

    def json(self, path: str):
        return json.loads(self.text(path))

    def run(self, *command: str, env: dict | None = None, stdin: str = "") -> subprocess.CompletedProcess:
        tool = self.tools / command[0]
        program = str(tool) if tool.exists() else command[0]
        return subprocess.run(
            [program, *command[1:]], input=stdin, text=True, capture_output=True, timeout=60, env={**os.environ, **(env or {})}
        )

    def complaints(self, *command: str, **more):
        """What a program says when it does not end well."""
        done = self.run(*command, **more)
        if done.returncode != 0:
            yield f"{' '.join(command)}: exit status {done.returncode}: {done.stdout}{done.stderr}".strip()

    @functools.cached_property
    def source(self) -> str:
        """All Rust code of the binaries."""
        crates = ("shared", "ingress", "worker", "dlq-tool")
        return "\n".join(path.read_text() for crate in crates for path in sorted(pathlib.Path(crate, "src").rglob("*.rs")))

    def is_variable(self, name: str) -> bool:
        """Whether the code reads the variable `name`, or the file that `NAME_FILE` names."""
        return any(f'"{one}"' in self.source for one in (name, name.removesuffix("_FILE")))

    @functools.cached_property
    def metrics(self) -> set:
        """The names of all metrics that the code has."""
        return set(re.findall(r'"(webhook_[a-z_]+)"', self.source))

    def unknown_metrics(self, query: str) -> list:
        """Metrics of ours in a query that the code does not have."""
        known = self.metrics
        base = lambda name: re.sub(r"_(bucket|count|sum)$", "", name)
        return [name for name in re.findall(r"\bwebhook_[a-z_]+\b", query) if name not in known and base(name) not in known]


def duration(text) -> float:
    """Seconds of `1m30s`, `500ms`, `35s`; a bare number counts as milliseconds."""
    text = str(text)
    if text.isdigit():
        return int(text) / 1000
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    assert "".join(number + unit for number, unit in parts) == text, f"no duration: {text}"
    return sum(float(number) * units[unit] for number, unit in parts)
