from __future__ import annotations

import asyncio
import json
import shutil
import time
import weakref
from pathlib import Path
from typing import Any

import httpx
import pytest

from builders import make_mlp
from slimq.core.errors import RepositoryError
from slimq.core.publish import Publisher
from slimq.core.repository import Repository
from slimq_service.metrics.registry import Registry
from slimq_service.metrics.service import Metrics
from slimq_service.variants.catalogue import Catalogue
from waiting import until


def sha(service: Any, variant: str) -> str:
    answer = service.act("tiny", [[0, 0, 0, 0]], params={"variant": variant})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["sha256"])


def test_a_variant_is_loaded_on_first_use_and_once_for_many_at_once(service: Any) -> None:
    labels = '{policy="tiny",variant="other"}'
    assert service.metric("slimq_variant_loaded" + labels) == 0
    path = "/v1/policies/tiny/variants/other/act"
    answers = service.together(8, "POST", path, json={"observations": [[1, 2, 3, 4]]})
    assert [answer.status_code for answer in answers] == [200] * 8
    assert service.metric("slimq_variant_loaded" + labels) == 1
    series = 'slimq_variant_loads_total{outcome="success",policy="tiny",variant="other"}'
    assert service.metric(series) == 1
    assert service.metric('slimq_variant_loaded{policy="tiny",variant="fp32"}') == 0


def test_a_new_version_is_swapped_in_by_the_watcher(start: Any, repositories: Any) -> None:
    service = start(watch_seconds=0.05)
    before = sha(service, "other")
    after = repositories.publish("tiny", "other", make_mlp(9))
    assert before != after
    service.until(lambda: sha(service, "other") == after)


def test_while_a_new_version_is_broken_the_old_one_serves_and_readyz_says_so(
    start: Any, repositories: Any
) -> None:
    service = start(watch_seconds=0.05)
    before = sha(service, "other")
    repositories.publish("tiny", "other", b"no model at all")

    def detail() -> Any:
        found = service.get("/readyz").json()["variants"]
        return next(v for v in found if (v["policy"], v["variant"]) == ("tiny", "other"))

    service.until(lambda: detail()["state"] == "stale")
    assert detail()["sha256"] == before
    assert "tiny" in detail()["problem"]
    assert service.get("/readyz").status_code == 200
    assert sha(service, "other") == before
    after = repositories.publish("tiny", "other", make_mlp(9))
    service.until(lambda: sha(service, "other") == after)
    assert detail()["state"] == "loaded"


@pytest.mark.parametrize("damage", ["tampered", "truncated", "missing", "manifest"])
def test_a_broken_variant_is_refused_by_name_and_the_others_serve(
    start: Any, repositories: Any, damage: str
) -> None:
    path = repositories.model("tiny", "other")
    if damage == "tampered":
        repositories.corrupt("tiny", "other")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "missing":
        path.unlink()
    else:
        (repositories.folder("tiny", "other") / "variant.json").write_text("{")
    service = start()
    answer = service.act("tiny", [[0, 0, 0, 0]], params={"variant": "other"})
    assert answer.status_code == 503
    assert answer.json()["code"] == "repository"
    assert "other" in answer.json()["detail"] or path.name in answer.json()["detail"]
    assert sha(service, "fp32")
    ready = service.get("/readyz")
    assert ready.status_code == 200
    broken = [v for v in ready.json()["variants"] if v["state"] == "broken"]
    assert [(v["policy"], v["variant"]) for v in broken] == [("tiny", "other")]
    assert broken[0]["problem"]


def test_a_broken_variant_serves_once_it_is_repaired(start: Any, repositories: Any) -> None:
    path = repositories.model("tiny", "other")
    content = path.read_bytes()
    path.unlink()
    service = start(watch_seconds=0.05)
    assert service.act("tiny", [[0] * 4], params={"variant": "other"}).status_code == 503
    path.write_bytes(content)
    get = lambda: service.act("tiny", [[0] * 4], params={"variant": "other"})  # noqa: E731
    service.until(lambda: get().status_code == 200)


