"""Writes the tables of docs/devices.md: each variant on emulated microcontrollers.

    python benchmarks/devices.py            prints them
    python benchmarks/devices.py --write    replaces those of the page
    python benchmarks/devices.py --check    exits with 1 if the page has others

Every variant that fits is exported, compiled for each core, and run on QEMU's emulated board, where
its Q-values must be bit-identical to this machine's. That takes some minutes and needs
arm-none-eabi-gcc and qemu-system-arm. The figures depend only on the compiler's version, which the
page states, since instructions are counted, not timed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pages import add_page_options, settle
from slimq.core.errors import CheckFailedError, InvalidInputError
from slimq.core.repository import Repository
from slimq.core.text_tables import markdown_table
from slimq_compression.export.c.compilers import build_library
from slimq_compression.export.c.golden import choose, places
from slimq_compression.export.c.host import HostPolicy
from slimq_compression.export.emulator.boards import BOARDS, has_tools
from slimq_compression.export.emulator.player import play_on
from slimq_compression.export.layers.tensors import ELEMENTS
from slimq_compression.export.options import Options
from slimq_compression.export.report import CReport
from slimq_compression.export.targets import export_variant
from suite import number

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "devices.md"
MISSING = "–"
Subject = tuple[str, str]
"""A policy and a variant."""
STATES = 20
"""Number of recorded states on which Q-values are compared and instructions counted."""
CLOCK_HZ = 64_000_000
LARGE_FLASH, LARGE_RAM = 512_000, 128_000
"""Bytes of memory of common microcontrollers with a Cortex-M4."""
SMALL_FLASH, SMALL_RAM = 128_000, {"cortex-m0": 12_000, "cortex-m3": 64_000}
"""Bytes of memory of small microcontrollers; the test program needs some of the M0's 16 kB."""
LARGE_HEAD = (
    "policy",
    "variant",
    "file, bytes",
    "flash, bytes",
    "RAM, bytes",
    "of which stack",
    "MACs",
    "instructions",
    "ms at 64 MHz",
    "same action",
    "ΔQ / range",
    "return",
)
SMALL_HEAD = (
    "policy",
    "variant",
    "flash, M0",
    "RAM, M0",
    "instructions, M0",
    "flash, M3",
    "RAM, M3",
    "instructions, M3",
)
NAMES = 2
"""Number of leading columns of both tables that are text."""


@dataclass(frozen=True)
class Run:
    """A variant on a board.

    Attributes:
        report: report of the export.
        instructions: instructions per action, averaged over recorded frames.
    """

    report: CReport
    instructions: int


def run_variant(repository: Repository, subject: Subject, core: str, options: Options) -> Run | str:
    """Exports a variant and runs it on a board; returns the reason if the export is refused.

    Raises:
        CheckFailedError: the board's Q-values differ from this machine's.
    """
    policy, variant = subject
    manifest = repository.policy(policy)
    states = repository.calibration(manifest)
    if states is None:
        return "the policy has no recorded states"
    chosen = choose(states, places(len(states), STATES))
    actions, element = len(manifest.actions), ELEMENTS[manifest.observation.dtype]
    with tempfile.TemporaryDirectory() as temporary:
        folder, library = Path(temporary) / "export", Path(temporary) / "policy.so"
        try:
            report: CReport = export_variant(repository, policy, variant, "c", folder, options)
        except InvalidInputError as error:
            return error.expected.removeprefix("one without ").partition(",")[0]
        except CheckFailedError as error:
            return str(error).partition(";")[0].partition(" needs ")[2]
        if not build_library(folder, options.prefix, library):
            raise CheckFailedError("there is no C compiler for this machine")
        host = HostPolicy(library, options.prefix, report.ram.state, actions)
        board = BOARDS[core]
        with play_on(board, folder, options.prefix, element, actions, options.optimize) as device:
            if device.on_states(chosen).tobytes() != host.on_states(chosen).tobytes():
                raise CheckFailedError(f"{policy}/{variant}: other bits on {core} than here")
            device.reset()
            for row in chosen.indices:
                device.act(chosen.frames[row[-1]])
            counted = device.instructions
    return Run(report, round(sum(counted) / len(counted)))


