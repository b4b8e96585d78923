"""Adds up the JUnit reports of a folder; its last line says how many tests passed and failed."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree


def main(folder: Path) -> int:
    """Prints the line; the exit code is 1 when no test ran."""
    total = failed = skipped = 0
    for report in sorted(folder.glob("*.xml")):
        for suite in ElementTree.parse(report).iter("testsuite"):  # noqa: S314 - our own files
            total += int(suite.get("tests", 0))
            failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            skipped += int(suite.get("skipped", 0))
    sys.stdout.write(f"{total - failed - skipped} passed, {failed} failed, {skipped} skipped\n")
    return 0 if total else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
