"""Settings become a policy, and with it a fingerprint, in one place."""

from typing import Any

import pytest

from moderation.dfa.gpt.bundle import resolve_bundle
from moderation.dfa.gpt.detector import fingerprint
from moderation.dfa.gpt.policy import Policy
from moderation.errors import SetupProblem
from moderation.serving import policy_of
from moderation.settings import Settings, read_settings
from worker.lifecycle import load_analyzer


def test_without_a_setting_the_policy_and_its_fingerprint_are_the_librarys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("FLOAT8", "EARLY_EXIT", "THRESHOLD", "BAND", "FACES_AT_MOST"):
        monkeypatch.delenv(f"BONAFIDE_{name}", raising=False)
    mini = resolve_bundle("mini")

    policy = policy_of(Settings())  # pyright: ignore[reportCallIssue]  everything has a default

    assert policy == Policy()
    assert fingerprint(mini, policy) == fingerprint(mini, Policy())


@pytest.mark.parametrize(
    ("name", "value", "field", "wanted"),
    [
        pytest.param("FLOAT8", "true", "float8", True, id="eight bits"),
        pytest.param("EARLY_EXIT", "0", "early_exit", 0.0, id="nobody leaves early"),
        pytest.param("THRESHOLD", "0.7", "threshold", 0.7, id="another threshold"),
        pytest.param("BAND", "0.1", "band", 0.1, id="a wider band"),
        pytest.param("FACES_AT_MOST", "3", "max_faces", 3, id="fewer faces"),
    ],
)
def test_each_setting_of_the_model_is_another_pipeline(
    name: str, value: str, field: str, wanted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"BONAFIDE_{name}", value)
    mini = resolve_bundle("mini")

    policy = policy_of(read_settings())

    assert getattr(policy, field) == wanted
    assert fingerprint(mini, policy) != fingerprint(mini, Policy())


def test_a_worker_loads_its_bundle_with_the_policy_of_the_settings() -> None:
    chosen = Settings(bundle="mini", device="cpu", threshold=0.7, image_decode_children=False)  # pyright: ignore[reportCallIssue]

    analyzer = load_analyzer(chosen)

    assert analyzer.fingerprint == fingerprint(resolve_bundle("mini"), policy_of(chosen))
    assert policy_of(chosen) == Policy(threshold=0.7)


@pytest.mark.parametrize("name", ["EARLY_EXIT", "THRESHOLD", "BAND"])
def test_a_score_outside_its_range_stops_the_process(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"BONAFIDE_{name}", "1.5")

    with pytest.raises(SetupProblem, match=f"BONAFIDE_{name}"):
        read_settings()