def large_table(
    repository: Repository, subjects: Sequence[Subject], pool: ThreadPoolExecutor
) -> tuple[str, list[str]]:
    """The table of variants on a Cortex-M4, and notes with the reasons why others are missing."""
    options = Options(LARGE_FLASH, LARGE_RAM, cpu="cortex-m4", optimize="speed")
    run_one = partial(run_variant, repository, core="cortex-m4", options=options)
    runs = pool.map(run_one, subjects)
    lines: list[Sequence[str]] = [LARGE_HEAD]
    refused, compiler = [], ""
    for (policy, variant), run in zip(subjects, runs, strict=True):
        if isinstance(run, str):
            refused.append(f"`{policy}` `{variant}`: {run}")
            continue
        compiler = run.report.flash.compiler or ""
        lines.append(large_row(repository, policy, variant, run))
    return markdown_table(lines, NAMES), [*refused, f"compiled by {compiler}"]


def large_row(repository: Repository, policy: str, variant: str, run: Run) -> tuple[str, ...]:
    """The cells of a variant on a Cortex-M4."""
    report, evidence = run.report, repository.report(policy, variant)
    agreement = report.agreement
    mean = None if evidence is None else evidence.mean
    return (
        f"`{policy}`",
        f"`{variant}`",
        f"{repository.variant(policy, variant).model.bytes:,}",
        f"{report.flash.bytes:,}",
        f"{report.ram.bytes:,}",
        f"{report.ram.stack:,}",
        f"{report.macs:,}",
        f"{run.instructions:,}",
        f"{1e3 * run.instructions / CLOCK_HZ:.3g}",
        MISSING if agreement is None else f"{agreement.same_actions_without_ties:.1%}",
        MISSING if agreement is None else f"{agreement.relative:.0e}",
        MISSING if mean is None else number(mean),
    )


def small_table(
    repository: Repository, subjects: Sequence[Subject], pool: ThreadPoolExecutor
) -> str:
    """The table of variants that fit a Cortex-M0, a Cortex-M3, or both."""
    columns = []
    for core, ram in SMALL_RAM.items():
        options = Options(SMALL_FLASH, ram, cpu=core, optimize="size")
        run_one = partial(run_variant, repository, core=core, options=options)
        columns.append([small_cells(run) for run in pool.map(run_one, subjects)])
    lines: list[Sequence[str]] = [SMALL_HEAD]
    for (policy, variant), *cells in zip(subjects, *columns, strict=True):
        figures = [figure for found in cells for figure in found]
        if set(figures) != {MISSING}:
            lines.append((f"`{policy}`", f"`{variant}`", *figures))
    return markdown_table(lines, NAMES)


def small_cells(run: Run | str) -> tuple[str, ...]:
    """The cells of a variant for one core."""
    if isinstance(run, str):
        return MISSING, MISSING, MISSING
    figures = (run.report.flash.bytes, run.report.ram.bytes, run.instructions)
    return tuple(f"{figure:,}" for figure in figures)


def subjects_of(repository: Repository, policies: Sequence[str]) -> Iterator[Subject]:
    """Yields policies and variants, in the order of the tables."""
    for policy in policies or repository.policies():
        for variant in repository.variants(policy):
            yield policy, variant


def measure_sections(repository: Repository, policies: Sequence[str], jobs: int) -> dict[str, str]:
    """The generated parts of the page, by the names in their markers."""
    subjects = [*subjects_of(repository, policies)]
    with ThreadPoolExecutor(jobs) as pool:
        large, notes = large_table(repository, subjects, pool)
        small = small_table(repository, subjects, pool)
    return {"large": "\n\n".join([large, "\n".join(f"- {n}" for n in notes)]), "small": small}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints, writes or checks the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--policies", type=Path, default=ROOT / "policies")
    parser.add_argument("--policy", action="append", default=[], help="only this; may be repeated")
    parser.add_argument("--jobs", type=int, default=2, help="variants at the same time")
    add_page_options(parser, PAGE)
    options = parser.parse_args(arguments)
    if not has_tools():
        sys.exit("devices.py: arm-none-eabi-gcc and qemu-system-arm are needed")

    def make() -> dict[str, str]:
        return measure_sections(Repository(options.policies), options.policy, options.jobs)

    settle(options, make, "devices.py", "has other figures")


if __name__ == "__main__":
    main()
