"""C compilers: builds a library for this machine, and measures sizes on a device."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from slimq.core.errors import CheckFailedError, InvalidInputError, suggestion

STANDARD = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off")
"""Options of all compilers; fused multiply-adds would round differently on each machine."""
ARM = "arm-none-eabi-gcc"
CPUS: dict[str, tuple[str, ...]] = {
    "cortex-m0": ("-mcpu=cortex-m0",),
    "cortex-m0plus": ("-mcpu=cortex-m0plus",),
    "cortex-m3": ("-mcpu=cortex-m3",),
    "cortex-m4": ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
    "cortex-m7": ("-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"),
}
"""Compiler options by core; cores with a floating-point unit use it."""
OPTIMIZATIONS = {"size": "-Os", "speed": "-O3"}
"""Compiler options by optimization goal; results are bit-identical."""
SECONDS = 600.0
WORD = 4


@dataclass(frozen=True)
class DeviceSize:
    """Sizes of the sources when compiled for a device.

    Attributes:
        flash: bytes of code and constants, library functions included.
        ram: bytes of variables outside of the state, which only library functions have.
        stack: bytes of the deepest call chain.
        compiler: the compiler's version line.
        flags: the compiler's options.
    """

    flash: int
    ram: int
    stack: int
    compiler: str
    flags: str


def cpu_flags(cpu: str) -> tuple[str, ...]:
    """The compiler options for a core.

    Raises:
        InvalidInputError: it is unknown.
    """
    if cpu not in CPUS:
        raise InvalidInputError("cpu", " or ".join(CPUS), repr(cpu), suggestion(cpu, CPUS))
    return (*CPUS[cpu], "-mthumb")


def optimization(name: str) -> str:
    """The compiler option for `size` or `speed`.

    Raises:
        InvalidInputError: it is neither.
    """
    if name not in OPTIMIZATIONS:
        hint = suggestion(name, OPTIMIZATIONS)
        raise InvalidInputError("optimize", " or ".join(OPTIMIZATIONS), repr(name), hint)
    return OPTIMIZATIONS[name]


def host_compiler() -> str | None:
    """The path of this machine's C compiler; None if there is none."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build_library(folder: Path, prefix: str, output: Path) -> bool:
    """Compiles the sources for this machine; returns False if there is no compiler.

    Raises:
        CheckFailedError: they do not compile.
    """
    compiler = host_compiler()
    if compiler is None:
        return False
    options = [*STANDARD, "-O2", "-shared", "-fPIC", "-o", str(output)]
    run([compiler, *options, str(folder / f"{prefix}.c"), "-lm"], output.parent)
    return True


def measure(folder: Path, prefix: str, cpu: str, optimize: str, work: Path) -> DeviceSize | None:
    """Compiles and links the sources for a core; None without a compiler for it.

    Args:
        folder: the folder with the sources.
        prefix: prefix of their names.
        cpu: one of `CPUS`.
        optimize: one of `OPTIMIZATIONS`.
        work: folder for the compiler's output.

    Raises:
        CheckFailedError: they do not compile.
    """
    compiler = shutil.which(ARM)
    if compiler is None:
        return None
    flags = [
        *STANDARD,
        optimization(optimize),
        *cpu_flags(cpu),
        "-ffunction-sections",
        "-fdata-sections",
    ]
    unit, linked = work / f"{prefix}.o", work / f"{prefix}.elf"
    run(
        [compiler, *flags, "-fstack-usage", "-c", str(folder / f"{prefix}.c"), "-o", str(unit)],
        work,
    )
    kept = [f"-Wl,-u,{prefix}_{name}" for name in ("reset", "observe", "q_values", "act")]
    link = ["-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections", *kept]
    run(
        [compiler, *flags, *link, f"-Wl,-e,{prefix}_act", str(unit), "-lm", "-o", str(linked)], work
    )
    size = run(["arm-none-eabi-size", str(linked)], work).splitlines()[1].split()
    text, initialized, zeroed = (int(value) for value in size[:3])
    stack = deepest_stack((work / f"{prefix}.su").read_text(encoding="utf-8"), prefix)
    version = run([compiler, "--version"], work).splitlines()[0]
    variables = (initialized + zeroed) // WORD * WORD  # less than a word is only padding
    return DeviceSize(text + initialized, variables, stack, version, " ".join(flags))


def deepest_stack(usage: str, prefix: str) -> int:
    """Bytes of stack of the deepest call chain, from GCC's listing.

    Interface functions call layers, and these call helpers that read codes or round. The deepest
    layer and all helpers are added up, so that the sum is never too small.
    """
    sizes = {match[1]: int(match[2]) for match in re.finditer(r":(\w+)\t(\d+)\t", usage)}
    own = {
        name: sizes.pop(f"{prefix}_{name}", 0) for name in ("act", "q_values", "observe", "reset")
    }
    layer = re.compile(r"(convolution|dense|map|take|one_hot|reduce)_\d+")
    layers = [size for name, size in sizes.items() if layer.fullmatch(name)]
    others = [size for name, size in sizes.items() if not layer.fullmatch(name)]
    forward = own["q_values"] + max(layers, default=0) + sum(others)
    return own["act"] + max(forward, own["observe"], own["reset"])


def run(command: list[str], folder: Path) -> str:
    """Runs a tool; returns what it printed.

    Raises:
        CheckFailedError: it failed, or took too long.
    """
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        problem = f"{Path(command[0]).name} did not end within {SECONDS:.0f} s"
        raise CheckFailedError(problem) from None
    if done.returncode:
        first = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[0]
        raise CheckFailedError(f"{Path(command[0]).name} failed: {first}")
    return done.stdout
