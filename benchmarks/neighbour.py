"""Measures how much a busy neighbour slows training and compression down.

    python benchmarks/neighbour.py --json figures.json

`slimq train` and `slimq compress` run short jobs, on one thread while the machine is otherwise idle
and beside processes that keep every core but one busy, with the default number of threads and with
one per core. The table compares each with one thread alone, round by round; the order changes from
round to round. `GOMP_SPINCOUNT=300000` in the environment lets waiting threads spin, as libgomp
does by default.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving_table import format_table, summarize
from slimq.core.threads import available_cores
from slimq.evaluation.latency import processor_name

ROOT = Path(__file__).parents[1]
SLIMQ = [sys.executable, "-c", "from slimq.cli.main import main; main()"]
SPIN = [sys.executable, "-c", "while True: pass"]
HEAD = ["job", "unit", "threads", "neighbour", "rate", "one thread alone", "ratio", "low", "high"]
OPENMP = ("OMP_", "GOMP_", "KMP_")
UNITS = {"train": "agent steps/s", "compress": "updates/s"}


@dataclass(frozen=True)
class Job:
    """A command, a policy, and the number of agent steps or updates."""

    command: str
    policy: str
    length: int


@dataclass(frozen=True)
class Side:
    """Settings of a run.

    Attributes:
        threads: value of `--threads`; None without the option.
        beside: whether it runs beside busy processes.
    """

    threads: int | None
    beside: bool


JOBS = (
    Job("train", "cartpole", 8_000),
    Job("train", "pong", 800),
    Job("compress", "cartpole", 2_000),
    Job("compress", "pong", 150),
)
BASE = Side(1, beside=False)
SIDES = (BASE, Side(0, beside=False), Side(None, beside=True), Side(0, beside=True))


@contextlib.contextmanager
def neighbour(cores: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keeps `cores` cores busy."""
    busy = [subprocess.Popen(SPIN) for _ in range(cores)]
    try:
        yield busy
    finally:
        for process in busy:
            process.kill()
            process.wait()


def literal(value: Any) -> str:
    """A value in TOML, with inline tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return json.dumps(value)


def write(path: Path, values: dict[str, Any]) -> Path:
    """Writes a TOML file; returns its path."""
    lines = [f"{key} = {literal(value)}\n" for key, value in values.items()]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def slimq(*arguments: str) -> str:
    """Runs the command; returns what it prints.

    Raises:
        RuntimeError: it fails.
    """
    done = subprocess.run([*SLIMQ, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"slimq {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def train(job: Job, threads: list[str], folder: Path) -> float:
    """Agent steps per second in the second half of a shortened training with the shipped config."""
    config = tomllib.loads((ROOT / "configs" / f"{job.policy}.toml").read_text(encoding="utf-8"))
    config["algorithm"] |= {"steps": 2 * job.length, "learning_starts": job.length // 2}
    config["algorithm"] |= {"replay_size": 10_000, "epsilon_steps": job.length}
    config["environment"]["max_episode_steps"] = 200  # one evaluation ends every training
    config["run"] |= {"log_every": job.length, "evaluate_every": 10**9, "evaluate_episodes": 1}
    path, run = write(folder / "config.toml", config), folder / "run"
    slimq("train", str(path), "--run", str(run), "--no-publish", *threads)
    last = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    return float(json.loads(last)["train/steps_per_second"])


def compress(job: Job, threads: list[str], folder: Path) -> float:
    """Updates per second of a fine-tuning, including the collection of states."""
    values = {"updates": job.length, "rounds": 1, "states": 256, "keep_every": 1, "batch_size": 32}
    steps = [{"pass": "finetune"} | values]
    recipe = {"name": "neighbour", "network": steps, "export": {}, "accept": {"agreement": 0.01}}
    path = write(folder / "recipe.toml", recipe)
    arguments = [job.policy, str(path), "--policies", str(ROOT / "policies"), "--dry-run", "--json"]
    printed = slimq("compress", *arguments, "--work", str(folder / "work"), *threads)
    records = json.loads(printed)[0]["manifest"]["recipe"]["steps"]
    return float(job.length / next(one["seconds"] for one in records if one["name"] == "finetune"))


MEASURES: dict[str, Callable[[Job, list[str], Path], float]] = {
    "train": train,
    "compress": compress,
}


def measure(job: Job, side: Side) -> float:
    """The job's rate, per second."""
    threads = [] if side.threads is None else ["--threads", str(side.threads)]
    busy = max(1, available_cores() - 1) if side.beside else 0
    with tempfile.TemporaryDirectory() as folder, neighbour(busy):
        return MEASURES[job.command](job, threads, Path(folder))


def run(jobs: list[Job], rounds: int) -> dict[Job, dict[Side, list[float]]]:
    """Every job's rates, side by side and round by round."""
    rates: dict[Job, dict[Side, list[float]]] = {job: {side: [] for side in SIDES} for job in jobs}
    for index in range(rounds):
        for job in jobs:
            for place in range(len(SIDES)):
                side = SIDES[(index + place) % len(SIDES)]
                rate = measure(job, side)
                rates[job][side].append(rate)
                print(f"round {index + 1}: {job}, {side}: {rate:.4g}/s", file=sys.stderr)
    return rates


def figures(job: Job, rates: dict[Side, list[float]]) -> list[dict[str, Any]]:
    """The rates of each side and their ratios to one thread alone."""
    return [
        {
            "command": job.command,
            "policy": job.policy,
            "unit": UNITS[job.command],
            "threads": side.threads,
            "neighbour": side.beside,
            "rates": taken,
            "one_thread_alone": rates[BASE],
            "ratio": asdict(
                summarize([ours / base for ours, base in zip(taken, rates[BASE], strict=True)])
            ),
        }
        for side, taken in rates.items()
        if side != BASE
    ]


def row(figure: dict[str, Any]) -> list[str]:
    """A line of the table."""
    threads = {None: "default", 0: "all cores"}[figure["threads"]]
    medians = [f"{statistics.median(figure[key]):,.0f}" for key in ("rates", "one_thread_alone")]
    ratios = [f"{figure['ratio'][key]:.2f}" for key in ("median", "low", "high")]
    name = f"{figure['command']} {figure['policy']}"
    busy = "busy" if figure["neighbour"] else "none"
    return [name, figure["unit"], threads, busy, *medians, *ratios]


def main() -> None:
    """Prints the table."""
    names = {f"{job.command}-{job.policy}": job for job in JOBS}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", nargs="+", choices=names, default=list(names))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--scale", type=float, default=1.0, help="of every job's length")
    parser.add_argument("--json", type=Path, help="file for all rates")
    options = parser.parse_args()
    chosen = [names[name] for name in options.jobs]
    jobs = [Job(job.command, job.policy, int(job.length * options.scale)) for job in chosen]
    found = [one for job, rates in run(jobs, options.rounds).items() for one in figures(job, rates)]
    variables = {key: value for key, value in os.environ.items() if key.startswith(OPENMP)}
    machine = {"processor": processor_name(), "cores": available_cores(), "variables": variables}
    print(f"{machine['processor']}, {machine['cores']} cores\n")
    print(format_table(HEAD, [row(figure) for figure in found]))
    if options.json:
        options.json.write_text(json.dumps(machine | {"figures": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
