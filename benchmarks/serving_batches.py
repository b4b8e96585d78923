"""Measures the processor time of an observation in the best batch while every core computes."""

from __future__ import annotations

import threading
import time

import numpy as np

from serving_cases import Request
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.repository import Repository

BATCHES = (1, 2, 4, 8, 16, 32)
SECONDS = 0.25
"""Duration of the measurement of each batch size, in seconds."""


def best_batch_seconds(repository: Repository, request: Request, cores: int) -> float:
    """Processor seconds per observation in the best batch, with as many threads as cores.

    Args:
        repository: the repository.
        request: a request for the variant.
        cores: number of cores that compute at once, which share caches and memory.
    """
    policy = repository.policy(request.policy)
    spec = policy.observation
    model = repository.read_model(request.policy, request.variant)[1]
    run = OnnxPolicy(model, spec, len(policy.actions))

    def compute(batch: int, counts: list[int], index: int) -> None:
        zeros = np.zeros((batch, *spec.shape), spec.numpy_dtype)
        run(zeros)
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            run(zeros)
            counts[index] += batch

    best = float("inf")
    for batch in BATCHES:
        counts = [0] * cores
        threads = [
            threading.Thread(target=compute, args=(batch, counts, index)) for index in range(cores)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = min(best, cores * SECONDS / max(1, sum(counts)))
    return best
