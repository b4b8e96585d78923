"""A control loop at a fixed rate, against a running service, with statistics of its deadlines.

    slimq serve --policies policies &
    python examples/control_loop.py cartpole
    python examples/control_loop.py pong --hz 50 --seconds 20 --variant int8
    python examples/control_loop.py pong --recorded policies

At each tick of the clock, the newest frame goes to the service over a MessagePack stream
(docs/stream.md), and the action that comes back is taken. The deadline of an action is the next
tick: an action that comes later is a miss, and the ticks that have passed by then are skipped.

Frames come from the policy's environment, which is played, or with --recorded from the states of
the policy's calibration set, in order and whatever the actions. Needs slimq[serve,play], or
slimq[serve] with --recorded. Copy `pack` and `unpack` for a client without slimq.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

import msgspec
import numpy as np
import numpy.typing as npt
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from slimq.core.environment import EnvironmentSpec, named_code
from slimq.core.errors import SlimqError
from slimq.core.frames import newest
from slimq.core.observation import ObservationSpec
from slimq.core.repository import Repository

Array = npt.NDArray[Any]
ANSWER_SECONDS = 10.0
"""Timeout for an answer; the loop ends if there is none."""
SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


class LoopError(SlimqError):
    """The loop cannot begin, or go on."""

    code = "control-loop"


@dataclass(frozen=True)
class Tick:
    """One tick of the clock; times in seconds.

    Attributes:
        began: when the frame was sent, since the start.
        late: by how much that was after the tick.
        round_trip: from the frame to its action.
        missed: whether the action came after the next tick.
        infer: the model's share of the round trip, as the service says.
    """

    began: float
    late: float
    round_trip: float
    missed: bool
    infer: float


@dataclass
class Record:
    """What a loop measured.

    Attributes:
        ticks: those with an answer.
        skipped: ticks that passed before the previous action was there.
        returns: of the episodes that ended.
    """

    ticks: list[Tick] = field(default_factory=list)
    skipped: int = 0
    returns: list[float] = field(default_factory=list)


class Source(Protocol):
    """Where frames come from."""

    returns: list[float]

    def frame(self) -> tuple[Array, bool]:
        """The newest frame, and whether it is the first of an episode."""

    def act(self, action: int) -> None:
        """Takes an action, by its index."""


class Played:
    """Frames of the policy's environment."""

    def __init__(self, greeting: dict[str, Any], seed: int, *, trusted: bool = False) -> None:
        """Starts an episode.

        Raises:
            LoopError: there is no environment, or it runs code that the service names, which must
                not choose what runs on this machine unless it is trusted.
        """
        if greeting["environment"] is None:
            raise LoopError(f"{greeting['policy']} has no environment; use --recorded POLICIES")
        from slimq.environments.vector import VectorEnvironment

        self._spec = ObservationSpec.model_validate(greeting["observation"])
        environment = EnvironmentSpec.model_validate(greeting["environment"])
        if not trusted and (code := named_code(environment)):
            raise LoopError(f"{code[0]} would run on this machine; give --trust-environment")
        self._environment = VectorEnvironment(environment, count=1)
        self._seeds = itertools.count(seed)
        self.returns: list[float] = []
        self._restart()

    def _restart(self) -> None:
        self._observation: Array = self._environment.start([next(self._seeds)])[0]
        self._first, self._return = True, 0.0

    def frame(self) -> tuple[Array, bool]:
        """See `Source.frame`."""
        return newest(self._observation[np.newaxis], self._spec)[0], self._first

    def act(self, action: int) -> None:
        """See `Source.act`."""
        result = self._environment.step(np.array([action]))
        self._observation, self._first = result.observations[0], False
        self._return += float(result.rewards[0])
        if result.terminated[0] or result.truncated[0]:
            self.returns.append(self._return)
            self._restart()