def test_what_is_published_after_the_start_is_served_at_once(
    service: Any, repositories: Any
) -> None:
    assert service.act("late", [[0] * 4]).status_code == 404
    repositories.add_policy("late")
    assert service.act("late", [[0] * 4]).status_code == 200
    digest = repositories.publish("late", "int8", make_mlp(8))
    answer = service.act("late", [[0] * 4], params={"variant": "int8"})
    assert answer.json()["sha256"] == digest
    assert service.metric('slimq_requests_total{policy="late",variant="int8"}') == 1


def test_what_is_removed_is_not_found_any_more(start: Any, repositories: Any) -> None:
    service = start(watch_seconds=0.05)
    assert sha(service, "other")
    shutil.rmtree(repositories.folder("tiny", "other"))
    get = lambda: service.act("tiny", [[0] * 4], params={"variant": "other"})  # noqa: E731
    service.until(lambda: get().status_code == 404)


def test_while_the_repository_cannot_be_read_what_is_loaded_serves(
    start: Any, repositories: Any
) -> None:
    service = start(watch_seconds=0.05)
    before = sha(service, "fp32")
    repositories.root.rename(repositories.root.with_name("away"))
    service.run(asyncio.sleep(0.2))
    ready = service.get("/readyz").json()
    if not ready["problem"]:
        pytest.fail(str(ready))
    assert sha(service, "fp32") == before


def test_the_service_is_ready_again_once_hidden_models_are_back(
    start: Any, repositories: Any
) -> None:
    models = list(repositories.root.glob("*/variants/*/model-*"))
    for path in models:
        path.rename(path.with_name("hidden"))
    service = start(watch_seconds=0.05)
    assert service.get("/readyz").status_code == 503
    for path in models:
        path.with_name("hidden").rename(path)
    service.until(lambda: service.get("/readyz").status_code == 200)
    states = lambda: {v["state"] for v in service.get("/readyz").json()["variants"]}  # noqa: E731
    service.until(lambda: states() == {"loaded"})


def test_while_a_policys_variants_cannot_be_listed_what_is_loaded_serves(
    start: Any, repositories: Any
) -> None:
    service = start(watch_seconds=0.05)
    before = sha(service, "other")
    folder = repositories.root / "tiny" / "variants"
    folder.rename(repositories.root.parent / "away")
    folder.symlink_to("../../away")
    assert "link" in service.get("/readyz").json()["problem"]
    assert sha(service, "other") == before
    assert service.metric('slimq_variant_loaded{policy="tiny",variant="other"}') == 1


def test_a_new_report_loads_no_model_again(start: Any, repositories: Any) -> None:
    service = start(retry_seconds=60.0)  # no retry under way meets the manifest that is put back
    before = sha(service, "other")
    path = repositories.folder("tiny", "other") / "variant.json"
    manifest = json.loads(path.read_text())
    repositories.publish("tiny", "other", b"no model at all")
    service.until(lambda: "stale" in service.get("/readyz").text)
    manifest["report"] = {"path": "report.json", "bytes": 2, "sha256": "0" * 64}
    path.with_name("new").write_text(json.dumps(manifest))
    path.with_name("new").replace(path)
    assert "stale" not in service.get("/readyz").text
    service.run(asyncio.sleep(0.1))
    assert sha(service, "other") == before
    labels = 'policy="tiny",variant="other"}'
    assert service.metric('slimq_variant_loads_total{outcome="success",' + labels) == 1


def test_a_promoted_variant_answers_without_a_restart(
    launch: Any, repositories: Any, tmp_path: Path
) -> None:
    publisher = Publisher(Repository(repositories.root))
    process = launch(repositories.root, tmp_path / "log", SLIMQ_WATCH_SECONDS="0.05")

    def answering() -> str:
        url = f"{process.url}/v1/policies/tiny/act"
        answer = httpx.post(url, json={"observations": [[0, 0, 0, 0]]})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["variant"])

    def wait_for(variant: str) -> None:
        until(lambda: answering() == variant, 10, f"an answer by {variant}", every=0.02)

    assert answering() == "fp32"
    publisher.promote("tiny", "other")
    wait_for("other")
    publisher.roll_back("tiny")
    wait_for("fp32")


