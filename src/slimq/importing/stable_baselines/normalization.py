"""Statistics of normalized observations: VecNormalize of Stable-Baselines3, or plain numbers.

`vec_normalize.pkl` is a pickle of the whole wrapper. It is read as data (`pickles.py`), so nothing
in it is executed. The same numbers may be given as an npz or JSON file with `mean`, `var` and,
optionally, `epsilon` and `clip`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slimq.core.errors import first_line
from slimq.importing.files.arrays import read_arrays
from slimq.importing.files.pickles import Made, PickleError, read_pickle, to_array
from slimq.importing.files.reading import read_file
from slimq.importing.files.tensors import checked
from slimq.importing.networks.architecture import Statistics
from slimq.importing.source import refuse

EPSILON, CLIP = 1e-8, 10.0
"""Defaults of VecNormalize."""
REMEDY = (
    "write its numbers to a file: v = VecNormalize.load(FILE, venv); numpy.savez('normalize.npz', "
    "mean=v.obs_rms.mean, var=v.obs_rms.var, epsilon=v.epsilon, clip=v.clip_obs)"
)


def read_statistics(path: Path) -> Statistics | None:
    """Reads the statistics of normalized observations; None if they are not normalized.

    Raises:
        InvalidInputError: the file is something else, or has statistics per key.
    """
    content, name = read_file(path), str(path)
    try:
        if content[:2] == b"PK":
            return _from_numbers(read_arrays(content, name), name)
        if content.lstrip()[:1] == b"{":
            return _from_numbers(json.loads(content), name)
    except (ValueError, OSError, KeyError, TypeError, OverflowError, RecursionError) as error:
        expected = "mean, var and, optionally, epsilon and clip"
        deep = isinstance(error, RecursionError)
        received = "values that are nested too deeply" if deep else first_line(error)[:120]
        raise refuse(name, expected, received, REMEDY) from error
    return _from_pickle(content, name)


def _from_numbers(found: Mapping[str, Any], name: str) -> Statistics:
    unknown = sorted(set(found) - {"mean", "var", "epsilon", "clip", "count"})
    if unknown or not {"mean", "var"} <= set(found):
        listing = ", ".join(map(str, found))[:120] or "nothing"
        raise refuse(name, "mean, var and, optionally, epsilon and clip", listing, REMEDY)
    clip = found.get("clip")
    clip = None if clip is None else float(clip)
    return _statistics(
        found["mean"], found["var"], float(found.get("epsilon", EPSILON)), clip, name
    )


def _from_pickle(content: bytes, name: str) -> Statistics | None:
    expected = "a VecNormalize of Stable-Baselines3, or an npz or JSON file with mean and var"
    try:
        wrapper = read_pickle(content)
        if not isinstance(wrapper, Made) or "obs_rms" not in wrapper.fields:
            raise refuse(name, expected, "something else", REMEDY)
        fields = wrapper.fields
        if fields.get("norm_obs") is False:
            return None
        rms = fields["obs_rms"]
        if isinstance(rms, dict):
            received = f"statistics of the parts {', '.join(map(str, rms))[:120]}"
            remedy = "slimq normalizes single arrays only; export policy and normalization to ONNX"
            raise refuse(name, "statistics of one array", received, remedy)
        if not isinstance(rms, Made):
            raise refuse(name, expected, "statistics of an unknown form", REMEDY)
        mean, variance = to_array(rms.fields["mean"]), to_array(rms.fields["var"])
        epsilon = float(to_array(fields.get("epsilon", EPSILON)))
        clip = float(to_array(fields.get("clip_obs", CLIP)))
    except (PickleError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        received = f"a pickle that {first_line(error)[:120]}"
        raise refuse(name, expected, received, REMEDY) from error
    return _statistics(mean, variance, epsilon, clip, name)


def _statistics(
    mean: Any, variance: Any, epsilon: float, clip: float | None, name: str
) -> Statistics:
    arrays = [np.asarray(values, dtype=np.float64) for values in (mean, variance)]
    if arrays[0].shape != arrays[1].shape or not arrays[0].ndim:
        received = f"mean {arrays[0].shape} and var {arrays[1].shape}"
        raise refuse(name, "mean and var of the same shape", received)
    for values, field in zip(arrays, ("mean", "var"), strict=True):
        checked(values, field, name)
    if (arrays[1] < 0).any() or not epsilon >= 0:
        raise refuse(name, "var and epsilon of at least 0", f"{arrays[1].min():g} and {epsilon:g}")
    mean_tensor, variance_tensor = (torch.from_numpy(values.copy()) for values in arrays)
    if clip is not None and not np.isfinite(clip):
        clip = None
    if clip is not None and clip <= 0:
        raise refuse(name, "clip above 0", f"{clip:g}")
    return Statistics(mean_tensor, variance_tensor, epsilon, clip)
