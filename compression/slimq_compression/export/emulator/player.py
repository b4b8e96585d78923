"""Plays a policy on an emulated board: frames in, actions out."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from slimq.core.calibration import CalibrationSet
from slimq.core.errors import CheckFailedError
from slimq.core.observation import Observations
from slimq.core.qfunction import QValues
from slimq_compression.export.c.host import q_values_on
from slimq_compression.export.emulator.boards import (
    Board,
    build_program,
    emulator_command,
    program_text,
)

SECONDS = 120.0
"""Longest wait for a reply, in seconds."""


class EmulatedPolicy:
    """Sends commands to a policy's program on a board.

    Attributes:
        actions: number of actions.
        instructions: number of instructions of each call of `act` so far.
    """

    def __init__(
        self, board: Board, process: subprocess.Popen[bytes], pipes: tuple[int, int], actions: int
    ) -> None:
        self.board, self.actions = board, actions
        self.instructions: list[int] = []
        self._process = process
        self._commands, self._answers = pipes

    def reset(self) -> None:
        """Begins an episode."""
        self._send(b"r")

    def observe(self, frame: Observations) -> None:
        """Takes the newest frame or observation, without a batch axis."""
        self._send(b"o" + frame.tobytes())

    def act(self, frame: Observations) -> int:
        """Takes the newest frame and returns the greedy action; counts instructions."""
        self._send(b"a" + frame.tobytes())
        action, ticks = np.frombuffer(self._receive(8), "<u4")
        self.instructions.append(self.board.instructions(int(ticks)))
        return int(action)

    def q_values(self) -> QValues:
        """The Q-values of the current observation, `(actions,)`."""
        self._send(b"q")
        return np.frombuffer(self._receive(4 * self.actions), "<f4").astype(np.float32)

    def on_states(self, states: CalibrationSet) -> QValues:
        """The Q-values of recorded states, `(states, actions)`."""
        return q_values_on(self, states)

    def end(self) -> None:
        """Ends the program."""
        self._send(b"e")

    def _send(self, content: bytes) -> None:
        remaining = memoryview(content)
        while remaining:
            _, ready, _ = select.select([], [self._commands], [], SECONDS)
            if not ready:
                raise CheckFailedError(f"the emulated {self.board.cpu} takes no commands")
            self._check_alive()
            remaining = remaining[os.write(self._commands, remaining[: select.PIPE_BUF]) :]

    def _receive(self, count: int) -> bytes:
        received = b""
        waited = 0.0
        while len(received) < count:
            ready, _, _ = select.select([self._answers], [], [], 0.5)
            if ready:
                received += os.read(self._answers, count - len(received))
                continue
            self._check_alive()
            waited += 0.5
            if waited > SECONDS:
                raise CheckFailedError(f"no answer from the emulated {self.board.cpu}")
        return received

    def _check_alive(self) -> None:
        if (code := self._process.poll()) is not None:
            raise CheckFailedError(f"the emulated {self.board.cpu} stopped with exit code {code}")


@contextlib.contextmanager
def play_on(
    board: Board,
    folder: Path,
    prefix: str,
    element: str,
    actions: int,
    optimize: str = "size",
) -> Iterator[EmulatedPolicy]:
    """Starts an exported policy on a board.

    Args:
        board: the board to run on.
        folder: the export's folder.
        prefix: prefix of its files and identifiers.
        element: C type of the elements of a frame.
        actions: number of actions.
        optimize: what the compiler optimizes for, `size` or `speed`.

    Raises:
        CheckFailedError: it does not compile or is too large for the board.
    """
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        words = {"PREFIX": prefix, "UPPER": prefix.upper(), "ELEMENT": element}
        text = program_text("player.c")
        for word, value in words.items():
            text = text.replace(f"@{word}@", value)
        player = work / "player.c"
        player.write_text(text, encoding="utf-8")
        program = build_program(board, [folder / f"{prefix}.c", player], work, optimize)
        yield from _started(board, program, work, actions)


def _started(board: Board, program: Path, work: Path, actions: int) -> Iterator[EmulatedPolicy]:
    """Runs the program; ends it even after an error."""
    pipes = []
    for name in ("commands", "answers"):
        os.mkfifo(work / name)
        # Open for both directions, so that neither end waits for the other.
        pipes.append(os.open(work / name, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    process = subprocess.Popen(  # noqa: S603
        emulator_command(board, program), cwd=work, stdin=subprocess.DEVNULL
    )
    try:
        policy = EmulatedPolicy(board, process, (pipes[0], pipes[1]), actions)
        yield policy
        policy.end()
        process.wait(SECONDS)
    finally:
        process.kill()
        process.wait()
        for pipe in pipes:
            os.close(pipe)
