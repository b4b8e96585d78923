"""ONNX Runtime Web from npm: fetched once, checked by hash, kept in the user's cache.

npm itself fetches it, so that the user's registry, proxy and certificates apply. The two files that
the page needs are checked against the hashes here, whether they come from the cache, npm, a folder
or a tarball.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from slimq.core.atomic import write_atomically
from slimq.core.errors import ConfigError, InvalidInputError, first_line
from slimq.core.user_cache import user_cache_folder

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SCRIPT, WASM = "ort.wasm.bundle.min.js", "ort-wasm-simd-threaded.wasm"
SOURCES = {SCRIPT: "ort.wasm.bundle.min.mjs", WASM: WASM}
"""The page's files and their names in the package; not every file server knows `.mjs`."""
SHA256 = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
MAX_FILE_BYTES = 64_000_000
FETCH_SECONDS = 600
LICENCES = ("LICENSE", "ThirdPartyNotices.txt")
"""Licence files; the npm package has none, the Python package of the same project has both."""
HINT = f"; --runtime takes the tarball or unpacked folder of {PACKAGE} {VERSION}"


@dataclass(frozen=True)
class Runtime:
    """The files that the page loads, by name."""

    files: Mapping[str, bytes]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(map(len, self.files.values()))


def find_runtime(given: Path | None) -> Runtime:
    """Reads the runtime from a folder or tarball, from the cache, or has npm fetch it.

    Args:
        given: a folder or tarball of the package; None for the cache or npm.

    Raises:
        InvalidInputError: `given` is not this version of the package.
        ConfigError: it is not in the cache and cannot be fetched.
    """
    if given is not None:
        return _read_given(given)
    cache = user_cache_folder() / f"{PACKAGE}-{VERSION}"
    cached = _read_folder(cache, {name: name for name in SOURCES})
    if cached is not None:
        return cached
    runtime = _fetch()
    _keep(runtime, cache)
    return runtime


def licences() -> dict[str, bytes]:
    """The licence of ONNX Runtime and its third-party notices, by file name."""
    folder = resources.files("onnxruntime")
    return {name: folder.joinpath(name).read_bytes() for name in LICENCES}


def _read_given(given: Path) -> Runtime:
    expected = f"the folder or tarball of {PACKAGE} {VERSION}"
    if given.is_dir():
        for folder in (given, given / "dist", given / "package" / "dist"):
            if (found := _read_folder(folder, SOURCES)) is not None:
                return found
        problem = f"{given}, without its files {' and '.join(SOURCES.values())} of this version"
    elif given.is_file():
        try:
            return _read_tarball(given)
        except (OSError, tarfile.TarError, EOFError, ValueError) as error:
            problem = f"{given}: {first_line(error)}"
    else:
        problem = f"{given}, which does not exist"
    raise InvalidInputError("runtime", expected, problem)


def _read_folder(folder: Path, names: Mapping[str, str]) -> Runtime | None:
    """The runtime in a folder; None if a file is missing or differs."""
    try:
        return _checked(lambda name: (folder / names[name]).read_bytes())
    except (OSError, ValueError):
        return None


def _read_tarball(path: Path) -> Runtime:
    """The runtime in a tarball from npm.

    Raises:
        ValueError: a file is missing or differs.
        OSError, TarError, EOFError: it is not a tarball.
    """
    with tarfile.open(path, "r:gz") as archive:

        def read(name: str) -> bytes:
            wanted = f"package/dist/{SOURCES[name]}"
            try:
                member = archive.getmember(wanted)
            except KeyError:
                raise ValueError(f"no file {wanted}") from None
            stream = archive.extractfile(member) if member.size <= MAX_FILE_BYTES else None
            if stream is None:
                raise ValueError(f"{wanted} is not a file of at most {MAX_FILE_BYTES:,} bytes")
            return stream.read()

        return _checked(read)


def _checked(read: Callable[[str], bytes]) -> Runtime:
    files = {name: read(name) for name in SOURCES}
    for name, content in files.items():
        found = hashlib.sha256(content).hexdigest()
        if found != SHA256[name]:
            wanted = f"SHA-256 {SHA256[name][:12]}… of version {VERSION}"
            raise ValueError(f"{SOURCES[name]}: expected {wanted}, found {found[:12]}…")
    return Runtime(files)


def _fetch() -> Runtime:
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigError("target web", PACKAGE, f"npm, which fetches it, is not installed{HINT}")
    with tempfile.TemporaryDirectory() as work:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--loglevel=error"]
        command += ["--pack-destination", work]
        try:
            done = subprocess.run(  # noqa: S603
                command, cwd=work, capture_output=True, text=True, timeout=FETCH_SECONDS
            )
        except subprocess.TimeoutExpired:
            problem = f"npm did not fetch it within {FETCH_SECONDS} s{HINT}"
            raise ConfigError("target web", PACKAGE, problem) from None
        except OSError as error:
            raise ConfigError("target web", PACKAGE, f"npm: {first_line(error)}{HINT}") from None
        tarballs = list(Path(work).glob("*.tgz"))
        if done.returncode or not tarballs:
            said = _reason(done.stderr) or f"exit code {done.returncode}"
            raise ConfigError("target web", PACKAGE, f"npm cannot fetch it: {said}{HINT}")
        try:
            return _read_tarball(tarballs[0])
        except (OSError, tarfile.TarError, EOFError, ValueError) as error:
            problem = f"npm fetched another file: {first_line(error)}"
            raise ConfigError("target web", PACKAGE, problem) from None


def _reason(output: str) -> str | None:
    """The sentence among npm's lines; codes come before it, a stack and advice after it."""
    lines = [line.removeprefix("npm error").strip() for line in output.splitlines()]
    fields = ("code ", "syscall ", "errno ")
    return next((line for line in lines if line and not line.startswith(fields)), None)


def _keep(runtime: Runtime, cache: Path) -> None:
    """Writes the cache; exports do not need it, so a read-only folder is not an error.

    Each file is replaced atomically, and its hash is checked whenever it is read.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for name, content in runtime.files.items():
            write_atomically(cache / name, content)
        for name, content in licences().items():
            write_atomically(cache / name, content)
    except OSError:
        return
