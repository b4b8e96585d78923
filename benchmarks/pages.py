"""Prints, writes or checks the generated tables of pages, which are between markers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from slimq.core.errors import SlimqError


def add_page_options(parser: argparse.ArgumentParser, page: Path) -> None:
    """Adds --page, --write and --check."""
    parser.add_argument("--page", type=Path, default=page)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="replace the tables of the page")
    action.add_argument("--check", action="store_true", help="exit with 1 if the page has others")


def settle(
    options: argparse.Namespace, make: Callable[[], Mapping[str, str]], program: str, outdated: str
) -> None:
    """Prints, writes or checks the generated parts of a page; exits with 1 if that fails.

    Args:
        options: the options of `add_page_options`.
        make: makes the parts, by the names in their markers.
        program: the program's name, for errors.
        outdated: description of an outdated page, for errors.
    """
    try:
        parts = make()
        if not (options.write or options.check):
            print("\n\n".join(parts.values()))
            return
        page = options.page.read_text(encoding="utf-8")
        current = write_sections(page, parts)
    except (SlimqError, OSError) as error:
        sys.exit(f"{program}: {error}")
    except ValueError as error:
        sys.exit(f"{program}: {options.page}: {error}")
    if options.check and current != page:
        sys.exit(f"{program}: {options.page} {outdated}; run it with --write")
    if options.write:
        options.page.write_text(current, encoding="utf-8")


def write_sections(page: str, parts: Mapping[str, str]) -> str:
    """The page with the text between markers replaced.

    Raises:
        ValueError: the page lacks a marker.
    """
    for name, text in parts.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"expected {begin} and {end}")
        page = f"{before}{begin}\n\n{text}\n\n{end}{after}"
    return page
