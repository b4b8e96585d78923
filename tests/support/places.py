"""Where things are in the repository."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""
POLICIES = ROOT / "policies"
"""The shipped repository."""
