"""docker/roll with commands that stand in for compose and docker, and for replicas that misbehave.

That it loses no request is seen with real containers, see test_stack.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from waiting import until

ROLL = Path(__file__).parents[2] / "docker" / "roll"

ENGINE = """#!{python}
\"\"\"compose and docker over a folder with a file for each container, which holds its state.\"\"\"
import os, sys
from pathlib import Path

folder, words = Path(os.environ["CONTAINERS"]), sys.argv[1:]
states = {{path.name: path.read_text() for path in sorted(folder.iterdir())}}
verb, last = words[0], words[-1]
with (folder.parent / "calls").open("a") as calls:
    print(*words, file=calls)
if verb == "ps" and os.environ["WRONG"]:
    sys.exit(os.environ["WRONG"])
elif verb == "ps":
    print(*(c for c, state in states.items() if "--all" in words or state != "ended"), sep="\\n")
elif verb == "up":
    (count,) = (int(w.removeprefix("service=")) for w in words if w.startswith("service="))
    for container, state in states.items():
        if state == "ended":
            (folder / container).write_text("hangs")
    kept = sum(state != "oneoff" for state in states.values())
    for number in range(kept, count):
        if os.environ["NEW"]:
            (folder / f"new-{{number}}").write_text(os.environ["NEW"])
    now = [path.read_text() for path in folder.iterdir()]
    sys.exit("--wait" in words and "hangs" in now)
elif verb == "inspect":
    print(states[last] == "oneoff")
elif verb == "exec":
    sys.exit(states[words[1]] != "ready")
elif verb == "stop":
    sys.exit(states[last] == "stuck")
elif verb == "rm":
    (folder / last).unlink()
elif verb == "logs":
    print(f"what {{last}} said", file=sys.stderr)
"""


class Replicas:
    """Containers by name with their state: ready, hangs, stuck, ended or oneoff.

    `new` is the state that new ones have; where it is empty, none come. `wrong` is what compose
    says instead of its containers.
    """

    def __init__(self, folder: Path, states: dict[str, str], new: str, wrong: str = "") -> None:
        self._containers = folder / "containers"
        self._containers.mkdir()
        for name, state in states.items():
            (self._containers / name).write_text(state)
        commands = folder / "commands"
        commands.mkdir()
        for name, text in {
            "engine": ENGINE.format(python=sys.executable),
            "sleep": "#!/bin/sh\nexec /bin/sleep 0.05\n",
        }.items():
            (commands / name).write_text(text)
            (commands / name).chmod(0o755)
        self._environment = {
            **os.environ,
            "PATH": f"{commands}:{os.environ['PATH']}",
            "COMPOSE": "engine",
            "DOCKER": "engine",
            "CONTAINERS": str(self._containers),
            "NEW": new,
            "WRONG": wrong,
        }
        self._calls = folder / "calls"

    @property
    def names(self) -> set[str]:
        return {path.name for path in self._containers.iterdir()}

    @property
    def calls(self) -> str:
        return self._calls.read_text() if self._calls.exists() else ""

    def start(self, seconds: int) -> subprocess.Popen[str]:
        """docker/roll in a group of its own, which a signal ends as it would at a terminal."""
        return subprocess.Popen(
            [str(ROLL)],
            env={**self._environment, "ROLL_SECONDS": str(seconds)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def roll(self, seconds: int = 1) -> tuple[int, str]:
        """The exit code, and what it said to stderr."""
        process = self.start(seconds)
        _, errors = process.communicate(timeout=60)
        return process.returncode, errors


@pytest.mark.parametrize("state", ["ready", "hangs", "ended"])
def test_an_old_replica_is_replaced_whatever_its_state(state: str, tmp_path: Path) -> None:
    replicas = Replicas(tmp_path, {"a": "ready", "b": state}, new="ready")
    code, errors = replicas.roll()
    assert code == 0, errors
    assert replicas.names == {"new-2", "new-3"}
    calls = replicas.calls.splitlines()
    assert calls.index("stop -t 60 a") > calls.index("exec new-3 slimq-healthcheck /readyz")


def test_a_new_replica_that_hangs_is_removed_with_what_it_said(tmp_path: Path) -> None:
    replicas = Replicas(tmp_path, {"a": "ready", "b": "hangs"}, new="hangs")
    code, errors = replicas.roll()
    assert code == 1
    assert "a new replica did not become ready; the old ones continue" in errors
    assert "what new-2 said" in errors
    assert replicas.names == {"a", "b"}
    assert "stop" not in replicas.calls


def test_where_no_new_replica_starts_no_old_one_is_ended(tmp_path: Path) -> None:
    replicas = Replicas(tmp_path, {"a": "ready", "b": "ready"}, new="")
    code, errors = replicas.roll()
    assert code == 1
    assert "0 of 2 new replicas have started; the old ones continue" in errors
    assert replicas.names == {"a", "b"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_roll_removes_the_new_replicas(
    number: signal.Signals, tmp_path: Path
) -> None:
    replicas = Replicas(tmp_path, {"a": "ready"}, new="hangs")
    process = replicas.start(seconds=60)
    until(lambda: "exec new-1" in replicas.calls, 30, "the new replica")
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted; the old ones continue" in errors
    assert replicas.names == {"a"}


def test_a_container_of_run_is_no_replica(tmp_path: Path) -> None:
    replicas = Replicas(tmp_path, {"a": "ready", "mine": "oneoff"}, new="ready")
    code, errors = replicas.roll()
    assert code == 0, errors
    assert replicas.names == {"mine", "new-1"}


def test_without_a_replica_nothing_is_rolled(tmp_path: Path) -> None:
    replicas = Replicas(tmp_path, {}, new="ready")
    code, errors = replicas.roll()
    assert code == 1
    assert "there are no replicas: start them with up" in errors
    assert "up" not in replicas.calls


def test_what_compose_says_is_wrong_ends_the_roll(tmp_path: Path) -> None:
    wrong = "no configuration file provided: not found"
    replicas = Replicas(tmp_path, {"a": "ready"}, new="ready", wrong=wrong)
    code, errors = replicas.roll()
    assert code == 1
    assert errors == f"{wrong}\n"
    assert replicas.names == {"a"}


def test_an_old_replica_that_cannot_be_ended_is_named_and_the_others_are_replaced(
    tmp_path: Path,
) -> None:
    replicas = Replicas(tmp_path, {"a": "stuck", "b": "ready"}, new="ready")
    code, errors = replicas.roll()
    assert code == 1
    assert "the new replicas are in use, but these old ones could not be stopped: a" in errors
    assert replicas.names == {"a", "new-2", "new-3"}


def test_a_second_roll_is_refused_while_one_is_under_way(tmp_path: Path) -> None:
    replicas = Replicas(tmp_path, {"a": "ready"}, new="hangs")
    process = replicas.start(seconds=60)
    until(lambda: "exec new-1" in replicas.calls, 30, "the new replica")
    code, errors = replicas.roll()
    assert (code, errors) == (1, "another roll is in progress\n")
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert replicas.names == {"a"}
