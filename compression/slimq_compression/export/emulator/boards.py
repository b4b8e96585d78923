"""Boards that QEMU emulates: their memory and timers, and building programs for them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from slimq_compression.export.c.compilers import ARM, STANDARD, cpu_flags, optimization, run

QEMU = "qemu-system-arm"
SHIFT = 10
"""An instruction takes 2 to this power nanoseconds of virtual time, QEMU's maximum: many ticks of a
board's timer, so that fractions of a tick do not matter."""


@dataclass(frozen=True)
class Board:
    """An emulated board.

    Attributes:
        machine: QEMU's name.
        cpu: its core, one of `CPUS`.
        flash: bytes from address 0.
        ram: bytes from address 0x20000000.
        timer_hz: frequency of the timer by which instructions are counted, in Hz.
        define: macro that selects the board in `startup.c`.
    """

    machine: str
    cpu: str
    flash: int
    ram: int
    timer_hz: int
    define: str

    def instructions(self, ticks: int) -> int:
        """Instructions in a number of timer ticks; 32 bits of ticks hold 160 million or more."""
        return round(ticks * 1_000_000_000 / (self.timer_hz << SHIFT))


BOARDS: dict[str, Board] = {
    "cortex-m4": Board("mps2-an386", "cortex-m4", 4 << 20, 4 << 20, 25_000_000, "BOARD_MPS2"),
    "cortex-m3": Board("mps2-an385", "cortex-m3", 4 << 20, 4 << 20, 25_000_000, "BOARD_MPS2"),
    "cortex-m0": Board("microbit", "cortex-m0", 256 << 10, 16 << 10, 16_000_000, "BOARD_MICROBIT"),
}
"""Boards by core."""
SCRIPT = """\
MEMORY
{{
    FLASH (rx) : ORIGIN = 0x00000000, LENGTH = {flash}
    RAM (rwx) : ORIGIN = 0x20000000, LENGTH = {ram}
}}
ENTRY(board_reset)
SECTIONS
{{
    .text : {{ KEEP(*(.vectors)) *(.text*) *(.rodata*) KEEP(*(.init)) KEEP(*(.fini)) }} > FLASH
    .ARM.exidx : {{ *(.ARM.exidx*) }} > FLASH
    .data : {{ data_start = .; *(.data*) . = ALIGN(4); data_end = .; }} > RAM AT > FLASH
    data_load = LOADADDR(.data);
    .bss : {{ bss_start = .; *(.bss*) *(COMMON) . = ALIGN(4); bss_end = .; }} > RAM
    end = .;
    stack_top = ORIGIN(RAM) + LENGTH(RAM);
}}
"""
"""The linker script; the heap begins at `end`, the stack at the end of RAM."""


def has_tools() -> bool:
    """Whether the compiler and the emulator are installed."""
    return all(shutil.which(tool) for tool in (ARM, QEMU))


def program_text(name: str) -> str:
    """The text of a C file of this package."""
    return resources.files("slimq_compression.export.emulator").joinpath(name).read_text("utf-8")


def build_program(board: Board, sources: list[Path], work: Path, optimize: str = "size") -> Path:
    """Compiles sources and links them with a board's start-up code; returns the program.

    Args:
        board: the board to run on.
        sources: C files, one of them with `main`.
        work: folder for the output.
        optimize: what the compiler optimizes for, `size` or `speed`.

    Raises:
        CheckFailedError: they do not compile, or are too large for the board.
    """
    for name in ("startup.c", "board.h"):
        (work / name).write_text(program_text(name), encoding="utf-8")
    script, program = work / "board.ld", work / "program.elf"
    script.write_text(SCRIPT.format(flash=board.flash, ram=board.ram), encoding="utf-8")
    flags = [*STANDARD, optimization(optimize), *cpu_flags(board.cpu), f"-D{board.define}"]
    link = ["-nostartfiles", "--specs=nano.specs", "--specs=rdimon.specs", f"-Wl,-T,{script}"]
    given = [path.absolute() for path in sources]  # the compiler runs in another folder
    files = [str(path) for path in (work / "startup.c", *given)]
    includes = [f"-I{path.parent}" for path in given]
    sections = ["-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"]
    command = [ARM, *flags, *sections, *link, f"-I{work}", *includes, *files, "-lm"]
    run([*command, "-o", str(program)], work)
    return program


def emulator_command(board: Board, program: Path) -> list[str]:
    """The command that runs a program on a board, in the folder with its files."""
    quiet = ["-display", "none", "-monitor", "none", "-serial", "none"]
    semihosting = ["-semihosting-config", "enable=on,target=native"]
    timing = ["-icount", f"shift={SHIFT},sleep=off"]
    return [QEMU, "-machine", board.machine, *quiet, *semihosting, *timing, "-kernel", str(program)]
