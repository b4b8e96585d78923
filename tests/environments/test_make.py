from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import EnvironmentFailure, InvalidInputError, MissingExtraError
from slimq.environments.make import make_single, step_limit
from slimq.environments.vector import VectorEnvironment

Game = Callable[..., str]
MODULE = """
import gymnasium
from game import Game, make
NUMBER = 5
gymnasium.register("slimq-tests/Module-v0", entry_point=Game, max_episode_steps=17)

def register_envs():
    gymnasium.register("slimq-tests/Late-v3", entry_point=Game)
"""


@pytest.fixture
def module(game: Game, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module `arcade` that registers ids, one of them only when asked to."""
    game()
    (tmp_path / "arcade.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("arcade", "game"):
        sys.modules.pop(name, None)
    for name in ("slimq-tests/Module-v0", "slimq-tests/Late-v3"):
        gymnasium.registry.pop(name, None)


@pytest.mark.parametrize(
    "identifier",
    [
        "arcade:slimq-tests/Module-v0",
        "arcade:slimq-tests/Late-v3",
        "arcade:make",
        "arcade:Game",
        "game.py:make",
        "game.py:Game",
    ],
)
@pytest.mark.usefixtures("module")
def test_every_form_of_an_id_makes_the_environment(identifier: str) -> None:
    env = make_single(EnvironmentSpec(id=identifier, kwargs={"size": 5}))
    assert type(env.unwrapped).__name__ == "Game"
    assert env.unwrapped.size == 5  # type: ignore[attr-defined]


def test_a_file_needs_no_path_and_its_neighbours_are_importable(game: Game, tmp_path: Path) -> None:
    identifier = game(folder="elsewhere", make="import companion; return Game(companion.SIZE)")
    (tmp_path / "elsewhere" / "companion.py").write_text("SIZE = 11")
    before = list(sys.path)
    for name in (identifier, str(tmp_path / identifier)):
        assert make_single(EnvironmentSpec(id=name)).unwrapped.size == 11  # type: ignore[attr-defined]
    assert sys.path == before
    del sys.modules["companion"]


def test_a_changed_file_is_loaded_again(game: Game, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same second, of the same size, and where Python writes bytecode."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for size in (3, 4):
        identifier = game(make=f"return Game({size})")
        env = make_single(EnvironmentSpec(id=identifier))
        assert env.unwrapped.size == size  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", ["file", "module"])
@pytest.mark.usefixtures("module")
def test_keyword_arguments_are_of_any_json_type(form: str) -> None:
    arguments = {"list": [1, [2.5, "x"]], "none": None, "table": {"a": {"b": True}}, "size": 1}
    identifier = {"file": "game.py:make", "module": "arcade:slimq-tests/Module-v0"}[form]
    spec = EnvironmentSpec(id=identifier, kwargs=arguments)
    env: Any = make_single(EnvironmentSpec.model_validate_json(spec.model_dump_json())).unwrapped
    assert {"size": env.size} | env.others == arguments


@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        ("NoSuchGame-v0", r"environment\.id: expected a gymnasium id, received NoSuchGame-v0"),
        (
            "nothing.py:make",
            r"environment\.id: expected a file, received nothing.py \(No such",
        ),
        ("game.py:mke", r"a name that game.py defines, received 'mke', did you mean 'make'\?"),
        ("arcade.py:NUMBER", r"expected a function or a class, received arcade.py:NUMBER, a int"),
        ("arcade:slimq-tests/Modul-v0", r"a gymnasium id, received arcade:slimq-tests/Modul-v0"),
        ("arcade:mke", r"an id that arcade registers, or a function.*'mke', did you mean 'make'\?"),
        ("no_such_module:make", r"expected an installed module, received 'no_such_module'$"),
        ("os:system", r"expected a module that is not Python's own, received 'os'"),
        ("a b:make", r"expected the name of a module before the colon, received 'a b'"),
    ],
)
@pytest.mark.usefixtures("module")
def test_what_is_not_there_is_refused_by_name(identifier: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make_single(EnvironmentSpec(id=identifier))


def test_a_file_given_as_a_module_is_refused_with_the_right_form(game: Game) -> None:
    game()
    with pytest.raises(InvalidInputError, match=r"for a file, give game\.py:NAME"):
        make_single(EnvironmentSpec(id="game:make"))


@pytest.mark.parametrize("identifier", ["game.py:make", "arcade:slimq-tests/Module-v0"])
@pytest.mark.usefixtures("module")
def test_wrong_arguments_are_refused_by_name(identifier: str, game: Game) -> None:
    game(make="return Game(size)")
    Path("game.py").write_text(Path("game.py").read_text().replace(", **others", ""))
    sys.modules.pop("game", None)
    with pytest.raises(InvalidInputError, match=r"^environment\.kwargs: .*colour"):
        make_single(EnvironmentSpec(id=identifier, kwargs={"colour": 1}))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_library", r"ModuleNotFoundError: No module named.*\(bad\.py:1\)"),
        ("def make(:", r"SyntaxError: .*\(bad\.py:1\)"),
        ("\n\nraise SystemExit('bye')", r"SystemExit: bye \(bad\.py:3\)"),
    ],
)
def test_a_file_that_cannot_be_loaded_names_its_line(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.py").write_text(source)
    with pytest.raises(EnvironmentFailure, match=rf"^bad\.py:make: creation: bad\.py: {message}"):
        make_single(EnvironmentSpec(id="bad.py:make"))


def test_a_package_of_an_extra_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = [name for name in sys.modules if name.startswith("minatar.")]
    for name in ("minatar", *imported):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"minatar is not installed: .*slimq\[games\]"):
        make_single(EnvironmentSpec(id="minatar.gym:MinAtar/Breakout-v1"))


@pytest.mark.parametrize(
    ("spec", "limit"),
    [
        (EnvironmentSpec(id="CartPole-v1"), 500),
        (EnvironmentSpec(id="CartPole-v1", kwargs={"max_episode_steps": 900}), 900),
        (EnvironmentSpec(id="CliffWalking-v1"), None),
    ],
)
def test_the_own_step_limit_is_that_of_gymnasium(spec: EnvironmentSpec, limit: int | None) -> None:
    assert step_limit(make_single(spec)) == limit


@pytest.mark.parametrize("end", ["", ":"])
def test_a_file_without_a_name_gets_the_names_that_it_defines(game: Game, end: str) -> None:
    game(folder="mine")
    message = (
        r"expected FILE\.py:NAME, received 'mine/game\.py:?'; it defines Stop, Mute, Game, make$"
    )
    with pytest.raises(InvalidInputError, match=message):
        make_single(EnvironmentSpec(id=f"mine/game.py{end}"))
    with pytest.raises(InvalidInputError, match=r"expected FILE\.py:NAME, received 'absent\.py'$"):
        make_single(EnvironmentSpec(id="absent.py"))


@pytest.mark.parametrize(
    ("configured", "own", "length"), [(None, 12, 12), (5, 12, 5), (None, None, 30)]
)
def test_the_smaller_limit_ends_an_episode(
    game: Game, configured: int | None, own: int | None, length: int
) -> None:
    made = f"return gymnasium.wrappers.TimeLimit(Game(), {own})" if own else "return Game()"
    spec = EnvironmentSpec(id=game(make=made), max_episode_steps=configured)
    vector = VectorEnvironment(spec, 1)
    vector.start([1])
    steps = 1
    while not (result := vector.step(np.array([0]))).ended[0]:
        steps += 1
    assert steps == length
    assert result.truncated[0] == (length < 30)
    vector.close()
