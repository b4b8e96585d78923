"""Games with the real program, and the ends that a game may have."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from places import POLICIES
from slimq.core.errors import InvalidInputError
from slimq_service.errors import ClosingError, OverloadedError
from slimq_service.operations.games import Games, environment
from slimq_service.operations.health import Lifecycle
from waiting import until

PLAYER = (sys.executable, "-m", "slimq.cli.game")
PATH = "/v1/policies/cartpole/play"
ASKED = {"variants": ["fp32", "int8"], "episode": 3}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(POLICIES / "cartpole", tmp_path / "policies" / "cartpole")
    return tmp_path / "policies"


def games_of(root: Path, player: tuple[str, ...] = PLAYER, limit: int = 1) -> Games:
    return Games(player, root, limit, Lifecycle())


async def lines_of(games: Games, variants: tuple[str, str], count: int) -> list[dict[str, Any]]:
    """The first lines of a game, which is then left."""
    lines: Any = await games.start("cartpole", variants, 0)
    found = [json.loads(await anext(lines)) for _ in range(count)]
    assert games.running == 1
    with pytest.raises(OverloadedError, match="all 1 games are in use; try again in 10 s"):
        await games.start("cartpole", variants, 0)
    await lines.aclose()
    return found


def test_a_game_begins_and_ends_with_its_client(start: Any, root: Path) -> None:
    service, games = start(root), games_of(root)
    first, *steps = service.run(lines_of(games, ("fp32", "int8"), 4))
    assert (first["type"], first["seed"], first["epsilon"]) == ("start", 3_000_000, 0.01)
    assert [step["step"] for step in steps] == [0, 1, 2]
    for side in steps[0]["sides"]:
        assert len(side["q_values"]) == len(side["other_q_values"]) == 2
    assert games.running == 0


def test_shutting_down_ends_a_game(start: Any, root: Path) -> None:
    lifecycle = Lifecycle()
    games = Games(PLAYER, root, 1, lifecycle)

    async def play() -> int:
        lines = await games.start("cartpole", ("fp32", "fp32"), 0)
        count = 0
        async for _ in lines:
            count += 1
            lifecycle.draining = count == 3
        return count

    assert start(root).run(play()) == 4, "the last line says that the service shuts down"
    assert games.running == 0


def test_no_game_begins_during_a_shutdown(start: Any, root: Path) -> None:
    lifecycle = Lifecycle()
    lifecycle.draining = True
    games = Games(PLAYER, root, 1, lifecycle)
    with pytest.raises(ClosingError):
        start(root).run(games.start("cartpole", ("fp32", "fp32"), 0))
    assert games.running == 0


@pytest.mark.parametrize(
    ("player", "said"),
    [
        ((sys.executable, "-c", "raise SystemExit(9)"), "the program ended before the game did"),
        ((sys.executable, "-c", ""), "the program ended before the game did"),
        (("/nothing/here",), "the program cannot be started: No such file"),
        (PLAYER, "unknown variant 'none'"),
    ],
)
def test_a_game_that_cannot_begin_says_why(
    start: Any, root: Path, player: tuple[str, ...], said: str
) -> None:
    games = games_of(root, player)
    with pytest.raises(InvalidInputError, match=said):
        start(root).run(games.start("cartpole", ("fp32", "none"), 0))
    assert games.running == 0


def test_keys_are_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMQ_API_KEY", "secret")
    monkeypatch.setenv("slimq_admin_key", "secret")
    assert "PATH" in environment()
    assert "secret" not in environment().values()


def test_without_a_program_there_are_no_games(start: Any, root: Path) -> None:
    games = games_of(root, ())
    assert not games.available
    assert not games_of(root, limit=0).available
    assert games_of(root).available
    with pytest.raises(InvalidInputError, match=r"slimq\[play\]"):
        start(root).run(games.start("cartpole", ("fp32", "fp32"), 0))
    answer = start(root).request("POST", PATH, json=ASKED)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")


def test_a_client_that_goes_ends_its_process(launch: Any, root: Path, tmp_path: Path) -> None:
    process = launch(root, tmp_path / "log", SLIMQ_GAMES="1")
    url = process.url + PATH
    with httpx.stream("POST", url, json=ASKED, timeout=60) as game:
        lines = game.iter_lines()  # once nothing refers to it, the connection is closed
        assert json.loads(next(lines))["type"] == "start"
        assert len(children(process.process.pid)) == 1
        refused = httpx.post(url, json=ASKED, timeout=60)
        assert (refused.status_code, refused.json()["unit"]) == (503, "games")
    until(lambda: not children(process.process.pid), 20)
    assert "Traceback" not in process.log.read_text()


def test_every_worker_plays(launch: Any, root: Path, tmp_path: Path) -> None:
    process = launch(root, tmp_path / "log", SLIMQ_WORKERS="2")
    asked = {"accept": "application/json"}
    for _ in range(4):
        assert httpx.get(process.url + "/", headers=asked, timeout=60).json()["plays"] is True
    with httpx.stream("POST", process.url + PATH, json=ASKED, timeout=60) as game:
        lines = game.iter_lines()
        assert json.loads(next(lines))["type"] == "start"


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in found.split()]


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"variants": ["fp32", "none"]}, 404),
        ({"variants": ["fp32"]}, 422),
        ({"variants": ["fp32", "fp32"], "episode": -1}, 422),
        ({"variants": ["fp32", "fp32"], "other": 1}, 422),
    ],
)
def test_wrong_requests_start_nothing(
    start: Any, root: Path, asked: dict[str, Any], status: int
) -> None:
    assert start(root).request("POST", PATH, json=asked).status_code == status


def test_a_page_of_another_site_cannot_start_a_game(start: Any, root: Path) -> None:
    service = start(root)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        headers = {"content-type": kind}
        answer = service.request("POST", PATH, content=json.dumps(ASKED), headers=headers)
        assert answer.status_code in (415, 422)
