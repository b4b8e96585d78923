"""What Chromium makes of an export to the web; reads a request as JSON, prints what it found.

The request has `url`; `steps`, any of those below, in order; `seconds`, how long to wait; and
optionally `width`, `scheme` (light or dark), `without` (a JavaScript global to remove) and
`screenshot` (a file). No name is resolved, so that a request to another host fails, and is told of
all the same.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

from playwright.sync_api import Page, sync_playwright

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)
REPLAY = """async () => {
    const load = (path) => import(new URL(path, location.href).href);
    const {FrameStack, Policy, greedy} = await load("policy.js");
    const {Episode} = await load("episode.js");
    const {fetchExact, fetchJson} = await load("files.js");
    const runtime = await load("runtime/ort.wasm.bundle.min.js");
    const report = await fetchJson("report.json");
    const policy = await Policy.load(runtime, await fetchExact(report.model), report.observation);
    const episode = await Episode.read(await fetchExact(report.episode), report);
    const stack = new FrameStack(report.observation);
    const actions = [], qValues = [];
    for (let step = 0; step < episode.length; step += 1) {
        const frame = episode.frame(step);
        if (report.episode.stacked) stack.push(frame); else stack.values.set(frame);
        const values = await policy.qValues(stack.values);
        actions.push(greedy(values));
        qValues.push(Array.from(values));
    }
    return {actions, qValues};
}"""
EPISODE = """async () => {
    const load = (path) => import(new URL(path, location.href).href);
    const {FrameStack, Policy, greedy} = await load("policy.js");
    const {makeEnvironment} = await load("environments/index.js");
    const {Live} = await load("sources.js");
    const {fetchExact, fetchJson} = await load("files.js");
    const runtime = await load("runtime/ort.wasm.bundle.min.js");
    const report = await fetchJson("report.json");
    const policy = await Policy.load(runtime, await fetchExact(report.model), report.observation);
    const own = report.page_environment;
    const source = new Live(makeEnvironment(own), own.max_steps, report.episode.seed);
    const stack = new FrameStack(report.observation);
    let frame = source.begin(), ended = false, total = 0;
    while (!ended) {
        stack.values.set(frame);
        const action = greedy(await policy.qValues(stack.values));
        const result = source.step(action);
        total += result.reward;
        ({frame, ended} = result);
    }
    return {return: total, steps: source.steps, seed: source.seed};
}"""
MODELS = """async () => {
    const load = (path) => import(new URL(path, location.href).href);
    const {Policy, arrayOf} = await load("policy.js");
    const {fetchBytes, fetchJson} = await load("files.js");
    const runtime = await load("runtime/ort.wasm.bundle.min.js");
    const results = {};
    for (const {name, model, layout, observations} of await fetchJson("models.json")) {
        try {
            const policy = await Policy.load(runtime, await fetchBytes(model), layout);
            const rows = [];
            for (const row of observations) {
                const values = await policy.qValues(arrayOf(layout).from(row));
                rows.push(Array.from(values));
            }
            results[name] = rows;
            await policy.session.release();
        } catch (error) {
            results[name] = error.message;
        }
    }
    return results;
}"""
REST_MS = 500
"""Longer than a step takes."""
FIRST = "performance.getEntriesByName('first-action')[0]"
NUMBERS = """() => Object.fromEntries(Array.from(
    document.querySelectorAll("#numbers dt"),
    (name) => [name.textContent, name.nextSibling.textContent]
))"""


class Visit:
    """One page; each public method is a step."""

    def __init__(self, page: Page, seconds: float) -> None:
        self.page, self.milliseconds = page, seconds * 1000
        self.found: dict[str, Any] = {}

    def until(self, holds: str) -> None:
        """Waits until an expression holds, asking from outside: the page's policy refuses eval."""
        deadline = time.monotonic() + self.milliseconds / 1000
        while not self.page.evaluate(f"Boolean({holds})"):
            if time.monotonic() > deadline:
                raise TimeoutError(holds)
            self.page.wait_for_timeout(50)

    def play(self) -> None:
        """Waits for the first action."""
        problem = "document.querySelector('#status.problem')"
        self.until(f"{FIRST} || {problem}")
        started = f"{FIRST} ? {FIRST}.startTime : null"
        self.found["first_action_ms"] = self.page.evaluate(started)

    def numbers(self) -> None:
        """Reads the numbers beside the play."""
        self.found.setdefault("numbers", []).append(self.page.evaluate(NUMBERS))

    def third(self) -> None:
        """Waits for the third step; the shortest episodes have only a few."""
        reached = (
            "parseInt(document.querySelector('#numbers dd')?.textContent.replace(',', '')) >= 3"
        )
        self.until(reached)

    def fastest(self) -> None:
        """Raises the speed as far as it goes."""
        for _ in range(10):
            self.page.keyboard.press("+")

    def pause(self) -> None:
        """Presses the space bar, and waits for the step that was under way."""
        self.page.keyboard.press(" ")
        before = None
        while (now := self.page.evaluate(NUMBERS)["Step"]) != before:
            before = now
            self.page.wait_for_timeout(REST_MS)

    def single(self) -> None:
        """Presses the right arrow."""
        before = self.page.evaluate(NUMBERS)["Step"]
        self.page.keyboard.press("ArrowRight")
        changed = f"document.querySelector('#numbers dd').textContent !== {json.dumps(before)}"
        self.until(changed)

    def recorded(self) -> None:
        """Chooses the recorded episode, and waits until it is compared."""
        self.page.select_option("#source", "recorded")
        compared = "document.querySelector('#numbers').textContent.includes('As in Python')"
        self.until(compared)

    def replay(self) -> None:
        """Computes the whole recorded episode with the page's own modules."""
        self.found["replay"] = self.page.evaluate(REPLAY)

    def episode(self) -> None:
        """Plays the first episode to its end in the page's own environment."""
        self.found["episode"] = self.page.evaluate(EPISODE)

    def models(self) -> None:
        """Runs every model of `models.json`."""
        self.found["models"] = self.page.evaluate(MODELS)

    def problem(self) -> None:
        """Waits for an error state."""
        self.page.wait_for_selector("#status.problem", timeout=self.milliseconds)

    def texts(self) -> None:
        """Reads what the page says."""
        parts = (
            "title",
            "subtitle",
            "status-text",
            "verdict",
            "evidence",
            "files",
            "conditions",
            "notes",
        )
        read = "(id) => document.getElementById(id).textContent"
        self.found["texts"] = {part: self.page.evaluate(read, part) for part in parts}
        self.found["actions"] = self.page.locator("#bars li").count()
        self.found["wide"] = self.page.evaluate("document.documentElement.scrollWidth > innerWidth")
        painted = """() => {
            const {width, height} = canvas;
            const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
            return new Set(new Uint32Array(data.buffer)).size;
        }"""
        self.found["colours"] = self.page.evaluate(painted)


def main() -> None:
    """Prints what the steps found, every URL that was asked for, and what the console says."""
    request = json.load(sys.stdin)
    requests: list[str] = []
    console: list[str] = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            folder,
            executable_path="/usr/bin/chromium",
            args=list(FLAGS),
            viewport={"width": request.get("width", 1100), "height": 900},
            color_scheme=request.get("scheme", "light"),
            timeout=request["seconds"] * 1000,
        )
        page = browser.new_page()
        page.set_default_timeout(request["seconds"] * 1000)
        page.on("request", lambda sent: requests.append(sent.url))
        page.on("console", lambda message: console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: console.append(f"error: {error}"))
        if "without" in request:
            page.add_init_script(f"delete globalThis.{request['without']}")
        page.goto(request["url"], wait_until="commit")
        visit = Visit(page, request["seconds"])
        for step in request["steps"]:
            getattr(visit, step)()
        if "screenshot" in request:
            page.screenshot(path=request["screenshot"], full_page=True)
        browser.close()
    sys.stdout.write(json.dumps({**visit.found, "requests": requests, "console": console}))


if __name__ == "__main__":
    main()
