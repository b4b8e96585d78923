"""A model hub on this machine: the part of its protocol that pushing and pulling use.

It keeps commits and bytes in memory. Files that are no text are stored by content (git-lfs) and
served by a redirect, as a real hub does.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_of_the_owner"


def commit_id(tree: dict[str, bytes], parent: str | None) -> str:
    """An identifier of a commit's content and its parent."""
    digest = hashlib.sha1(str(parent).encode())
    for path in sorted(tree):
        digest.update(path.encode() + b"\0" + hashlib.sha256(tree[path]).digest())
    return digest.hexdigest()


@dataclass
class HubRepository:
    """One repository: its commits, the oldest first, and where its branches are."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, tree: dict[str, bytes], branch: str = "main") -> str:
        """Adds a commit to a branch."""
        found = commit_id(tree, self.branches.get(branch))
        self.commits[found] = tree
        self.branches[branch] = found
        return found

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, or of its own identifier."""
        found = self.branches.get(revision, revision)
        return found if found in self.commits else None

    @property
    def tree(self) -> dict[str, bytes]:
        """The files of the main branch."""
        return self.commits[self.branches["main"]]


@dataclass
class Hub:
    """The state of the server, and the faults that a test asks for.

    Attributes:
        url: its address.
        store: address of its storage: the same server by another name, as that of a real hub is
            another server.
        requests: method and path of every request.
        served_bytes: bytes after which every download breaks off; None for none.
        seconds: delay of each download.
        broken: status with which every request is answered; None for none.
        refuses_objects: whether uploads of large files fail.
    """

    url: str = ""
    store: str = ""
    repositories: dict[str, HubRepository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    served_bytes: int | None = None
    seconds: float = 0.0
    broken: int | None = None
    refuses_objects: bool = False


@contextlib.contextmanager
def run_hub() -> Iterator[Hub]:
    """A hub on a free port of this machine."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    hub.store = f"http://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status, self.message, self.code = status, message, code


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(
            (r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", self._info),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._file),
            (r"/objects/([0-9a-f]{64})", self._object),
        )

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(
            (r"/api/repos/create", self._create),
            (r"/api/validate-yaml", self._validate),
            (r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", self._preupload),
            (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            (r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", self._commit),
        )

    def do_PUT(self) -> None:
        self._answer((r"/objects/([0-9a-f]{64})", self._store))

    def _answer(self, *routes: tuple[str, Any]) -> None:
        path = urllib.parse.urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.hub.broken is not None:
                raise _Refused(self.hub.broken, "the hub is out of order")
            for pattern, method in routes:
                if found := re.fullmatch(pattern, path):
                    method(*map(urllib.parse.unquote, found.groups()))
                    return
            raise _Refused(404, f"no such page: {path}")
        except _Refused as refused:
            headers = {"X-Error-Message": refused.message}
            headers |= {"X-Error-Code": refused.code} if refused.code else {}
            self._send({"error": refused.message}, refused.status, headers)

    @property
    def _is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _require_owner(self) -> None:
        if self.headers.get("Authorization") is None:
            raise _Refused(401, "Invalid username or password.")
        if not self._is_owner:
            raise _Refused(403, "This token may not write here.")

    def _find(self, repo_id: str, revision: str) -> tuple[HubRepository, str]:
        repository = self.hub.repositories.get(repo_id)
        if repository is None or (repository.private and not self._is_owner):
            # Who sends no token is not told whether there is such a repository.
            status = 404 if self._is_owner else 401
            raise _Refused(status, "Repository not found", "RepoNotFound")
        found = repository.resolve(revision)
        if found is None:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repository, found

    def _create(self) -> None:
        self._require_owner()
        values = json.loads(self._body)
        repo_id = f"{values['organization']}/{values['name']}"
        url = {"url": f"{self.hub.url}/{repo_id}"}
        if repo_id in self.hub.repositories:
            self._send(url, 409)
            return
        made = HubRepository(private=values.get("visibility") == "private")
        made.commit({".gitattributes": b"*.onnx filter=lfs diff=lfs merge=lfs -text\n"})
        self.hub.repositories[repo_id] = made
        self._send(url)

    def _validate(self) -> None:
        content = json.loads(self._body)["content"]
        errors = []
        try:
            values = yaml.safe_load(content.split("---\n")[1])
            assert isinstance(values["tags"], list)
        except (yaml.YAMLError, IndexError, KeyError, AssertionError) as error:
            errors = [{"message": f"invalid front matter: {error}"}]
        self._send({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _info(self, repo_id: str, revision: str) -> None:
        repository, commit = self._find(repo_id, revision)
        siblings = [{"rfilename": path} for path in sorted(repository.commits[commit])]
        self._send(
            {"id": repo_id, "sha": commit, "private": repository.private, "siblings": siblings}
        )

    def _preupload(self, repo_id: str, revision: str) -> None:
        self._require_owner()
        self._find(repo_id, revision)
        files = []
        for one in json.loads(self._body)["files"]:
            sample = base64.b64decode(one["sample"])
            mode = "lfs" if b"\0" in sample or one["size"] > 10 << 20 else "regular"
            files.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False})
        self._send({"files": files})

    def _batch(self, repo_id: str) -> None:
        self._require_owner()
        objects: list[dict[str, Any]] = []
        for one in json.loads(self._body)["objects"]:
            found = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.objects:
                href = f"{self.hub.store}/objects/{one['oid']}"
                found["actions"] = {"upload": {"href": href}}
            objects.append(found)
        self._send({"transfer": "basic", "objects": objects})

    def _store(self, oid: str) -> None:
        if self.hub.refuses_objects or hashlib.sha256(self._body).hexdigest() != oid:
            raise _Refused(400, "the content has another hash")
        self.hub.objects[oid] = self._body
        self._send({})

    def _commit(self, repo_id: str, branch: str) -> None:
        self._require_owner()
        repository, parent = self._find(repo_id, branch)
        tree = dict(repository.commits[parent])
        for line in self._body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                if value.get("parentCommit") not in (None, parent):
                    raise _Refused(412, "A commit has happened since.")
            elif item["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                tree[value["path"]] = self.hub.objects[value["oid"]]
            elif item["key"] == "deletedFile":
                del tree[value["path"]]
        made = repository.commit(tree, branch)
        self._send({"commitUrl": f"{self.hub.url}/{repo_id}/commit/{made}", "commitOid": made})

    def _file(self, repo_id: str, revision: str, path: str) -> None:
        repository, commit = self._find(repo_id, revision)
        content = repository.commits[commit].get(path)
        if content is None:
            raise _Refused(404, f"Entry not found: {path}", "EntryNotFound")
        digest = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if b"\0" not in content[:512]:
            self._send(content, headers=headers)
            return
        self.hub.objects.setdefault(digest, content)
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        self._send(b"", 302, headers | {"Location": f"{self.hub.store}/objects/{digest}"})

    def _object(self, oid: str) -> None:
        if oid not in self.hub.objects:
            raise _Refused(404, "no such object")
        self._send(self.hub.objects[oid], headers={"ETag": f'"{oid}"'})

    def _send(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        limit = self.hub.served_bytes
        if isinstance(value, bytes):
            time.sleep(self.hub.seconds)
            if limit is not None and len(content) > limit:
                self.wfile.write(content[:limit])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
                return
        self.wfile.write(content)
