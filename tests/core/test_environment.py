from __future__ import annotations

from slimq.core.environment import EnvironmentSpec, WrapperSpec, named_code


def test_the_code_that_an_environment_names_is_listed() -> None:
    assert named_code(EnvironmentSpec(id="CartPole-v1")) == []
    spec = EnvironmentSpec(
        id="game.py:make",
        wrappers=(
            WrapperSpec(name="FlattenObservation"),
            WrapperSpec(name="package:Wrapper"),
            WrapperSpec(name="TransformObservation", kwargs={"func": "mine.py:first"}),
        ),
    )
    assert named_code(spec) == ["game.py:make", "package:Wrapper", "mine.py:first"]
