"""A server of one file that cuts connections, changes the file and lies, as a test asks it to."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


@dataclass
class ModelServer:
    """Answers each request with the current file, or the part of it that is asked for.

    Attributes:
        content: the file.
        cut_after: bytes after which the connection of each of the next downloads is closed.
        changes: files that take the place of the current one, each after a download has begun.
        etag: sent instead of the sha256 of the file.
        ranges: whether parts are served.
        refuse: answers everything with this status.
        requests: the headers of the downloads so far; questions for the first byte are left out.
        questions: how often the first byte was asked for.
    """

    content: bytes
    cut_after: list[int] = field(default_factory=list)
    changes: list[bytes] = field(default_factory=list)
    etag: str | None = None
    ranges: bool = True
    refuse: int | None = None
    requests: list[dict[str, str]] = field(default_factory=list)
    questions: int = 0

    def __enter__(self) -> Self:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/model"
        return self

    def __exit__(self, *arguments: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        content = self.content
        etag = self.etag or f'"{hashlib.sha256(content).hexdigest()}"'
        if self.refuse is not None:
            self._send(handler, self.refuse, b'{"detail": "no such model"}', {})
        elif headers.get("if-none-match") == etag:
            self._send(handler, 304, b"", {"etag": etag})
        elif headers.get("range") == "bytes=0-0":
            self.questions += 1
            partial = {"etag": etag, "content-range": f"bytes 0-0/{len(content)}"}
            self._send(handler, 206, content[:1], partial)
        else:
            self.requests.append(headers)
            self._download(handler, headers, content, etag)

    def _download(
        self, handler: BaseHTTPRequestHandler, headers: dict[str, str], content: bytes, etag: str
    ) -> None:
        status, told = 200, {"etag": etag}
        found = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        if self.changes:
            self.content = self.changes.pop(0)
        if found and self.ranges and headers.get("if-range", etag) == etag:
            start = int(found[1])
            if start >= len(content):
                self._send(handler, 416, b"", {"content-range": f"bytes */{len(content)}"})
                return
            told["content-range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            status, content = 206, content[start:]
        cut = self.cut_after.pop(0) if self.cut_after else None
        self._send(handler, status, content, told, cut)

    def _send(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str],
        cut: int | None = None,
    ) -> None:
        handler.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            handler.close_connection = True
