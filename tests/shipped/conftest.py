"""The service over the shipped policies, as a real process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from running import serve

POLICIES = Path(__file__).parents[2] / "policies"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(POLICIES, 3_600) as (process, url):
        yield url
        process.terminate()
        assert process.wait(30) == 0
