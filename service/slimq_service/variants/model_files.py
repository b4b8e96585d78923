"""Model files as clients fetch them: decompressed, and with a description of themselves.

A file is made in the repository's thread, from bytes that were verified, once for each version of
the variant and of what is said about it. The most recently fetched ones are kept within
`MAX_KEPT_BYTES`; larger ones for as long as a response needs them.
"""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from weakref import WeakValueDictionary

from slimq.core.manifest import PolicyManifest, VariantManifest
from slimq.core.model_file.described import read_described
from slimq.core.repository import Repository
from slimq_service.variants.evidence import MAX_DRAWS
from slimq_service.variants.snapshot import Key, Scan, fresh_error

MAX_KEPT_BYTES = 64 << 20

Basis = tuple[PolicyManifest, VariantManifest, VariantManifest | None]
"""The inputs of a file: the manifests of the policy, the variant and the baseline."""


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A model file.

    Attributes:
        name: of the file.
        content: the ONNX file.
        sha256: of these bytes, not of the stored ones.
        basis: what it was made from.
    """

    name: str
    content: bytes
    sha256: str
    basis: Basis


class ModelFiles:
    """The most recently fetched files."""

    def __init__(self, repository: Repository, thread: ThreadPoolExecutor) -> None:
        """Reads nothing yet.

        Args:
            repository: where models are read from.
            thread: the thread that reads them.
        """
        self._repository, self._thread = repository, thread
        self._alive: WeakValueDictionary[Key, ModelFile] = WeakValueDictionary()
        self._kept: dict[Key, ModelFile] = {}
        self._making: dict[Key, tuple[Basis, asyncio.Future[ModelFile]]] = {}

    async def read(self, scan: Scan, key: Key) -> ModelFile:
        """The file of a variant; concurrent callers share its making.

        Args:
            scan: the latest scan.
            key: the names of policy and variant.

        Raises:
            NotFoundError: unknown policy or variant.
            RepositoryError: a file of it cannot be read.
        """
        basis = _basis(scan, key)
        file = self._alive.get(key)
        if file is None or file.basis != basis:
            file = await asyncio.shield(self._make(key, basis))
        self._keep(key, file)
        return file

    def _make(self, key: Key, basis: Basis) -> asyncio.Future[ModelFile]:
        known = self._making.get(key)
        if known is not None and known[0] == basis:
            return known[1]
        loop = asyncio.get_running_loop()
        making = loop.run_in_executor(self._thread, _make, self._repository, key, basis)
        self._making[key] = basis, making
        making.add_done_callback(lambda done: self._made(key, done))
        return making

    def _made(self, key: Key, done: asyncio.Future[ModelFile]) -> None:
        known = self._making.get(key)
        if known is not None and known[1] is done:
            del self._making[key]
        if not done.cancelled() and done.exception() is None:
            self._alive[key] = done.result()

    def _keep(self, key: Key, file: ModelFile) -> None:
        """Keeps a file as the one fetched last, and drops the oldest beyond the limit."""
        self._kept.pop(key, None)
        if len(file.content) > MAX_KEPT_BYTES:
            return
        self._kept[key] = file
        taken = sum(len(one.content) for one in self._kept.values())
        for oldest in list(self._kept):
            if taken <= MAX_KEPT_BYTES:
                break
            taken -= len(self._kept.pop(oldest).content)


def _basis(scan: Scan, key: Key) -> Basis:
    entry = scan.variant(*key)
    policy, variant = scan.policy_manifest(key[0]), scan.variant_manifest(*key)
    if entry.error is not None:
        raise fresh_error(entry.error, "/".join(key))
    baseline = scan.policy(key[0]).variants.get(policy.baseline_variant)
    return policy, variant, baseline.manifest if baseline is not None else None


def _make(repository: Repository, key: Key, basis: Basis) -> ModelFile:
    made = read_described(repository, *key, MAX_DRAWS)
    sha256 = hashlib.sha256(made.content).hexdigest()
    return ModelFile(made.file_name, made.content, sha256, basis)
