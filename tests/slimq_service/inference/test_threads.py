from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest

from slimq_service.inference.threads import Threads


def test_a_task_runs_in_a_thread_and_its_result_reaches_the_event_loop() -> None:
    async def run() -> None:
        threads = Threads(2, "named")
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        seen = []

        def finish(result: Any) -> None:
            seen.append(threading.current_thread())
            done.set_result(result)

        threads.start(lambda: threading.current_thread().name, finish)
        assert (await done).startswith("named-")
        assert seen == [threading.main_thread()]
        threads.close()

    asyncio.run(run())


def test_all_threads_run_concurrently() -> None:
    async def run() -> None:
        threads = Threads(2, "named")
        both = threading.Barrier(2)
        done: asyncio.Queue[Any] = asyncio.Queue()
        for _ in range(2):
            threads.start(lambda: both.wait(10), done.put_nowait)
        assert {await done.get(), await done.get()} == {0, 1}
        threads.close()

    asyncio.run(run())


def test_an_exception_is_returned_and_the_thread_survives() -> None:
    async def run() -> None:
        threads = Threads(1, "named")
        done: asyncio.Queue[Any] = asyncio.Queue()
        threads.start(lambda: 1 // 0, done.put_nowait)
        threads.start(lambda: 7, done.put_nowait)
        assert isinstance(await done.get(), ZeroDivisionError)
        assert await done.get() == 7
        threads.close()

    asyncio.run(run())


def test_close_waits_for_accepted_tasks_and_refuses_new_ones() -> None:
    async def run() -> None:
        threads = Threads(1, "named")
        found: list[int] = []
        for value in range(3):
            threads.start(lambda value=value: found.append(value), lambda _: None)
        await asyncio.to_thread(threads.close)
        assert found == [0, 1, 2]
        with pytest.raises(RuntimeError, match="pool is closed"):
            threads.start(lambda: None, lambda _: None)

    asyncio.run(run())


def test_a_result_for_a_closed_event_loop_is_dropped() -> None:
    threads, go_on = Threads(1, "named"), threading.Event()

    async def run() -> None:
        threads.start(lambda: go_on.wait(10), lambda _: None)

    asyncio.run(run())
    go_on.set()
    threads.close()
    assert not any(thread.is_alive() for thread in threads._threads)


ENDED_EARLY = """
import asyncio, time
from slimq_service.inference.threads import Threads
threads = Threads(2, "named")
async def run():
    threads.start(lambda: (time.sleep(0.3), print("worked", flush=True)), lambda _: None)
asyncio.run(run())
"""


def test_the_interpreter_exits_cleanly_while_a_task_runs() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDED_EARLY], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "worked\n", "")


def test_no_task_is_accepted_if_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        threads = Threads(2, "named")
        with monkeypatch.context() as changed:
            changed.setattr(threading.Thread, "start", fail)
            with pytest.raises(RuntimeError, match="new thread"):
                threads.start(lambda: None, lambda _: None)
        done: asyncio.Queue[Any] = asyncio.Queue()
        threads.start(lambda: 7, done.put_nowait)
        assert await done.get() == 7
        threads.close()

    asyncio.run(run())
