"""Writes a policy's observations of real play as raw bytes, for k6 and locust to send.

python benchmarks/load/observations.py pong pong.bin --policies policies
"""

from __future__ import annotations

import argparse
from pathlib import Path

from slimq.core.repository import Repository
from slimq.loadtest.requests import make_bodies, read_calibration


def main() -> None:
    """Reads the arguments and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("policy")
    parser.add_argument("file", type=Path)
    parser.add_argument("--policies", type=Path, default=Path("policies"))
    arguments = parser.parse_args()
    repository = Repository(arguments.policies)
    spec = repository.policy(arguments.policy).observation
    states = read_calibration(repository, arguments.policy, spec)
    bodies = make_bodies(states, spec, 1)
    arguments.file.write_bytes(b"".join(bodies))
    print(f"{arguments.file}: {len(bodies)} observations of {spec.item_bytes:,} bytes")


if __name__ == "__main__":
    main()
