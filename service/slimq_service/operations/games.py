"""Games for the page: two variants play the same episode, in a process of their own.

The service holds no environments. Whoever starts it may hand over a program that has them: `Player`
is its command. The program reads one line of JSON, a `Game`, from its standard input, and writes
lines of JSON: first `{"type": "start"}` or `{"type": "problem", "detail"}`, then `step` and `end`.
It ends when its input does. Neither its computation nor its memory is the service's, it runs at low
priority, and it is killed when the client goes, its time is over, or the service shuts down.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from slimq.core.errors import InvalidInputError
from slimq_service.errors import ClosingError, OverloadedError
from slimq_service.operations.health import Lifecycle
from slimq_service.settings import PREFIX

Player = tuple[str, ...]
"""The command of a program that plays games; empty if there is none."""
GAME_SECONDS = 180.0
START_SECONDS = 60.0
MAX_LINE_BYTES = 2**24
RETRY_SECONDS = 10


@dataclass(frozen=True)
class Game:
    """What is played.

    Attributes:
        policies: the repository's folder.
        policy: the policy's name.
        variants: the names of the two variants.
        episode: which of the held-out episodes, from 0.
    """

    policies: str
    policy: str
    variants: tuple[str, str]
    episode: int


class Games:
    """The games that are being played."""

    def __init__(self, player: Player, policies: Path, limit: int, lifecycle: Lifecycle) -> None:
        """Starts nothing yet.

        Args:
            player: the program.
            policies: the repository's folder.
            limit: the maximum number of games at a time.
            lifecycle: says when the service shuts down.
        """
        self._player, self._policies, self._limit = player, policies, limit
        self._lifecycle = lifecycle
        self._log = structlog.get_logger(component="games")
        self.running = 0

    @property
    def available(self) -> bool:
        """Whether games can be played at all."""
        return bool(self._player) and self._limit > 0

    async def start(
        self, policy: str, variants: tuple[str, str], episode: int
    ) -> AsyncGenerator[bytes, None]:
        """Starts a game; returns its lines, whose iterator ends the game when it is closed.

        Raises:
            InvalidInputError: no environments are installed, or the game cannot be played.
            OverloadedError: too many games are being played.
            ClosingError: the service shuts down.
        """
        if not self.available:
            received = "one without them" if not self._player else "one with SLIMQ_GAMES=0"
            raise InvalidInputError("play", "a service with environments: slimq[play]", received)
        if self.running >= self._limit:
            raise OverloadedError(self._limit, RETRY_SECONDS, "games")
        game = Game(str(self._policies.absolute()), policy, variants, episode)
        lines = self._lines(game)
        first = await anext(lines, None)
        if first is None:
            raise ClosingError
        if (found := json.loads(first)).get("type") != "start":
            await lines.aclose()
            received = f"{policy}: {found.get('detail')}"
            raise InvalidInputError("play", "a policy that can be played here", received)
        return _chain(first, lines)

    async def _lines(self, game: Game) -> AsyncGenerator[bytes, None]:
        self.running += 1
        process = None
        try:
            process = await asyncio.create_subprocess_exec(
                *self._player,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=MAX_LINE_BYTES,
                env=environment(),
                start_new_session=True,
            )
            async for line in self._read(process, game):
                yield line
        except OSError as error:
            self._log.error("game failed", problem=str(error))
            yield problem_line(f"the program cannot be started: {error.strerror}")
        finally:
            self.running -= 1
            if process is not None:
                await _end(process)

    async def _read(
        self, process: asyncio.subprocess.Process, game: Game
    ) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        last = loop.time() + GAME_SECONDS
        if process.stdin is None or process.stdout is None:
            raise OSError(0, "no pipes")
        process.stdin.write(json.dumps(asdict(game)).encode() + b"\n")
        limit, begun = START_SECONDS, False
        while not self._lifecycle.draining:
            try:
                line = await asyncio.wait_for(process.stdout.readline(), limit)
            except TimeoutError:
                allowed = GAME_SECONDS if begun else START_SECONDS
                yield problem_line(f"the game took longer than {allowed:g} s")
                return
            except ValueError:
                yield problem_line(f"the program wrote a line of more than {MAX_LINE_BYTES} bytes")
                return
            if not line:
                if await process.wait() != 0 or not begun:
                    yield problem_line("the program ended before the game did")
                return
            begun = True
            yield line
            limit = max(0.0, last - loop.time())
        if begun:
            yield problem_line("the service is shutting down")


def environment() -> dict[str, str]:
    """The variables of the program: the service's, without its settings, some of which are keys."""
    return {
        name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)
    }


def problem_line(detail: str) -> bytes:
    """The line that says why a game is not played, or not played on."""
    return json.dumps({"type": "problem", "detail": detail}).encode() + b"\n"


async def _chain(first: bytes, lines: Any) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(lines):
        yield first
        async for line in lines:
            yield line


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # with what an environment has started
    if process.stdin is not None:
        process.stdin.close()
    await process.wait()
