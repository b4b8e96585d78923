"""Measures the service against a bare ASGI application and a plain FastAPI one, side by side.

    python benchmarks/serving.py --rounds 6 --seconds 3

Each round starts every server afresh, as processes on loopback, and gives both sides of each case
the same load with wrk, one after the other, in an order that changes from round to round. Servers
that are not being measured are paused (SIGSTOP). Ratios are reported: their two sides are measured
within seconds of each other, so that other load on the machine affects both. See
docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import serving_repositories as repositories
from serving_cases import CASES, SERVERS, Case
from serving_load import LoadError, find_wrk
from serving_processes import ServerError
from serving_requests import AnswerError, observe
from serving_rounds import Bench, run
from serving_table import Result, show_figures, show_ratios, summarize, verdict
from slimq.core.errors import SlimqError
from slimq.core.repository import Repository

ROOT = Path(__file__).parents[1]
PACKAGES = ("onnxruntime", "uvicorn", "uvloop", "httptools", "fastapi", "pydantic", "orjson")


def choose(names: Sequence[str]) -> list[Case]:
    """The cases with these names; all cases if there are no names.

    Raises:
        SystemExit: a name is unknown.
    """
    known = {case.name: case for case in CASES}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no case is named {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)] if names else list(CASES)


def facts(bench: Bench, rounds: int) -> dict[str, Any]:
    """The circumstances of the measurements: machine, versions and settings."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    models = [
        line.partition(":")[2].strip() for line in cpuinfo.splitlines() if "model name" in line
    ]
    shipped = repositories.POLICIES
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(bench.all_cores),
        "pinned": bench.server_cores != bench.load_cores,
        "load_average": os.getloadavg()[0],
        "rounds": rounds,
        "seconds": bench.seconds,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "observations": {name: observe(bench.source, name)[1] for name in shipped},
        "servers": SERVERS,
    }


def describe(known: dict[str, Any]) -> str:
    """Formats the circumstances as lines."""
    packages = ", ".join(f"{name} {number}" for name, number in known["packages"].items())
    pinned = "server and wrk on a core each" if known["pinned"] else "nothing pinned"
    observations = "; ".join(f"{name}: {what}" for name, what in known["observations"].items())
    cores = f"{known['cores']} cores, load average {known['load_average']:.2f}"
    return "\n".join(
        [
            f"{known['processor']}, {cores}, {pinned}",
            f"{known['rounds']} rounds of {known['seconds']} s; observations: {observations}",
            f"Python {known['python']}, {packages}",
        ]
    )


def as_json(known: dict[str, Any], results: Sequence[Result]) -> str:
    """Formats everything that was measured as JSON."""
    rows = []
    for result in results:
        ratio = summarize(result.ratios)
        row = asdict(result.case) | asdict(ratio)
        row["verdict"] = verdict(result.case.aim, ratio)
        row["ratios"] = result.ratios
        row["rounds"] = {
            "measured": [asdict(one) for one in result.measured],
            "base": [asdict(one) for one in result.base],
        }
        rows.append(row)
    return json.dumps(known | {"cases": rows}, indent=2) + "\n"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    names = ", ".join(case.name for case in CASES)
    parser.add_argument("--rounds", type=int, default=6, help="how often each case is measured (6)")
    parser.add_argument("--seconds", type=int, default=3, help="of one measurement (3)")
    parser.add_argument("--cases", nargs="+", default=[], metavar="NAME", help=f"of {names}")
    parser.add_argument("--policies", type=Path, default=ROOT / "policies", help="what is served")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything here")
    parser.add_argument(
        "--pin",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="give the server and wrk a core each, but for cases about using every core (default)",
    )
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds must be at least 1")
    return options


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Makes SIGTERM end the run as Ctrl-C does, so that no process is left."""

    def end(number: int, frame: types.FrameType | None) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    options = parse_arguments(arguments)
    chosen = choose(options.cases)
    if not hasattr(os, "sched_setaffinity"):
        sys.exit("this needs Linux: processor time is read from /proc")
    all_cores = os.sched_getaffinity(0)
    pin = options.pin and len(all_cores) > 1
    pair = ({min(all_cores)}, {max(all_cores)}) if pin else (all_cores, all_cores)
    try:
        find_wrk()
        with tempfile.TemporaryDirectory(prefix="slimq-bench-") as folder, ending_on_signals():
            source = Repository(options.policies)
            bench = Bench(source, Path(folder), options.seconds, *pair, all_cores)
            known = facts(bench, options.rounds)
            print(describe(known), flush=True)
            results = run(bench, chosen, options.rounds)
    except (LoadError, ServerError, AnswerError, SlimqError, OSError) as error:
        sys.exit(f"benchmark failed: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    if options.json:
        options.json.write_text(as_json(known, results), encoding="utf-8")
    print(f"\n{show_figures(results)}\n\n{show_ratios(results)}")
    total = sum(one.load.requests for result in results for one in (*result.measured, *result.base))
    print(f"\n{total:,} requests measured, none failed")


if __name__ == "__main__":
    main()
