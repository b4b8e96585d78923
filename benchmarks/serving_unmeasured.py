"""The service without metrics: the methods of every series do nothing.

    python serving_unmeasured.py --policies DIR

The difference in cost from the service is the cost of metrics. The empty calls remain, at a
twentieth of a microsecond each.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from slimq_service.app import create_app
from slimq_service.metrics.instruments import Family
from slimq_service.metrics.registry import Registry
from slimq_service.server.run import exit_cleanly, run
from slimq_service.server.sockets import bind, url_of
from slimq_service.settings import Settings


class Nothing:
    """A counter, gauge and histogram that records nothing."""

    __slots__ = ()

    def inc(self, amount: float = 1.0) -> None:
        """Does nothing."""

    def dec(self, amount: float = 1.0) -> None:
        """Does nothing."""

    def set(self, value: float) -> None:
        """Does nothing."""

    def observe(self, value: float) -> None:
        """Does nothing."""


class Forgetful(Registry):
    """A registry whose series all stay at 0."""

    def _create(self, family: Family[Any], values: tuple[str, ...]) -> Any:
        super()._create(family, values)
        family.children[values] = Nothing()
        return family.children[values]


def main() -> None:
    """Serves on a free port, announced as `slimq serve` does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=Path, required=True)
    settings = Settings(policies=parser.parse_args().policies)
    exit_cleanly()
    bound = bind("127.0.0.1", 0)
    print(f"unmeasured at {url_of(bound)}", flush=True)
    run(create_app(settings, Forgetful()), settings, [bound])


if __name__ == "__main__":
    main()
