"""Finds recipes by name.

A policy's own recipes come first, then the working folder's recipes for any policy, then those
shipped with this package. In a wheel the latter are next to this module; in a checkout they are the
top-level folder `recipes`.
"""

from __future__ import annotations

from pathlib import Path

from slimq.core.errors import InvalidInputError, NotFoundError

FOLDER = Path("recipes")
"""The working folder's recipes, with a folder for each policy that has its own."""


def shipped_folder() -> Path:
    """The folder of the recipes that come with this package, which fit any policy."""
    installed = Path(__file__).parent / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"


def recipe_names(folder: Path) -> list[str]:
    """Names of the recipes in a folder, sorted; empty if there is no such folder."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def resolve_recipe(name: str, policy: str, folder: Path = FOLDER) -> Path:
    """Resolves a recipe given as a path, or as a name.

    Args:
        name: a path, with a slash or the suffix `.toml`; or a name in `folder/<policy>`, `folder`
            or this package, in this order.
        policy: the policy to compress.
        folder: the working folder's recipes.

    Raises:
        NotFoundError: no such recipe; lists those available.
        InvalidInputError: only other policies have a recipe of this name.
    """
    if name.endswith(".toml") or "/" in name:
        return Path(name)
    folders = (folder / policy, folder, shipped_folder())
    for path in (place / f"{name}.toml" for place in folders):
        if path.is_file():
            return path
    found = {stem for place in folders for stem in recipe_names(place)}
    if others := sorted(folder.glob(f"*/{name}.toml")):
        expected = f"a recipe for {policy} or for any policy ({', '.join(sorted(found))})"
        hint = f"; copy {others[0]} and fit it to the policy"
        raise InvalidInputError("recipe", expected, f"{name!r}, of other policies", hint)
    raise NotFoundError("recipe", name, found)
