"""Runs every check of deploy/ and reports in the format of cargo's tests. See deploy/check."""

import sys
import traceback

import containers
import kubernetes
import rules
from repo import Repo


def main() -> int:
    repo = Repo(tools=sys.argv[1])
    if sys.argv[2:] == ["--write"]:
        kubernetes.write(repo)
        return 0
    if sys.argv[2:]:
        print(f"unknown: {' '.join(sys.argv[2:])} (there is only --write)", file=sys.stderr)
        return 2
    passed, failed = 0, 0
    for module in (rules, containers, kubernetes):
        for check in module.CHECKS:
            name = f"{module.__name__}: {check.__doc__.splitlines()[0].rstrip('.')}"
            try:
                problems = list(check(repo))
            except Exception:  # A check that raises has failed.
                problems = [traceback.format_exc()]
            print(f"{name} ... {'FAILED' if problems else 'ok'}", flush=True)
            for problem in problems:
                print(f"    {problem}")
            passed, failed = passed + (not problems), failed + bool(problems)
    print(f"\ntest result: {'FAILED' if failed else 'ok'}. {passed} passed; {failed} failed;")
    return 1 if failed else 0


sys.exit(main())