def test_the_watcher_outlives_a_mistake_of_ours(
    repositories: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def watch() -> Catalogue:
        metrics = Metrics(Registry())
        catalogue = Catalogue(Repository(repositories.root), metrics, 0.0)
        looks = iter(range(1000))
        refresh = catalogue.refresh

        async def fail_at_first() -> None:
            if next(looks) == 0:
                raise ZeroDivisionError
            await refresh()

        monkeypatch.setattr(catalogue, "refresh", fail_at_first)
        task = asyncio.create_task(catalogue.watch(0.01))
        end = time.monotonic() + 5
        while not catalogue.policies() and time.monotonic() < end and not task.done():
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await catalogue.close()
        return catalogue

    assert asyncio.run(watch()).policies() == ["tiny", "tiny_frames"]


def in_catalogue(root: Path, work: Any) -> Any:
    """Runs `work(catalogue)` on a loop of its own."""

    async def run() -> Any:
        catalogue = Catalogue(Repository(root), Metrics(Registry()), 0.0)
        await catalogue.refresh()
        try:
            return await work(catalogue)
        finally:
            await catalogue.close()

    return asyncio.run(run())


def test_an_unload_waits_for_the_load_under_way_whose_callers_are_answered(
    tiny_repository: Path,
) -> None:
    async def work(catalogue: Catalogue) -> None:
        getting = asyncio.create_task(catalogue.get("tiny", "fp32"))
        await asyncio.sleep(0)
        assert catalogue.residents.state("tiny", "fp32").task is not None
        await catalogue.unload("tiny", "fp32")
        assert (await getting).manifest.name == "fp32"
        state = catalogue.residents.state("tiny", "fp32")
        assert (state.loaded, state.unloaded, state.task) == (None, True, None)
        await catalogue.refresh()
        assert state.loaded is None, "a look at the repository does not load it again"
        await catalogue.get("tiny", "fp32")
        assert state.loaded is not None
        assert not state.unloaded

    in_catalogue(tiny_repository, work)


def test_an_unloaded_variant_is_freed_once_nobody_uses_it(tiny_repository: Path) -> None:
    async def work(catalogue: Catalogue) -> None:
        variant = await catalogue.get("tiny", "fp32")
        session = weakref.ref(variant.q_function)
        await catalogue.unload("tiny", "fp32")
        assert session() is not None, "a request under way keeps it"
        del variant
        assert session() is None

    in_catalogue(tiny_repository, work)


def test_unloading_what_is_broken_keeps_it_broken_and_repair_clears_it(
    repositories: Any,
) -> None:
    async def work(catalogue: Catalogue) -> None:
        await catalogue.load("tiny", "other")
        before = repositories.model("tiny", "other").read_bytes()
        path = repositories.folder("tiny", "other") / "variant.json"
        manifest = path.read_text()
        path.write_text("{")
        await catalogue.refresh()
        await catalogue.unload("tiny", "other")
        with pytest.raises(RepositoryError):
            await catalogue.load("tiny", "other")
        path.write_text(manifest)
        await catalogue.refresh()
        state = catalogue.residents.state("tiny", "other")
        assert (state.loaded, state.error) == (None, None)
        assert repositories.model("tiny", "other").read_bytes() == before

    in_catalogue(repositories.root, work)


def test_a_look_that_fails_fails_for_all_who_waited_for_it(tiny_repository: Path) -> None:
    async def work(catalogue: Catalogue) -> None:
        shutil.rmtree(tiny_repository)
        outcomes = await asyncio.gather(
            *(catalogue.refresh() for _ in range(3)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [RepositoryError] * 3
        assert len(set(map(str, outcomes))) == 1

    in_catalogue(tiny_repository, work)


def test_a_variant_that_breaks_is_shown_as_broken_until_it_is_whole(
    service: Any, repositories: Any, mlp: Any
) -> None:
    line = 'slimq_variant_broken{policy="tiny",variant="other"}'
    assert sha(service, "other")
    assert service.metric(line) == 0
    repositories.publish("tiny", "other", b"no model")
    service.until(lambda: service.metric(line) == 1)
    assert sha(service, "other"), "the version before it still answers"
    repositories.publish("tiny", "other", mlp(7))
    service.until(lambda: service.metric(line) == 0)
    repositories.publish("tiny", "other", b"no model")
    service.until(lambda: service.metric(line) == 1)
    shutil.rmtree(repositories.folder("tiny", "other"))
    service.until(lambda: service.metric(line) == 0)
