"""A policy that acts in the caller's process, from a self-describing model file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
import numpy.typing as npt

from slimq.core._files import MAX_FILE_BYTES
from slimq.core.batches import as_batch
from slimq.core.errors import (
    InvalidInputError,
    MissingExtraError,
    ObservationError,
    RepositoryError,
)
from slimq.core.local.cache import ModelCache, models_folder
from slimq.core.local.download import ModelSource
from slimq.core.model_file.described import parse_described
from slimq.core.qfunction import QFunction, QValues


class LocalPolicy:
    """A variant in this process, with the frame stack of one episode. Not thread-safe.

    Attributes:
        description: the description in the model file.
        sha256: SHA-256 of the model file.
    """

    def __init__(
        self, content: bytes, name: str = "model", source: ModelSource | None = None
    ) -> None:
        """Loads a model file.

        Args:
            content: the ONNX file, as made by `slimq export --target onnx` and the service.
            name: name of the file in errors.
            source: source of the file, for `refresh`.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            RepositoryError: the file has no description, or its graph does not fit it.
        """
        self._name, self._source = name, source
        self._take(content)
        self.reset()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Loads a model file from disk.

        Raises:
            OSError: it cannot be read.
            MissingExtraError: onnxruntime is not installed.
            RepositoryError: it has no description, or its graph does not fit it.
        """
        if path.stat().st_size > MAX_FILE_BYTES:
            problem = f"has more than the {MAX_FILE_BYTES} bytes that a model can have"
            raise RepositoryError(str(path), problem)
        return cls(path.read_bytes(), str(path))

    @classmethod
    def fetch(
        cls,
        url: str,
        *,
        cache: Path | None = None,
        timeout: float = 10.0,
        transport: httpx.BaseTransport | None = None,
        api_key: str | None = None,
    ) -> Self:
        """Fetches a model file from a service, unless it is already on this machine.

        The service is always asked whether the file is still the same. If it does not answer, that
        is an error even if the file is cached; use `load` to load a file without asking.

        Args:
            url: the file's address, such as
                `http://HOST:8000/v1/policies/pong/variants/tiny/model`.
            cache: folder for model files; None for the user's cache.
            timeout: seconds allowed for connecting, and for each part of the answer.
            transport: httpx transport; None for plain HTTP.
            api_key: sent as a bearer token, for a service that requires a key.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            ServiceError: the service cannot be reached, answers with an error, or sends bytes that
                do not match its ETag.
            OSError: the cache cannot be written.
            RepositoryError: the file has no description, or its graph does not fit it.
        """
        _require_runtime()
        folder = models_folder() if cache is None else cache
        source = ModelSource(url, ModelCache(folder), timeout, transport, api_key)
        return cls(source.fetch().content, url, source)

    def refresh(self) -> bool:
        """Loads the service's current version if it has changed; returns whether it has.

        The episode's frames are kept, unless the layout of observations has changed. After an
        error, the previous version stays.

        Raises:
            InvalidInputError: the policy was not fetched from a service.
            Exception: the errors of `fetch`.
        """
        if self._source is None:
            received = f"one from a file, {self._name}"
            raise InvalidInputError("refresh", "a policy of LocalPolicy.fetch", received)
        found = self._source.changed(self.sha256)
        if found is None:
            return False
        before = self.description.observation
        self._take(found.content)
        if self.description.observation != before:
            self.reset()
        return True

    def reset(self) -> None:
        """Begins an episode: no frames have been seen."""
        self._observation = self.description.observation.padding()

    def act(self, observation: npt.ArrayLike | Mapping[str, Any]) -> int:
        """The greedy action at the next step of the episode, in the environment's numbering.

        Args:
            observation: if the policy stacks frames, only the newest frame, of shape
                `description.preprocessing.frame.shape`; otherwise the observation as the
                environment returns it. A whole stack is refused; use `q_values` for stacks.

        Raises:
            ObservationError: it does not fit the policy; no step is taken.
            InvalidInputError: its Q-values are not finite; no step is taken.
        """
        frames = as_batch(self._frame, observation, "observation")
        if len(frames) != 1:
            shape = ", ".join(map(str, self._frame.shape))
            received = f"a batch of {len(frames)}"
            raise ObservationError("observation", f"one of shape ({shape})", received)
        stacked = self.description.observation.push(self._observation, frames)
        q_values = self._compute(stacked, "observation")
        self._observation = stacked
        return int(q_values[0].argmax()) + self.description.actions.start

    def q_values(self, observations: npt.ArrayLike | Mapping[str, Any]) -> QValues:
        """Q-values `(batch, actions)` of whole observations; the episode is not affected.

        Args:
            observations: `(batch, *shape)` or one observation, as `SlimqClient.act` takes them.

        Raises:
            ObservationError: they do not fit the policy.
            InvalidInputError: some Q-values are not finite.
        """
        batch = as_batch(self.description.observation, observations)
        return self._compute(batch, "observations")

    def _take(self, content: bytes) -> None:
        """Loads a model file; after an error, the previous one stays loaded."""
        _require_runtime()
        from slimq.core.onnx_policy import OnnxPolicy

        description = parse_described(content, self._name).description
        actions = len(description.actions.names)
        loaded: QFunction = OnnxPolicy(content, description.observation, actions, self._name)
        self._run, self.description = loaded, description
        self._frame = description.observation.frame
        self.sha256 = hashlib.sha256(content).hexdigest()

    def _compute(self, batch: Any, field: str) -> QValues:
        q_values = self._run(batch)
        finite = np.isfinite(q_values)
        if not finite.all():
            row = int(np.argmin(finite.all(axis=1)))
            received = ", ".join(f"{value:g}" for value in q_values[row][:16])
            raise InvalidInputError(f"{field}[{row}]", "finite Q-values", received)
        return q_values


def _require_runtime() -> None:
    """Checks that ONNX Runtime is installed, before anything is fetched for it.

    Raises:
        MissingExtraError: it is not.
    """
    try:
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise MissingExtraError("onnxruntime", "serve") from None
