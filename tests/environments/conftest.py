from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

HEAD = """
import random
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete


class Stop(BaseException):
    pass


class Mute(Exception):
    def fail(self, *values, **named):
        raise Stop

    __str__ = __repr__ = __float__ = __array__ = fail


class Game(gymnasium.Env):
    observation_space = Box(-9, 9, (3,), np.float32)
    action_space = Discrete(2)

    def __init__(self, size=3, **others):
        self.size, self.others = size, others
        {init}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        {reset}
        return self.observe(), {{}}

    def step(self, action):
        self.steps += 1
        observation, reward, terminated = self.observe(), 1.0, self.steps >= 30
        truncated, info = False, {{}}
        if self.steps == 3:
            {step}
        {answer}

    def observe(self):
        return self.np_random.random(3, dtype=np.float32)

    def close(self):
        {close}


def make(size=3, **others):
    {make}
"""


@pytest.fixture
def game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`game(step="...")`: writes `game.py` to the current folder; returns the id of its function.

    A fault goes into `init`, `reset`, `step` (the third one), `answer`, `close` or `make`.
    """
    monkeypatch.chdir(tmp_path)

    def write(folder: str = ".", **faults: str) -> str:
        places = dict.fromkeys(("init", "reset", "step", "close"), "pass")
        places["answer"] = "return observation, reward, terminated, truncated, info"
        places["make"] = "return Game(size, **others)"
        path = Path(folder, "game.py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(HEAD.format(**places | faults))
        return f"{path}:make"

    return write
