"""States before and after a disturbance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Disturbed:
    """States before and after."""

    before: Any
    after: Any

    @property
    def moved(self) -> Any:
        """By how much each value moved, as floats."""
        return self.after.astype(np.float64) - self.before
