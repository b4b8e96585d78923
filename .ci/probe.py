"""Run in an environment with slimq[serve] alone: nothing of training is there, and it serves.

The service runs on a free port over ./policies; the first curl line of ./README.md is asked of it
when a policy is there.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ABSENT = ("torch", "gymnasium", "ale_py", "onnx", "matplotlib", "scipy")
SECONDS = 60.0


def check_imports() -> None:
    """The service imports; what only training needs is not installed."""
    installed = [name for name in ABSENT if importlib.util.find_spec(name)]
    if installed:
        sys.exit(f"slimq[serve] brings {', '.join(installed)}")
    import slimq_service.app
    import slimq_service.server.serve  # noqa: F401


def start() -> tuple[subprocess.Popen[str], str]:
    """A service on a free port, and its URL."""
    command = [str(Path(sys.executable).with_name("slimq")), "serve", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    limit = threading.Timer(SECONDS, server.kill)
    limit.daemon = True
    limit.start()
    found = re.search(r"http://\S+", server.stdout.readline() if server.stdout else "")
    if found is None:
        sys.exit(f"slimq serve announced no URL and ended with {server.wait()}")
    return server, found[0]


def wait_until_alive(url: str) -> None:
    """Returns once /healthz answers 200: the URL is announced a moment before that."""
    for _ in range(100):
        try:
            urllib.request.urlopen(f"{url}/healthz", timeout=10).close()  # noqa: S310
        except urllib.error.HTTPError as error:
            sys.exit(f"/healthz: {error}")
        except urllib.error.URLError:
            time.sleep(0.1)
        else:
            return
    sys.exit(f"{url}/healthz: no answer within 10 s")


def first_curl() -> str:
    """The first command of the README that calls curl, continued lines included."""
    text = Path("README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    return next(line for line in text.splitlines() if re.match(r"(.*\| )?curl ", line))


def main() -> None:
    """Everything in turn."""
    check_imports()
    server, url = start()
    try:
        wait_until_alive(url)
        if any(Path("policies").glob("*/policy.json")):
            command = first_curl().replace("http://127.0.0.1:8000", url)
            shell = ["bash", "-c", command]
            answered = subprocess.run(shell, capture_output=True, text=True, check=True)  # noqa: S603
            sys.stdout.write(f"{command}\n{answered.stdout}\n")
            body = json.loads(answered.stdout)
            if not (body.get("actions") and body.get("q_values")):
                sys.exit("that is no action with its Q-values")
        else:
            sys.stdout.write("policies/ is empty: no action was asked for\n")
    finally:
        server.terminate()
        code = server.wait(timeout=30)
    if code != 0:
        sys.exit(f"slimq serve ended with {code} after SIGTERM")
    sys.stdout.write("serve-only install: passed\n")


if __name__ == "__main__":
    main()
