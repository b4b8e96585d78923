from __future__ import annotations

import json

import numpy as np
import pytest

from players import clumsy
from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import RepositoryError
from slimq.environments.rollout import Episode
from slimq.evaluation.returns import EpisodeLog, Silent, play_all

SPEC = EnvironmentSpec(id="CartPole-v1", max_episode_steps=50)
SEEDS = list(range(3_000_000, 3_000_008))


class Watcher(Silent):
    def __init__(self):
        self.known, self.played, self.count, self.ended = [], [], 0, 0

    def begin(self, task, total, episodes):
        self.known = [episode.seed for episode in episodes]

    def steps(self, count):
        self.count += count

    def episode(self, episode):
        self.played.append(episode.seed)

    def end(self):
        self.ended += 1


def play(log, seeds=SEEDS, q_function=clumsy, progress=None):
    return play_all(
        SPEC,
        q_function,
        seeds,
        log,
        epsilon=0.1,
        environments=3,
        name="tiny/fp32",
        progress=progress or Silent(),
    )


@pytest.fixture
def log(tmp_path):
    return EpisodeLog(tmp_path / "work" / "log.jsonl")


def test_episodes_are_in_seed_order_and_each_is_reported(log):
    watcher = Watcher()
    episodes = play(log, progress=watcher)
    assert [episode.seed for episode in episodes] == SEEDS
    assert sorted(watcher.played) == SEEDS
    assert watcher.count == sum(episode.length for episode in episodes)
    assert watcher.ended == 1


def test_an_interrupted_evaluation_resumes_with_the_next_episode(log):
    whole = play(None)

    class Interrupting(Watcher):
        def episode(self, episode):
            super().episode(episode)
            if len(self.played) == 3:
                raise KeyboardInterrupt

    first, second = Interrupting(), Watcher()
    with pytest.raises(KeyboardInterrupt):
        play(log, progress=first)
    assert first.ended == 1
    assert play(log, progress=second) == whole
    assert sorted(second.known) == sorted(first.played)
    assert sorted(second.played) == sorted(set(SEEDS) - set(first.played))


@pytest.mark.parametrize("torn", [b'{"seed": 3000001, "retu', b"\x00\xff\x00", b"[1, 2]", b"7\n"])
def test_a_truncated_last_line_is_played_again_and_does_no_harm(log, torn):
    whole = play(log)
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join(lines[:4]) + torn)
    assert len(log.read()) == 4
    assert play(log) == whole
    assert len(log.read()) == len(SEEDS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("return_", "12"),
        ("return_", float("nan")),
        ("return_", float("inf")),
        ("length", 3.5),
        ("seed", True),
        ("trajectory", ["ab"]),
        ("terminated", None),
    ],
)
def test_a_line_with_another_value_than_an_episode_has_is_played_again(log, key, value):
    episodes = play(log)
    first, *others = log.path.read_text().splitlines()
    broken = json.dumps(json.loads(first) | {key: value})
    log.path.write_text("\n".join([broken, *others]) + "\n")
    watcher = Watcher()
    assert play(log, progress=watcher) == episodes
    assert watcher.played == [json.loads(first)["seed"]]


def test_of_two_replays_at_once_the_second_finds_its_log_in_place(log):
    again = log.for_replay()
    play(again)
    again.replace(log)
    again.replace(log)
    assert len(log.read()) == len(SEEDS)


def test_more_episodes_play_only_the_new_seeds(log):
    play(log, SEEDS[:5])
    watcher = Watcher()
    play(log, SEEDS, progress=watcher)
    assert sorted(watcher.played) == SEEDS[5:]


def test_a_replay_log_starts_empty_and_replaces_the_old_one(log):
    play(log, SEEDS[:2])
    replayed = log.for_replay()
    assert replayed.read() == {}
    play(replayed, SEEDS[2:5])
    assert sorted(log.read()) == SEEDS[:2]
    replayed.replace(log)
    assert sorted(log.read()) == SEEDS[2:5]
    assert log.for_replay().read() == {}


def test_the_log_is_named_by_everything_an_episode_depends_on(tmp_path):
    def path(sha256="a" * 64, spec=SPEC, epsilon=0.01, version="1"):
        return EpisodeLog.of(tmp_path, sha256, spec, epsilon, {"numpy": version}).path

    other = SPEC.model_copy(update={"max_episode_steps": 51})
    changed = [path("b" * 64), path(spec=other), path(epsilon=0.02), path(version="2")]
    assert path() == path()
    assert len({path(), *changed}) == 5


def test_a_written_episode_is_read_back(log):
    episode = Episode(seed=1, return_=-20.0, length=3, trajectory="ab", terminated=False)
    log.append(episode)
    assert log.read() == {1: episode}


def test_non_finite_q_values_are_an_error_of_the_variant():
    def broken(observations, /):
        return np.full((len(observations), 2), np.nan, dtype=np.float32)

    watcher = Watcher()
    with pytest.raises(RepositoryError, match="tiny/fp32: the model returns non-finite"):
        play(None, q_function=broken, progress=watcher)
    assert watcher.ended == 1
