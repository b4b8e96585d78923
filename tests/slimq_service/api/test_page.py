"""The page, as bytes and in a real browser."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from axe import require_axe
from builders import build_repository
from places import POLICIES, ROOT
from slimq_service.api.page import CONTENT_SECURITY_POLICY, FOLDERS, file_names

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
VISIT = Path(__file__).parent / "browser" / "visit_page.py"
CARTPOLE = "#/policies/cartpole"
MICRO = f"{CARTPOLE}/variants/micro"
VIEWS = ("#/", CARTPOLE, MICRO, f"{CARTPOLE}/try", f"{CARTPOLE}/play", "#/live")
EVIL = "<img src=x onerror=alert(1)>"
KEY = "key-of-the-tests"
PLOTS = ".plots figure:last-child svg.plot"
TEXTS = "[...document.querySelectorAll('{}')].map((node) => node.innerText)"
ROW = "[...document.querySelectorAll('main tbody tr')].map((row) => row.innerText)"

browser = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PYTHON.exists() and shutil.which("chromium")) and "CI" not in os.environ,
        reason="`make slow` sets up the clients, `.ci/need chromium` the browser",
    ),
]


def test_the_page_is_public_and_strict(service: Any) -> None:
    answer = service.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "//" not in answer.text
    assert "<script>" not in answer.text
    assert "style=" not in answer.text
    assert service.get("/", headers={"if-none-match": answer.headers["etag"]}).status_code == 304


@pytest.mark.parametrize("name", sorted(file_names()))
def test_files_are_compressed_and_have_an_etag(service: Any, name: str) -> None:
    plain = service.get(f"/page/{name}", headers={"accept-encoding": "identity"})
    assert plain.status_code == 200
    content = next((f / name).read_bytes() for f in FOLDERS if (f / name).is_file())
    assert plain.content == content
    assert plain.headers["x-content-type-options"] == "nosniff"
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    assert plain.headers["content-type"].startswith(kinds[Path(name).suffix])
    small = service.get(f"/page/{name}", headers={"accept-encoding": "gzip"})
    assert small.headers["content-encoding"] == "gzip"
    assert small.content == content
    assert int(small.headers["content-length"]) == len(gzip.compress(content, mtime=0))
    tag = {"if-none-match": plain.headers["etag"]}
    assert service.get(f"/page/{name}", headers=tag).status_code == 304


@pytest.mark.parametrize("name", ["none.js", "index.html", "page.py", "..%2fpage.py"])
def test_there_is_no_other_file(service: Any, name: str) -> None:
    assert service.get(f"/page/{name}").status_code == 404


def test_modules_import_only_each_other_and_parse_no_html() -> None:
    for name in file_names():
        text = next((f / name).read_text() for f in FOLDERS if (f / name).is_file())
        imported = re.findall(r'from "([^"]*)"', text)
        assert {path.removeprefix("./") for path in imported} <= file_names()
        for way in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
            assert way not in text
        addresses = set(re.findall(r"https?://[^\"' ]*", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}


def visit(url: str, *steps: list[Any], **settings: Any) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [PYTHON, VISIT],
        input=json.dumps({"url": url, "steps": steps, **settings}),
        capture_output=True,
        text=True,
        timeout=400,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    found = dict(json.loads(done.stdout))
    own = (url + "/", "data:", "blob:", "about:")
    assert [asked for asked in found["requests"] if not asked.startswith(own)] == []
    return found


@pytest.fixture(scope="module")
def shipped(process_class: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real process on the shipped policies, of which two are enough here."""
    folder = tmp_path_factory.mktemp("page")
    for name in ("cartpole", "pong"):
        shutil.copytree(POLICIES / name, folder / "policies" / name)
    process = process_class(folder / "policies", folder / "log")
    wait_for_evidence(process.url)
    yield process
    process.close()
    assert "Traceback" not in process.log.read_text()


def overview(url: str, **headers: str) -> dict[str, Any]:
    asked = {"accept": "application/json", **headers}
    policies = httpx.get(url + "/", headers=asked, timeout=30).json()["policies"]
    return {policy["name"]: policy for policy in policies}


