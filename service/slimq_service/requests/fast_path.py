"""The express lane: for the requests that control loops send again and again.

They are whole in the first message, for a variant that is in memory, and in one of the forms that
cost little to read (`forms.py`, `oip/forms.py`). The lane checks, computes, counts and answers like
the endpoint, without what sharing and waiting need: nothing is awaited but a run of the model with
others. Whatever is unusual, every error among it, is the endpoint's; a test holds the two to
the same answers.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slimq.core.observation import Observations
from slimq.core.qfunction import QValues
from slimq_service.http.bodies import number_of
from slimq_service.http.problems import Problem
from slimq_service.http.responses import Answer, send_last, with_retry
from slimq_service.metrics.statistics import Stages, VariantStatistics
from slimq_service.metrics.variant_metrics import VariantMetrics
from slimq_service.requests.call import CALL, Call
from slimq_service.requests.pipeline import Hot
from slimq_service.variants.loading import LoadedVariant
from slimq_service.variants.residency import VariantState

Usual = tuple[Observations, Any]
"""The observations of a usual request, and what its answer depends on beside them."""
RequestHeaders = list[tuple[bytes, bytes]]
Content = tuple[list[tuple[bytes, bytes]], bytes]
"""Headers and body of an answer."""


class Form(Protocol):
    """How usual requests of one endpoint are read and answered."""

    def read(self, headers: RequestHeaders, body: bytes) -> Usual | None:
        """A request's observations `(batch, *shape)`, and what `render` needs of it.

        None of one that is unusual, or wrong.
        """

    def render(self, asked: Any, q_values: QValues, actions: list[int]) -> Content:
        """The answer; `actions` are the greedy ones."""

    def word(self, problem: Problem) -> Answer:
        """The answer to what goes wrong."""


@dataclass(frozen=True, slots=True)
class Lane:
    """What the requests of one path need, as long as nothing has changed since the last look.

    It does not keep the variant in memory, which may be evicted.
    """

    endpoint: ASGIApp
    """Answers what is unusual."""
    names: dict[str, str]
    form: Form
    state: VariantState
    version: weakref.ref[LoadedVariant]
    measured: VariantMetrics
    statistics: VariantStatistics
    call: Call
    """Whose requests they are, for the access log."""

    def variant(self) -> LoadedVariant | None:
        """The variant, None where it has been replaced or dropped: then the lane is closed."""
        loaded = self.state.loaded
        return None if loaded is None or self.version() is not loaded else loaded


def open_lane(
    hot: Hot, endpoint: ASGIApp, names: dict[str, str], make: Callable[[LoadedVariant], Form]
) -> Lane | None:
    """The lane of a path, where there can be one.

    Args:
        hot: what hot endpoints share.
        endpoint: that of the path.
        names: in the path, the policy's first and perhaps a variant's.
        make: makes the form of its requests.
    """
    policy, *rest = names.values()
    found = hot.catalogue.scan.policies.get(policy)
    if found is None or found.manifest is None:
        return None
    manifest = found.manifest
    if manifest.routing is not None:  # a routing key may be too long
        return None
    name = rest[0] if rest else manifest.default_variant
    state = hot.catalogue.residents.state(policy, name)
    loaded = state.loaded
    if loaded is None or loaded.policy.observation != manifest.observation:
        return None
    measured, statistics = hot.metrics.of(policy, name), hot.statistics.of(policy, name)
    call = Call(policy, name)
    version = weakref.ref(loaded)
    return Lane(endpoint, names, make(loaded), state, version, measured, statistics, call)


def announced(headers: RequestHeaders, longest: int) -> int:
    """How long a body is that nothing unusual is said of; -1 of others, or where it is too long.

    To be asked before the body is: a client that expects to be told so waits for a refusal.

    Args:
        headers: the request's.
        longest: most bytes.
    """
    length = -1
    for name, value in headers:
        if name == b"content-length":
            number = number_of(value)
            if length >= 0 or number is None:
                return -1
            length = number
        elif name == b"content-encoding" or name == b"expect":
            return -1
    return length if length <= longest else -1


def read(
    lane: Lane, headers: RequestHeaders, message: Message, length: int, most: int
) -> Usual | None:
    """What `Form.read` finds in a request that has nothing unusual.

    Args:
        lane: that of the request's path.
        headers: the request's.
        message: its first.
        length: of the body, as `announced` has it.
        most: observations that are taken.
    """
    body = message.get("body", b"")
    if message["type"] != "http.request" or message.get("more_body") or len(body) != length:
        return None
    found = lane.form.read(headers, body)
    return None if found is None or len(found[0]) > most else found


def answer_now(
    hot: Hot, lane: Lane, variant: LoadedVariant, scope: Scope, usual: Usual, began: int
) -> Content | None:
    """The answer of a model that is run at once, in the event loop (`Engine.runs_now`).

    Args:
        hot: what hot endpoints share.
        lane: that of the request's path.
        variant: the lane's.
        scope: the request.
        usual: from `read`.
        began: when it arrived, in nanoseconds.

    Returns:
        None where nothing was done, and the endpoint is to answer.
    """
    before = time.perf_counter_ns()
    observations, asked = usual
    try:
        q_values = variant.q_function(observations)
    except Exception:  # whatever it is, the endpoint says what there is to say
        return None
    after = time.perf_counter_ns()
    rows = q_values.tolist()
    if not math.isfinite(sum(map(sum, rows))):
        return None
    actions = [row.index(max(row)) for row in rows]
    content = lane.form.render(asked, q_values, actions)
    ended = time.perf_counter_ns()
    scope[CALL] = lane.call
    stages = Stages(0, before - began, after - before, ended - after)
    lane.measured.inline(len(actions))
    _count(lane, actions, ended - began, stages, 1)
    if variant.policy.shadow is not None:
        hot.shadow.offer(variant, observations, q_values)
    return content


async def answer_in_turn(
    hot: Hot,
    lane: Lane,
    variant: LoadedVariant,
    scope: Scope,
    receive: Receive,
    send: Send,
    usual: Usual,
    began: int,
) -> None:
    """Answers a request that is computed with others, or in a thread when its turn has come.

    Args:
        hot: what hot endpoints share.
        lane: that of the request's path.
        variant: the lane's.
        scope: the request.
        receive: its ASGI channel, once its body is whole.
        send: where the answer goes.
        usual: from `read`.
        began: when it arrived, in nanoseconds.
    """
    before = time.perf_counter_ns()
    observations, asked = usual
    leases, in_flight = variant.leases, hot.metrics.in_flight
    leases.count += 1
    in_flight.inc()
    scope[CALL] = lane.call
    problem: Problem | None = None
    content: Content | None = None
    try:
        inference = await hot.compute(variant, observations, receive)
        after = time.perf_counter_ns()
        q_values = inference.q_values
        actions = [row.index(max(row)) for row in q_values.tolist()]
        content = lane.form.render(asked, q_values, actions)
        queue, infer = int(inference.queue_seconds * 1e9), int(inference.seconds * 1e9)
        ended = time.perf_counter_ns()
        stages = Stages(queue, before - began, infer, ended - after)
        _count(lane, actions, ended - began, stages, inference.executions)
        hot.shadow.offer(variant, observations, q_values)
    except Exception as error:
        call = Call(lane.call.policy, lane.call.variant, arrived=began, began=began)
        problem = hot.fail(call, scope["path"], error)
    finally:
        leases.count -= 1
        in_flight.dec()
    if content is not None:
        await send_content(send, content)
    elif problem is not None:
        refusal = with_retry(lane.form.word(problem), problem)
        await send_last(receive, send, refusal, close=False)


async def send_content(send: Send, content: Content) -> None:
    """Sends an answer."""
    await send({"type": "http.response.start", "status": 200, "headers": content[0]})
    await send({"type": "http.response.body", "body": content[1]})


def _count(lane: Lane, actions: list[int], elapsed: int, stages: Stages, executions: int) -> None:
    """What the endpoint counts of a request that is answered; `elapsed` in nanoseconds."""
    measured = lane.measured
    lane.state.used = time.monotonic()
    measured.requests.inc()
    measured.observations.inc(len(actions))
    measured.chose(actions)
    measured.answered(stages.compute_input, stages.compute_output)
    measured.inference_seconds.observe(stages.compute_infer * 1e-9)
    measured.queue_seconds.observe(stages.queue * 1e-9)
    measured.http_seconds.observe(elapsed * 1e-9)
    lane.statistics.succeed(elapsed, stages, len(actions), executions)
