"""Fetches a model file once: complete, verified, and of one version.

The service's ETag is the sha256 of the file. It is requested first, so that a cached file is not
sent again. An interrupted download resumes where it stopped if the file is still the same
(`If-Range`, RFC 9110, section 13.1.5); if it has changed, the new file is fetched from the
beginning.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import httpx

from slimq.core._files import MAX_FILE_BYTES
from slimq.core.connection import error_of, explaining, open_connection
from slimq.core.errors import ServiceError
from slimq.core.local.cache import ModelCache, Part

MAX_VERSIONS = 5
"""Maximum number of versions whose download is begun before giving up."""
MAX_CUTS = 3
"""Maximum number of consecutive interruptions without a byte between them."""
PAUSE_SECONDS = 0.2
"""Pause before the first retry; doubled for each further one."""
IDENTITY = {"accept-encoding": "identity"}
"""Request header that turns compression off: ranges and hashes refer to the plain bytes."""


@dataclass(frozen=True)
class ModelFile:
    """A model file that was fetched.

    Attributes:
        sha256: SHA-256 of its bytes.
        content: its bytes.
    """

    sha256: str
    content: bytes


class _Changed(Exception):  # noqa: N818
    """The file is no longer the one whose download was begun."""


class ModelSource:
    """A model file at an address, such as `http://HOST/v1/policies/pong/variants/tiny/model`."""

    def __init__(
        self,
        url: str,
        cache: ModelCache,
        timeout: float,
        transport: httpx.BaseTransport | None = None,
        api_key: str | None = None,
    ) -> None:
        """Checks the arguments without connecting; see `open_connection`."""
        self.url, self._cache, self._timeout = url, cache, timeout
        self._transport, self._api_key = transport, api_key
        self._open().close()

    def fetch(self) -> ModelFile:
        """The current file, from the cache if possible.

        Raises:
            ServiceError: the service cannot be reached, answers with an error, or sends bytes that
                do not match its ETag.
            OSError: the cache cannot be written.
        """
        with self._open() as http:
            for _ in range(MAX_VERSIONS):
                sha256 = self._ask(http)
                try:
                    return ModelFile(sha256, self._content(http, sha256))
                except _Changed:
                    continue
        raise ServiceError(
            self.url, None, f"the model changed {MAX_VERSIONS} times while it was fetched"
        )

    def changed(self, known: str) -> ModelFile | None:
        """The current file; None if it still has this sha256. Raises the errors of `fetch`."""
        with self._open() as http:
            if self._ask(http, known) == known:
                return None
        return self.fetch()

    def _open(self) -> httpx.Client:
        return open_connection(self.url, self._timeout, self._transport, self._api_key)

    def _ask(self, http: httpx.Client, known: str | None = None) -> str:
        """The current file's sha256; requests one byte, since HEAD would not explain errors."""
        headers = {**IDENTITY, "range": "bytes=0-0"}
        if known is not None:
            headers["if-none-match"] = f'"{known}"'
        with (
            explaining(self.url, self._timeout),
            http.stream("GET", self.url, headers=headers) as response,
        ):
            if response.status_code == 304 and known is not None:
                return known
            return self._sha256_of(response)

    def _content(self, http: httpx.Client, sha256: str) -> bytes:
        """The content of the file with this sha256.

        Raises:
            _Changed: the service has another file by now.
        """
        kept = self._cache.read(sha256)
        if kept is not None:
            return kept
        with self._cache.part(sha256) as part:
            kept = self._cache.read(sha256)  # another process may have fetched it meanwhile
            if kept is not None:
                return kept
            is_resumed = part.size > 0
            self._receive_all(http, sha256, part)
            content = part.finish()
            if content is None and is_resumed:  # its beginning was damaged on this machine
                self._receive_all(http, sha256, part)
                content = part.finish()
        if content is None:
            problem = f"sent bytes that do not match its ETag, sha256 {sha256}; fetch it again"
            raise ServiceError(self.url, None, problem)
        return content

    def _receive_all(self, http: httpx.Client, sha256: str, part: Part) -> None:
        """Receives the rest of a file, across interruptions of the connection."""
        cuts = 0
        while True:
            before = part.size
            try:
                self._receive(http, sha256, part)
                return
            except httpx.TransportError:
                cuts = 0 if part.size > before else cuts + 1
                if cuts > MAX_CUTS:
                    with explaining(self.url, self._timeout):
                        raise
            time.sleep(PAUSE_SECONDS * 2**cuts)

    def _receive(self, http: httpx.Client, sha256: str, part: Part) -> None:
        """Receives the bytes after the part, or all of them if the service sends the whole file."""
        headers = dict(IDENTITY)
        if part.size:
            headers |= {"range": f"bytes={part.size}-", "if-range": f'"{sha256}"'}
        with http.stream("GET", self.url, headers=headers) as response:
            if response.status_code == 416 and part.size:  # at least as long as the file
                return
            if self._sha256_of(response) != sha256:
                raise _Changed
            if response.status_code == 200:
                part.clear()
            elif _start_of(response) != part.size:
                expected = f"expected Content-Range from byte {part.size}"
                received = response.headers.get("content-range")
                raise ServiceError(self.url, 206, f"{expected}, received {received!r}")
            for chunk in response.iter_raw():
                part.write(chunk)
                if part.size > MAX_FILE_BYTES:
                    part.clear()
                    problem = f"sent more than the {MAX_FILE_BYTES} bytes that a model can have"
                    raise ServiceError(self.url, None, problem)

    def _sha256_of(self, response: httpx.Response) -> str:
        """The sha256 in the ETag of a response.

        Raises:
            ServiceError: the response is an error, or has no such ETag.
        """
        if response.status_code not in (200, 206):
            response.read()
            raise error_of(response)
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            problem = f"expected no content encoding, received {encoding!r}"
            raise ServiceError(self.url, response.status_code, problem)
        etag = response.headers.get("etag", "")
        found = re.fullmatch(r'"([0-9a-f]{64})"', etag)
        if found is None:
            problem = f"expected the sha256 of the model as ETag, received {etag or 'none'}; "
            problem += "expected an address such as …/v1/policies/POLICY/variants/VARIANT/model"
            raise ServiceError(self.url, response.status_code, problem)
        return found[1]


def _start_of(response: httpx.Response) -> int | None:
    """Offset of the first byte of a partial response; None if it is missing."""
    found = re.match(r"bytes (\d{1,18})-", response.headers.get("content-range", ""))
    return None if found is None else int(found[1])