def wait_for_evidence(url: str) -> None:
    for _ in range(200):
        rows = overview(url)["cartpole"]["variants"]
        if all(row["non_inferior"] is not None for row in rows):
            return
        threading.Event().wait(0.1)
    raise AssertionError("reports were not compared")


class TestInABrowser:
    pytestmark = browser

    def test_plots_and_tables_show_every_variant(self, shipped: Any) -> None:
        figures = "[...document.querySelectorAll('svg.plot')].map((plot) => {}"
        found = visit(
            shipped.url,
            ["go", "#/policies/pong", PLOTS],
            ["read", "marks", figures.format("plot.querySelectorAll('a').length)")],
            ["read", "texts", figures.format("plot.querySelector('desc').textContent)")],
            ["read", "robust", figures.format("plot.querySelectorAll('.mark.good').length)")],
            ["read", "mark", "document.querySelector('.plot a').getAttribute('aria-label')"],
            ["read", "rows", ROW],
        )
        rows = {row["name"]: row for row in overview(shipped.url)["pong"]["variants"]}
        robust = sum(bool(row["robust"]) for row in rows.values())
        assert found["marks"] == [len(rows)] * 2
        assert found["robust"] == [robust] * 2
        assert all("table of variants" in text for text in found["texts"])
        assert len(found["rows"]) == len(rows)
        tiny = next(row for row in found["rows"] if row.startswith("tiny"))
        low, high = rows["tiny"]["interval"]
        for text in (f"{rows['tiny']['bytes']:,}", f"{low:.2f} to {high:.2f}", "robust"):
            assert text in tiny
        assert "95 % interval" in found["mark"]
        assert found["console"] == []

    def test_a_variant_shows_its_recipe_and_evidence_and_downloads(self, shipped: Any) -> None:
        found = visit(
            shipped.url,
            ["go", MICRO, "#download"],
            ["read", "rows", ROW],
            ["read", "text", "document.querySelector('main').innerText"],
            ["download", "sha256", "#download"],
        )
        path = f"{shipped.url}/v1/policies/cartpole/variants/micro"
        manifest, report = (httpx.get(path + end).json() for end in ("", "/report"))
        steps = manifest["recipe"]["steps"]
        for number, step in enumerate(steps, 1):
            (row,) = (row for row in found["rows"] if row.startswith(f"{number}. {step['name']}"))
            assert f"{step['bytes']:,}" in row
        assert sum("per observation" not in row for row in found["rows"]) >= len(steps)
        assert manifest["model"]["sha256"] in found["text"]
        assert f"held-out seeds from {report['protocol']['first_seed']:,}" in found["text"]
        assert "noise=0.01" in found["text"]
        assert found["sha256"] == httpx.get(path + "/model").headers["etag"].strip('"')
        assert found["console"] == []

    def test_the_form_answers_and_shows_errors_as_they_are(self, shipped: Any) -> None:
        found = visit(
            shipped.url,
            ["go", f"{CARTPOLE}/try?variants=fp32,micro", "#attempt"],
            ["click", "#attempt button[type=submit]"],
            ["wait", "#result [data-variant=micro]"],
            [
                "read",
                "values",
                TEXTS.format("#result .value"),
            ],
            ["fill", "#observation", "[[0, 0, 0]]"],
            ["click", "#attempt button[type=submit]"],
            ["wait", "#error"],
            ["read", "error", "document.getElementById('error').innerText"],
        )
        url = f"{shipped.url}/v1/policies/cartpole"
        answer = httpx.post(
            f"{url}/compare?variants=fp32,micro", json={"observations": [[0, 0, 0, 0]]}
        ).json()
        expected = [value for one in answer["variants"] for value in one["q_values"][0]]
        assert [float(value) for value in found["values"]] == pytest.approx(expected, rel=1e-4)
        wrong = httpx.post(f"{url}/compare", json={"observations": [[0, 0, 0]]}).json()
        assert found["error"] == wrong["detail"]

    def test_frames_are_sent_as_bytes(self, shipped: Any) -> None:
        found = visit(
            shipped.url,
            ["go", "#/policies/pong/try?variants=tiny,fp32", "#attempt"],
            ["click", "#attempt button[type=submit]"],
            ["wait", "#result [data-variant=tiny]"],
            ["read", "bars", "document.querySelectorAll('#result .bar').length"],
        )
        assert found["bars"] == 12
        assert found["console"] == []

    def test_two_variants_play_and_disagreements_are_marked(self, shipped: Any) -> None:
        found = visit(
            shipped.url,
            ["go", f"{CARTPOLE}/play?variants=fp32,micro", "#play"],
            ["fill", "#episode", "1"],
            ["click", "#play button"],
            ["wait", "#next:enabled"],
            ["click", "#next"],
            ["wait", ".side.differs"],
            ["read", "note", "document.querySelector('.side.differs .note').innerText"],
            ["read", "bars", "document.querySelectorAll('.side .bar').length"],
            ["read", "pixels", PAINTED],
            ["until", "document.getElementById('step').max >= 500"],
            ["fill", "#step", "500"],
            [
                "read",
                "ends",
                TEXTS.format(".side .note"),
            ],
            ["read", "marks", "document.querySelectorAll('.timeline .tick').length"],
        )
        assert found["note"].startswith("Disagreement: ")
        assert found["bars"] == 4
        assert all(count > 2 for count in found["pixels"])
        for variant, end in zip(("fp32", "micro"), found["ends"], strict=True):
            path = f"{shipped.url}/v1/policies/cartpole/variants/{variant}/report"
            report = httpx.get(path).json()
            assert f"return {report['returns'][1]:g} after {report['lengths'][1]} steps" in end
        assert found["marks"] > 0
        assert found["console"] == []

    def test_live_shows_what_is_served(self, shipped: Any) -> None:
        done = threading.Event()

        def act() -> None:
            url = f"{shipped.url}/v1/policies/cartpole/variants/micro/act"
            with httpx.Client() as client:
                while not done.wait(0.01):
                    client.post(url, json={"observations": [[0, 0, 0, 0]]})

        thread = threading.Thread(target=act)
        thread.start()
        try:
            found = visit(
                shipped.url,
                ["go", "#/live"],
                ["wait", "#live tbody tr:has-text('micro') svg.spark"],
                ["until", "parseFloat(document.querySelector('#live td').innerText) > 1"],
                ["read", "rows", ROW],
            )
        finally:
            done.set()
            thread.join()
        (row,) = (row for row in found["rows"] if "micro" in row)
        assert re.search(r"\d (µs|ms)", row)
        assert found["console"] == []

    def test_small_screens_need_no_horizontal_scrolling(self, shipped: Any) -> None:
        wide = "document.documentElement.scrollWidth > innerWidth"
        steps = [step for view in VIEWS for step in (["go", view], ["read", view, wide])]
        found = visit(shipped.url, *steps, width=390)
        assert {view: found[view] for view in VIEWS} == dict.fromkeys(VIEWS, False)

    def test_the_keyboard_reaches_everything_visibly(self, shipped: Any) -> None:
        found = visit(
            shipped.url,
            ["go", CARTPOLE, PLOTS],
            ["press", "tabs", "Tab", 40],
            ["read", "first", "document.querySelector('.plot a').focus()"],
            ["press", "enter", "Enter"],
            ["wait", "#download"],
            ["read", "hash", "location.hash"],
        )
        texts = [text for _, text, _ in found["tabs"]]
        assert texts[0] == "Skip to the content"
        for reached in ("Policies", "Live", "Try an observation", "Play two variants"):
            assert reached in texts
        assert sum("mean return" in text for text in texts) == 7, "every mark of the plot"
        assert any(text.startswith("Variants of cartpole") for text in texts)
        assert [tab for tab in found["tabs"] if tab[0] in ("button", "div") and not tab[2]] == []
        assert found["hash"].startswith(f"{CARTPOLE}/variants/")

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_there_are_no_serious_barriers(self, shipped: Any, scheme: str) -> None:
        script = str(require_axe())
        steps: list[list[Any]] = []
        for view in VIEWS:
            steps += [["go", view], ["axe", view, script]]
        steps += [
            ["go", f"{CARTPOLE}/try", "#attempt"],
            ["click", "#attempt button[type=submit]"],
            ["wait", "#result .bar"],
            ["axe", "answer", script],
            ["go", f"{CARTPOLE}/play", "#play"],
            ["click", "#play button"],
            ["wait", "#next:enabled"],
            ["click", "#next"],
            ["axe", "game", script],
        ]
        found = visit(shipped.url, *steps, scheme=scheme, bypass_csp=True)
        for view in (*VIEWS, "answer", "game"):
            serious = [one for one in found[view] if one[1] in ("serious", "critical")]
            assert serious == [], view

    def test_a_key_is_asked_for_and_kept_in_the_tab(self, launch_once: Any) -> None:
        server = launch_once(SLIMQ_API_KEY=KEY, SLIMQ_GAMES="0")
        stored = "[sessionStorage.length, localStorage.length, document.cookie]"
        form = "#key-form button"
        found = visit(
            server.url,
            ["go", "#/", "dialog[open]"],
            ["fill", "#key", "wrong"],
            ["click", form],
            ["until", "document.getElementById('key-problem').textContent !== ''"],
            ["read", "problem", "document.getElementById('key-problem').textContent"],
            ["fill", "#key", KEY],
            ["click", form],
            ["wait", ".card"],
            ["read", "stored", stored],
            ["go", "#/policies/tiny/variants/fp32", "#download"],
            ["download", "sha256", "#download"],
            ["go", "#/policies/tiny/play", "#unavailable"],
            ["read", "unavailable", "document.getElementById('unavailable').textContent"],
            ["go", "#/policies/%", ".problem"],
            ["tab"],
            ["go", "#/live", "dialog[open]"],
            ["tab"],
            ["go", "#/", "dialog[open]"],
            ["read", "other", stored],
        )
        url = f"{server.url}/v1/policies/tiny/variants/fp32/model"
        etag = httpx.get(url, headers={"x-api-key": KEY}).headers["etag"]
        assert "an unknown key" in found["problem"]
        assert (found["stored"], found["other"]) == ([1, 0, ""], [0, 0, ""])
        assert found["sha256"] == etag.strip('"')
        assert "slimq[play]" in found["unavailable"]
        assert all(KEY not in asked for asked in found["requests"])

    def test_problems_and_foreign_texts_are_shown_as_text(
        self, launch: Any, tmp_path: Path
    ) -> None:
        root = build_repository(tmp_path / "policies")
        change(
            root / "tiny" / "policy.json", checkpoint={"path": "c", "bytes": 1, "sha256": "1" * 64}
        )
        change(root / "tiny" / "variants" / "other" / "variant.json", parent="0" * 64)
        describe(root / "tiny" / "variants" / "other" / "variant.json", EVIL)
        broken = root / "tiny" / "variants" / "broken"
        broken.mkdir()
        (broken / "variant.json").write_text("{")
        server = launch(root, tmp_path / "log")
        found = visit(
            server.url,
            ["go", "#/policies/tiny", "main table"],
            ["read", "rows", ROW],
            ["go", "#/policies/tiny/variants/other", "#download"],
            ["read", "text", "document.querySelector('main .lead').innerText"],
            ["read", "images", "document.images.length"],
            ["go", f"#/policies/{EVIL.replace('/', '')}", "main .problem"],
            ["read", "unknown", "document.querySelector('main .problem').innerText"],
        )
        assert any("derived from an earlier network" in row for row in found["rows"])
        assert any(row.startswith("broken") and "variant.json" in row for row in found["rows"])
        assert (found["text"], found["images"]) == (EVIL, 0)
        assert "tiny_frames" in found["unknown"], "the available ones"


PAINTED = """[...document.querySelectorAll('.side canvas')].map((canvas) => {
    const {width, height} = canvas;
    const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
    return new Set(new Uint32Array(data.buffer)).size;
})"""


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def describe(path: Path, text: str) -> None:
    document = json.loads(path.read_text())
    document["recipe"]["description"] = text
    path.write_text(json.dumps(document))
