"""podman with a store of its own, and compose that speaks to it.

The store, with the images that stand in for a hub's, is kept in the user's cache: to make them
takes minutes, once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from waiting import until

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[2]
COMPOSE = Path(sys.executable).with_name("docker-compose")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
NEEDED = (
    *("podman", "runc", "mmdebstrap", "iptables", "/usr/libexec/podman/catatonit"),
    *("/usr/lib/podman/netavark", "/usr/lib/podman/aardvark-dns", str(COMPOSE)),
)
DEBIAN = "localhost/slimq-test/debian"
# Raising limits is refused inside containers and virtual machines, and crun rejects older cgroups.
CONFIGURATION = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


def missing() -> list[str]:
    """What the tests need and this machine lacks."""
    found = [name for name in NEEDED if shutil.which(name) is None]
    return found if os.geteuid() == 0 else [*found, "root, for networks of containers"]


@dataclass(frozen=True)
class Engine:
    """podman, with everything it keeps in two folders."""

    store: Path
    run: Path

    @property
    def command(self) -> list[str]:
        return [
            *("podman", "--root", str(self.store / "storage"), "--runroot", str(self.run / "root")),
            *(
                "--tmpdir",
                str(self.run / "tmp"),
                "--network-config-dir",
                str(self.run / "networks"),
            ),
        ]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "CONTAINERS_CONF": str(self.run / "containers.conf")}

    def __call__(self, *words: str, seconds: float = 120.0) -> str:
        """What a command answers on stdout; it has failed where it says so."""
        done = subprocess.run(
            [*self.command, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=ROOT,
        )
        assert done.returncode == 0, f"podman {' '.join(words)}: {done.stderr[-3000:]}"
        return done.stdout.strip()

    def build(self, tag: str, dockerfile: Path, context: Path, **arguments: str) -> None:
        """An image from a Dockerfile; what was built before from the same is not built again."""
        words = [w for name, value in arguments.items() for w in ("--build-arg", f"{name}={value}")]
        if CERTIFICATES.exists():
            words += ["-v", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
        self(
            *("build", "--format", "docker", "--network", "host", "--pull=never", "--layers"),
            *("-t", tag, "-f", str(dockerfile), *words, str(context)),
            seconds=900.0,
        )

    def inspect(self, name: str) -> dict[str, Any]:
        return json.loads(self("inspect", name))[0]

    def clean(self) -> None:
        """Removes containers, networks and volumes; images stay."""
        self("rm", "--all", "--force", "--time", "0")
        self("network", "prune", "--force")
        self("volume", "prune", "--force")


@contextlib.contextmanager
def open_engine(store: Path, run: Path) -> Iterator[Engine]:
    """An engine that nobody else uses meanwhile, with nothing in it but images."""
    for folder in (store, run / "networks"):
        folder.mkdir(parents=True, exist_ok=True)
    (run / "containers.conf").write_text(CONFIGURATION, encoding="utf-8")
    with FileLock(store / "lock"):
        engine = Engine(store, run)
        engine.clean()
        engine("image", "prune", "--force", "--filter", "until=24h")  # of builds long ago
        try:
            yield engine
        finally:
            engine.clean()


def make_bases(engine: Engine) -> None:
    """The images that stand in for those of a hub."""
    if subprocess.run(
        [*engine.command, "image", "exists", DEBIAN], env=engine.environment
    ).returncode:
        archive = engine.run / "debian.tar"
        packages = "python3,python3-pip,python3-venv,ca-certificates"
        command = ["mmdebstrap", "--variant=minbase", f"--include={packages}", "bookworm"]
        subprocess.run([*command, str(archive)], check=True, capture_output=True, timeout=900)
        path = "ENV PATH=/usr/local/bin:/usr/bin:/bin"
        engine("import", "-c", path, str(archive), DEBIAN, seconds=300.0)
        archive.unlink()
    for name in ("base", "prometheus", "haproxy"):
        engine.build(f"localhost/slimq-test/{name}", FOLDER / f"{name}.Dockerfile", FOLDER)


@contextlib.contextmanager
def watched(engine: Engine) -> Iterator[str]:
    """The engine's socket for compose, for as long as its health checks are run.

    podman leaves their timing to systemd, which containers and some machines do not have.
    """
    socket = f"unix://{engine.run / 'podman.sock'}"
    service = subprocess.Popen(
        [*engine.command, "system", "service", "--time=0", socket],
        env=engine.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    ended = threading.Event()
    nurse = threading.Thread(target=_check_health, args=(engine, ended))
    nurse.start()
    try:
        until((engine.run / "podman.sock").exists, 30, "podman's service")
        yield socket
    finally:
        ended.set()
        nurse.join()
        service.terminate()
        service.wait(timeout=30)


def _check_health(engine: Engine, ended: threading.Event) -> None:
    def ask(*words: str) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            command = [*engine.command, *words]
            done = subprocess.run(
                command, env=engine.environment, capture_output=True, text=True, timeout=20
            )
            return done.stdout
        return ""

    while not ended.wait(0.5):
        for container in ask("ps", "--quiet").split():
            ask("healthcheck", "run", container)


class Stack:
    """One compose project."""

    def __init__(
        self, engine: Engine, socket: str, files: list[Path], variables: Mapping[str, str]
    ) -> None:
        self.engine = engine
        self._environment = {**engine.environment, "DOCKER_HOST": socket, **variables}
        names = [word for file in files for word in ("-f", str(file))]
        self.command = [str(COMPOSE), "-p", "slimqtest", "--project-directory", str(ROOT), *names]
        self.service_port = variables["SLIMQ_SERVICE_PORT"]
        self.prometheus_port = variables["SLIMQ_PROMETHEUS_PORT"]

    def __call__(self, *words: str, seconds: float = 180.0, **variables: str) -> str:
        done = self.call([*self.command, *words], seconds, **variables)
        assert done.returncode == 0, f"compose {' '.join(words)}: {done.stderr[-3000:]}"
        return done.stdout.strip()

    def call(
        self, command: list[str], seconds: float, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """A command that finds the engine as compose does."""
        return subprocess.run(
            command,
            env={**self._environment, **variables},
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=ROOT,
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.service_port}"

    @property
    def prometheus(self) -> str:
        return f"http://127.0.0.1:{self.prometheus_port}"

    def containers(self, service: str) -> list[str]:
        return self("ps", "--quiet", service).split()

    def up(self) -> None:
        self("up", "--detach", "--no-build", "--wait", "--wait-timeout", "120")

    def down(self) -> None:
        self("down", "--volumes", "--timeout", "5")
