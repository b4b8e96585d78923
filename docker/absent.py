"""Exits with 1 if something that only training needs is installed, or imported by the service.

The build of the service's image runs it. To check a finished image, run
`docker run --rm -i slimq-service python - < docker/absent.py`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys

ABSENT = ("torch", "gymnasium", "ale_py", "onnx", "onnxscript", "matplotlib", "scipy", "optuna")
OF_CUDA = ("nvidia", "cuda", "triton")


def main() -> None:
    """Checks modules and distributions."""
    found = [name for name in ABSENT if importlib.util.find_spec(name)]
    names = [str(one.metadata["Name"]).lower() for one in importlib.metadata.distributions()]
    found += [name for name in names if name.startswith(OF_CUDA)]
    if found:
        sys.exit(f"the image has {', '.join(found)}")
    import slimq_service.server.serve  # noqa: F401 - a missing dependency ends it here

    loaded = sorted(set(ABSENT) & set(sys.modules))
    if loaded:
        sys.exit(f"importing the service also imports {', '.join(loaded)}")


if __name__ == "__main__":
    main()
