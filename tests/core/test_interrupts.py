from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from slimq.core.interrupts import interrupts_deferred, interrupts_ignored


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Python's own handler: a shell's background jobs ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_deferred_interrupt_takes_effect_at_the_end() -> None:
    done = []

    def work() -> None:
        with interrupts_deferred():
            signal.raise_signal(signal.SIGINT)
            done.append("the rest")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["the rest"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_an_interrupt_nothing_is_raised() -> None:
    with interrupts_deferred():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_interrupt_is_gone() -> None:
    with interrupts_ignored():
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("context", [interrupts_deferred, interrupts_ignored])
def test_threads_leave_the_handler_as_it_is(
    context: Callable[[], AbstractContextManager[None]],
) -> None:
    found = []

    def enter() -> None:
        with context():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
