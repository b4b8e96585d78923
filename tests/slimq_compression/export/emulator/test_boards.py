"""The emulated boards: instructions are counted exactly, faults and failures are noticed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from c_exports import export, needs_boards
from slimq.core.errors import CheckFailedError
from slimq_compression.export.emulator.boards import BOARDS, build_program, emulator_command

pytestmark = [pytest.mark.slow, needs_boards]
COUNT = """
#include <stdio.h>
#include "board.h"

int main(void)
{
    const uint32_t start = board_ticks();
    __asm__ volatile(".rept @COUNT@\\n nop\\n .endr");
    const uint32_t end = board_ticks();
    const uint32_t nothing = board_ticks();
    printf("%lu\\n", (unsigned long)(end - start - (nothing - end)));
    return 0;
}
"""


def run_program(core: str, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    source = folder / "main.c"
    source.write_text(text)
    program = build_program(BOARDS[core], [source], folder)
    command = emulator_command(BOARDS[core], program)
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("core", BOARDS)
@pytest.mark.parametrize("count", [1, 2, 100, 4999, 5000])
def test_each_instruction_is_counted_once(core: str, count: int, tmp_path: Path) -> None:
    done = run_program(core, COUNT.replace("@COUNT@", str(count)), tmp_path)
    assert done.returncode == 0, done.stderr
    assert BOARDS[core].instructions(int(done.stdout)) == count


@pytest.mark.parametrize("core", BOARDS)
def test_a_failing_program_fails_outside(core: str, tmp_path: Path) -> None:
    assert run_program(core, "int main(void) { return 1; }\n", tmp_path).returncode == 1


@pytest.mark.parametrize("core", BOARDS)
def test_a_fault_is_noticed(core: str, tmp_path: Path) -> None:
    text = 'int main(void) { __asm__ volatile("udf #0"); return 0; }\n'
    assert run_program(core, text, tmp_path).returncode == 3


def test_what_is_too_large_for_a_board_is_refused(tmp_path: Path) -> None:
    text = "int main(void) { static volatile char all[20000]; return all[19999]; }\n"
    with pytest.raises(CheckFailedError, match="arm-none-eabi-gcc failed: "):
        run_program("cortex-m0", text, tmp_path)


STACK = """
#include <stdio.h>
#include "policy.h"

static policy_state state;
static ELEMENT frame[POLICY_FRAME_SIZE];

int main(void)
{
    volatile uint32_t *top;
    __asm__ volatile("mov %0, sp" : "=r"(top));
    for (int32_t i = 1; i <= 1000; i++) {
        top[-i] = 0xa5a5a5a5u;
    }
    policy_reset(&state);
    policy_act(&state, frame);
    int32_t deepest = 1000;
    while (deepest > 0 && top[-deepest] == 0xa5a5a5a5u) {
        deepest--;
    }
    printf("%ld\\n", (long)(4 * deepest));
    return 0;
}
"""
LIBRARY = {"cortex-m0": 80, "cortex-m4": 16}
"""Bytes of stack of library functions: for floats without a unit for them, or to copy memory."""


@pytest.mark.parametrize("optimize", ["size", "speed"])
@pytest.mark.parametrize(
    ("core", "policy", "variant"),
    [
        ("cortex-m4", "pong", "tiny"),
        ("cortex-m4", "cartpole", "int8-dynamic"),
        ("cortex-m4", "minigrid-empty", "whole-int8"),
        ("cortex-m0", "cartpole", "micro"),
    ],
)
def test_the_stack_is_no_deeper_than_reported(
    core: str, policy: str, variant: str, optimize: str, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    report = export(policy, variant, folder, cpu=core, optimize=optimize, vectors=1)
    element = "float" if policy == "cartpole" else "uint8_t"
    (tmp_path / "main.c").write_text(STACK.replace("ELEMENT", element))
    sources = [tmp_path / "main.c", folder / "policy.c"]
    program = build_program(BOARDS[core], sources, tmp_path, optimize)
    command = emulator_command(BOARDS[core], program)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    used = int(done.stdout)
    assert 0 < used <= report.ram.stack + LIBRARY[core]
    assert report.ram.stack <= used + 100
