"""Drives the page in Chromium: reads a request as JSON, prints what it found.

The request has `url`; `steps`, lists of a name and its arguments (the methods of `Visit`); and
optionally `width` and `scheme` (light or dark). No name is resolved, so that a request to another
host fails, and is told of all the same.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Page, sync_playwright
from visit import FLAGS

WAIT_MS = 60_000
FOCUSED = """() => {
    const node = document.activeElement;
    const shown = getComputedStyle(node).outlineStyle !== "none";
    const text = node.getAttribute("aria-label") ?? node.textContent.trim().slice(0, 60);
    return [node.tagName.toLowerCase(), text, shown];
}"""
AXE = """async () => {
    const {violations} = await axe.run(document, {resultTypes: ["violations"]});
    return violations.map(({id, impact, nodes}) => [id, impact, nodes.map(({html}) => html)]);
}"""


class Visit:
    """The steps; what they find is kept by the name that they are given."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context, self.url = context, url
        self.found: dict[str, Any] = {"requests": [], "console": []}
        self.page = self.tab()

    def tab(self) -> Page:
        """Opens another tab, which the next steps are about."""
        self.page = page = self.context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("request", lambda sent: self.found["requests"].append(sent.url))
        page.on("console", lambda said: self.found["console"].append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: self.found["console"].append(f"error: {error}"))
        return page

    def go(self, view: str, shown: str = "main h1") -> None:
        """Opens a view and waits for an element of it."""
        self.page.goto("about:blank")
        self.page.goto(self.url + "/" + view)
        self.page.wait_for_selector(shown)

    def click(self, selector: str) -> None:
        """Clicks."""
        self.page.click(selector)

    def fill(self, selector: str, text: str) -> None:
        """Fills in a field."""
        self.page.fill(selector, text)

    def wait(self, selector: str) -> None:
        """Waits for an element."""
        self.page.wait_for_selector(selector)

    def until(self, script: str) -> None:
        """Waits until a script is true."""
        for _ in range(WAIT_MS // 100):  # Playwright's own way needs `unsafe-eval`
            if self.page.evaluate(script):
                return
            self.page.wait_for_timeout(100)
        raise TimeoutError(script)

    def read(self, name: str, script: str) -> None:
        """Evaluates a script."""
        self.found[name] = self.page.evaluate(script)

    def press(self, name: str, key: str, times: int = 1) -> None:
        """Presses a key, and notes where the focus is after each."""
        seen = []
        for _ in range(times):
            self.page.keyboard.press(key)
            seen.append(self.page.evaluate(FOCUSED))
        self.found[name] = seen

    def download(self, name: str, selector: str) -> None:
        """Clicks, and notes the SHA-256 of the file that this downloads."""
        with self.page.expect_download() as download:
            self.page.click(selector)
        content = Path(download.value.path()).read_bytes()
        self.found[name] = hashlib.sha256(content).hexdigest()

    def axe(self, name: str, script: str) -> None:
        """Has axe-core look for violations; `script` is its file."""
        self.page.add_script_tag(path=script)
        self.found[name] = self.page.evaluate(AXE)

    def screenshot(self, path: str) -> None:
        """Draws what is visible to a file."""
        self.page.wait_for_timeout(500)
        self.page.screenshot(path=path)


def main() -> None:
    """Prints what the steps found, every URL that was asked for, and what the console says."""
    request = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            folder,
            executable_path="/usr/bin/chromium",
            args=list(FLAGS),
            viewport={"width": request.get("width", 1200), "height": request.get("height", 900)},
            color_scheme=request.get("scheme", "light"),
            bypass_csp=request.get("bypass_csp", False),
            accept_downloads=True,
        )
        visit = Visit(context, request["url"])
        for name, *arguments in request["steps"]:
            getattr(visit, name)(*arguments)
        found = visit.found
        context.close()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
