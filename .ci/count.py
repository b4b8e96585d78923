"""Adds up the JUnit reports of a folder: what took longest, and how many passed and failed."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

SLOWEST = 25
"""Modules that are listed, by the time of their tests."""


def main(folder: Path) -> int:
    """Prints both; the exit code is 1 when no test ran."""
    total = failed = skipped = 0
    seconds: dict[str, float] = {}
    for report in sorted(folder.glob("*.xml")):
        for suite in ElementTree.parse(report).iter("testsuite"):  # noqa: S314 - our own files
            total += int(suite.get("tests", 0))
            failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            skipped += int(suite.get("skipped", 0))
            for case in suite.iter("testcase"):
                module = f"{report.stem.strip('-')}: {case.get('classname')}"
                seconds[module] = seconds.get(module, 0.0) + float(case.get("time", 0))
    for module, spent in sorted(seconds.items(), key=lambda item: -item[1])[:SLOWEST]:
        sys.stdout.write(f"{spent:7.0f} s  {module}\n")
    sys.stdout.write(f"{total - failed - skipped} passed, {failed} failed, {skipped} skipped\n")
    return 0 if total else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
