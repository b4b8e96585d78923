"""Pages share their colours and the drawings of observations: the files in `shared`."""

from importlib import resources

SHARED = resources.files(__package__) / "shared"
"""The folder of the shared files; pages copy or serve them beside their own."""