class Recorded:
    """The newest frame of each state of a policy's calibration set, again and again."""

    def __init__(self, policies: Path, policy: str) -> None:
        """Reads the states. Raises LoopError if there are none."""
        repository = Repository(policies)
        found = repository.calibration(repository.policy(policy))
        if found is None:
            raise LoopError(f"{policy} has no calibration set; leave --recorded out")
        frames: Iterator[Array] = iter(found.frames[np.maximum(found.indices[:, -1], 0)])
        self._frames, self._first = itertools.cycle(frames), True
        self.returns: list[float] = []

    def frame(self) -> tuple[Array, bool]:
        """See `Source.frame`."""
        return next(self._frames), self._first

    def act(self, action: int) -> None:  # noqa: ARG002
        """Changes nothing: the states were recorded."""
        self._first = False


def pack(message: Any) -> bytes:
    """MessagePack with arrays as openpi's clients encode them."""

    def encode(array: Array) -> dict[bytes, Any]:
        entries = {b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": array.shape}
        return {b"__ndarray__": True, **entries}

    return msgspec.msgpack.encode(message, enc_hook=encode)


def unpack(content: bytes) -> dict[str, Any]:
    """A map from MessagePack, with its arrays."""
    message: dict[str, Any] = msgspec.msgpack.decode(content)
    for key, value in message.items():
        if isinstance(value, dict) and b"__ndarray__" in value:
            message[key] = np.ndarray(value[b"shape"], value[b"dtype"], value[b"data"])
    return message


def ask(stream: ClientConnection, frame: Array, reset: bool) -> dict[str, Any]:
    """Sends a frame and receives its answer. Raises LoopError if that is a problem."""
    stream.send(pack({"observation": frame, **({"reset": True} if reset else {})}))
    answer = unpack(stream.recv(timeout=ANSWER_SECONDS, decode=False))
    if "code" in answer:
        raise LoopError(f"the service refused a frame: {answer['detail']}")
    return answer


def run_loop(
    infer: Callable[[Array, bool], dict[str, Any]],
    source: Source,
    hz: float,
    seconds: float,
    action_start: int = 0,
) -> Record:
    """Runs a loop until its time is over.

    Args:
        infer: the answer to a frame.
        source: where frames come from.
        hz: ticks per second.
        seconds: how long to run.
        action_start: the number of the first action.
    """
    record, period = Record(returns=source.returns), 1 / hz
    start = time.perf_counter()
    tick = 0
    while tick < seconds * hz:
        due = start + tick * period
        if (pause := due - time.perf_counter()) > 0:
            time.sleep(pause)
        frame, reset = source.frame()
        began = time.perf_counter()
        answer = infer(frame, reset)
        ended = time.perf_counter()
        infer_seconds = answer["server_timing"]["infer_ms"] / 1000
        missed = ended > due + period
        record.ticks.append(Tick(began - start, began - due, ended - began, missed, infer_seconds))
        source.act(int(answer["actions"][0]) - action_start)
        following = max(tick + 1, math.ceil((time.perf_counter() - start) / period))
        record.skipped += following - tick - 1
        tick = following
    return record


def summarize(record: Record, hz: float) -> dict[str, Any]:
    """The statistics of a loop, with times in milliseconds."""
    ticks = record.ticks
    gaps = np.abs(np.diff([tick.began for tick in ticks]) * hz - 1) / hz
    return {
        "ticks": len(ticks),
        "missed": sum(tick.missed for tick in ticks),
        "skipped": record.skipped,
        "period_jitter_ms": quantiles(gaps),
        "late_ms": quantiles([tick.late for tick in ticks]),
        "round_trip_ms": quantiles([tick.round_trip for tick in ticks]),
        "model_ms": quantiles([tick.infer for tick in ticks]),
        "episodes": len(record.returns),
        "mean_return": float(np.mean(record.returns)) if record.returns else None,
    }


def quantiles(seconds: Sequence[float] | Array) -> dict[str, float]:
    """The quantiles of times, in milliseconds; empty if there are none."""
    if len(seconds) == 0:
        return {}
    ordered = np.sort(seconds)
    places = {name: max(0, math.ceil(share * len(ordered)) - 1) for name, share in SHARES.items()}
    return {name: round(float(ordered[place]) * 1000, 3) for name, place in places.items()}


def describe(summary: dict[str, Any], greeting: dict[str, Any], hz: float) -> str:
    """The statistics as text."""
    count = summary["ticks"]
    share = summary["missed"] / count if count else 0.0
    lines = [
        f"{greeting['policy']} by {greeting['variant']}: {count} ticks at {hz:g} Hz, "
        f"{summary['missed']} missed their deadline of {1000 / hz:g} ms ({share:.2%}), "
        f"{summary['skipped']} skipped",
        f"{'ms':<15}" + "".join(f"{name:>10}" for name in SHARES),
    ]
    for name in ("period_jitter_ms", "late_ms", "round_trip_ms", "model_ms"):
        label = name.removesuffix("_ms").replace("_", " ")
        lines.append(f"{label:<15}" + "".join(f"{v:>10.3f}" for v in summary[name].values()))
    if summary["episodes"]:
        mean = summary["mean_return"]
        lines.append(f"{summary['episodes']} episodes ended, with a mean return of {mean:.1f}")
    return "\n".join(lines)


def read_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Reads the command line."""
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=text)
    parser.add_argument("policy", help="name of the policy")
    parser.add_argument("--service", default="ws://127.0.0.1:8000", help="default: %(default)s")
    parser.add_argument("--variant", help="default: the policy's default variant")
    parser.add_argument("--hz", type=positive, default=50.0, help="ticks per second; default: 50")
    parser.add_argument("--seconds", type=positive, default=10.0, help="duration; default: 10")
    parser.add_argument(
        "--recorded", type=Path, metavar="POLICIES", help="repository with recorded states to send"
    )
    parser.add_argument(
        "--trust-environment",
        action="store_true",
        help="run the code that the service names for the environment",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the first episode; default: 1")
    parser.add_argument("--json", action="store_true", help="print the statistics as JSON")
    return parser.parse_args(words)


def positive(text: str) -> float:
    """A finite number above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, received {text}")
    return number


def reason_of(error: Exception) -> str:
    """What went wrong; if the service refused the stream, its problem document says it."""
    if isinstance(error, InvalidStatus):
        with suppress(ValueError, TypeError, KeyError):
            return str(json.loads(error.response.body)["detail"])
    return str(error) or type(error).__name__


def control(arguments: argparse.Namespace) -> None:
    """Connects, runs the loop and prints its statistics.

    Raises:
        SlimqError: the stream cannot be opened, or the loop cannot begin or go on.
    """
    query = {"format": "msgpack", "keep": "newest"}
    if arguments.variant is not None:
        query["variant"] = arguments.variant
    service = arguments.service
    if service.startswith("http"):
        service = f"ws{service.removeprefix('http')}"
    url = f"{service}/v1/policies/{arguments.policy}/stream?{urlencode(query)}"
    with connect(url, compression=None) as stream:
        greeting = unpack(stream.recv(timeout=ANSWER_SECONDS, decode=False))
        source: Source
        if arguments.recorded is None:
            source = Played(greeting, arguments.seed, trusted=arguments.trust_environment)
        else:
            source = Recorded(arguments.recorded, arguments.policy)
        frame, reset = source.frame()
        ask(stream, frame, reset)  # the first run of a model is slower

        def infer(frame: Array, reset: bool) -> dict[str, Any]:
            return ask(stream, frame, reset)

        start = greeting["action_start"]
        record = run_loop(infer, source, arguments.hz, arguments.seconds, start)
    summary = summarize(record, arguments.hz)
    text = describe(summary, greeting, arguments.hz)
    print(json.dumps(summary) if arguments.json else text)


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    try:
        control(read_arguments(sys.argv[1:] if words is None else words))
    except (SlimqError, WebSocketException, OSError, TimeoutError, ImportError) as error:
        print(f"control_loop: {reason_of(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
