"""The program with which `slimq serve` plays games for its page; not a command.

`python -m slimq.cli.game` reads one line of JSON, a `Game` of `slimq_service.operations.games`, and
writes lines of JSON. Both variants play the same held-out episode, each in an environment of its
own, with the exploration of `slimq evaluate`; each is also asked what it would do on the other's
observations, which is where the two may disagree. The end of its input ends it.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slimq.core.environment import named_code
from slimq.core.errors import InvalidInputError, SlimqError
from slimq.core.frames import newest
from slimq.core.manifest import PolicyManifest, require_environment
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.repository import Repository
from slimq.core.seeds import HELD_OUT, exploration_generator

STEPS_PER_SECOND = 60.0
MAX_STEPS = 2_000
"""Steps that are sent; both sides end there."""
EPSILON = 0.01
"""As in `slimq evaluate`."""
NICENESS = 10


@dataclass
class Side:
    """One of the two episodes.

    Attributes:
        environment: a `VectorEnvironment` of one.
        observation: the present one, `(1, *shape)`.
        generator: of the exploration.
        return_: sum of rewards so far.
        steps: taken so far.
        ended: whether the episode is over.
    """

    environment: Any
    observation: Observations
    generator: np.random.Generator
    return_: float = 0.0
    steps: int = 0
    ended: bool = False
    terminated: bool = field(default=False)


def play(request: dict[str, Any]) -> None:
    """Plays a game and writes its lines.

    Raises:
        SlimqError: the policy, a variant or the environment cannot be used.
    """
    repository = Repository(Path(request["policies"]))
    manifest = repository.policy(request["policy"])
    seed = HELD_OUT.seeds(1, request["episode"])[0]
    models = [load(repository, manifest, variant) for variant in request["variants"]]
    sides = [begin(manifest, seed) for _ in models]
    write({"type": "start", "seed": seed, "epsilon": EPSILON, "max_steps": MAX_STEPS})
    due = time.monotonic()
    for step in range(MAX_STEPS):
        if all(side.ended for side in sides):
            return
        shown = [advance(i, sides, models, manifest.observation) for i in range(len(sides))]
        write({"type": "step", "step": step, "sides": shown})
        for index, side in enumerate(sides):
            if side.ended and shown[index] is not None:
                write(summary(index, side))
        due += 1 / STEPS_PER_SECOND
        time.sleep(max(0.0, due - time.monotonic()))
    for index, side in enumerate(sides):
        if not side.ended:
            write(summary(index, side))


def load(repository: Repository, manifest: PolicyManifest, variant: str) -> OnnxPolicy:
    """The model of a variant, in this process."""
    _, model = repository.read_model(manifest.name, variant)
    return OnnxPolicy(model, manifest.observation, len(manifest.actions), variant)


def begin(manifest: PolicyManifest, seed: int) -> Side:
    """Starts an episode.

    Raises:
        InvalidInputError: the environment runs code that the policy names, which only the owner of
            this machine may allow; or there is none.
    """
    from slimq.environments.vector import VectorEnvironment

    spec = require_environment(manifest, "playing")
    if code := [name for name in named_code(spec) if not is_trusted(name)]:
        expected = "a registered environment: the page runs no code that a policy names"
        raise InvalidInputError("environment.id", expected, code[0])
    environment = VectorEnvironment(spec, 1, threads=1)
    return Side(environment, environment.start([seed]), exploration_generator(seed))


TRUSTED = frozenset(("gymnasium", "minatar", "minigrid"))
"""Packages of shipped configurations, whose code may be run."""


def is_trusted(name: str) -> bool:
    """Whether the code that an environment names, `MODULE:NAME`, is that of a known package.

    The name must be an environment that the package registers, or one of its classes of
    environments and wrappers: its other attributes include whatever it has imported.
    """
    import gymnasium

    module_name, _, attribute = name.partition(":")
    if module_name.endswith(".py") or module_name.partition(".")[0] not in TRUSTED:
        return False
    try:
        module = importlib.import_module(module_name)
    except ImportError:
        return False
    found = getattr(module, attribute, None)
    if isinstance(found, type):
        is_ours = issubclass(found, (gymnasium.Env, gymnasium.Wrapper))
        return is_ours and found.__module__.partition(".")[0] in TRUSTED
    is_plugin = module is not gymnasium and hasattr(module, "register_envs")
    if is_plugin and attribute not in gymnasium.registry:
        module.register_envs()
    known = gymnasium.registry.get(attribute)
    origin = "" if known is None else known.entry_point
    place = origin if isinstance(origin, str) else getattr(origin, "__module__", "")
    return place.partition(":")[0].partition(".")[0] in TRUSTED


def advance(
    index: int, sides: list[Side], models: list[OnnxPolicy], spec: ObservationSpec
) -> dict[str, Any] | None:
    """Takes a step of one side; returns what it shows, None if its episode is over."""
    from slimq.environments.rollout import choose_action

    side = sides[index]
    if side.ended:
        return None
    own, other = (models[one](side.observation)[0] for one in (index, 1 - index))
    greedy = int(own.argmax())
    action = choose_action(side.generator, greedy, len(own), EPSILON)
    shown = {
        "frame": base64.b64encode(newest(side.observation, spec).tobytes()).decode(),
        "q_values": own.tolist(),
        "other_q_values": other.tolist(),
        "action": action,
        "disagrees": greedy != int(other.argmax()),
        "return": side.return_,
    }
    result = side.environment.step(np.array([action]))
    side.observation = result.observations
    side.return_ += float(result.rewards[0])
    side.steps += 1
    side.ended, side.terminated = bool(result.ended[0]), bool(result.terminated[0])
    return shown


def summary(index: int, side: Side) -> dict[str, Any]:
    """The line that says how a side ended."""
    return {
        "type": "end",
        "side": index,
        "return": side.return_,
        "steps": side.steps,
        "terminated": side.terminated,
        "complete": side.ended,
    }


def write(line: dict[str, Any]) -> None:
    """Writes a line at once."""
    sys.__stdout__.write(json.dumps(line) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def main() -> None:
    """Plays the game that standard input names."""
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    request = json.loads(sys.stdin.buffer.readline())
    sys.stdout = sys.stderr  # what environments print is no line of the game
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        play(request)
    except BrokenPipeError:
        os._exit(0)
    except SlimqError as error:
        write({"type": "problem", "detail": str(error)})
    except Exception as error:  # an environment's code may raise anything
        write({"type": "problem", "detail": f"{type(error).__name__}: {error}"})
    os._exit(0)  # the thread holds the lock of the standard input, without which none can exit


def _end_with_input() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
