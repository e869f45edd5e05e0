from uuid import UUID

import pytest

from moderation.errors import RolloutRefused
from moderation.rollout import (
    Action,
    Rollout,
    bundle_for,
    main_of,
    promoted,
    rolled_back,
    shadowed,
    stopped,
    tried,
)
from tests.builders import new_id

OWN, NEW, OTHER = "own", "new", "other"
BOTH = (OWN, NEW)
CASES = [new_id() for _ in range(4000)]


@pytest.mark.parametrize(
    ("rollout", "loaded", "serves"),
    [
        pytest.param(Rollout(), BOTH, OWN, id="nobody said anything"),
        pytest.param(Rollout(serving=NEW), BOTH, NEW, id="another was promoted"),
        pytest.param(Rollout(serving=OWN), BOTH, OWN, id="its own was promoted"),
        pytest.param(Rollout(serving=NEW), (OWN,), OWN, id="what was promoted is not here"),
        pytest.param(Rollout(candidate=NEW, share=1.0), BOTH, OWN, id="a candidate does not serve"),
    ],
)
def test_what_serves_in_a_worker(rollout: Rollout, loaded: tuple[str, ...], serves: str) -> None:
    assert main_of(rollout, loaded, OWN) == serves


@pytest.mark.parametrize(
    ("rollout", "attempt", "loaded", "makes"),
    [
        pytest.param(Rollout(candidate=NEW, share=1.0), 1, BOTH, NEW, id="the whole share"),
        pytest.param(Rollout(candidate=NEW, share=0.0), 1, BOTH, OWN, id="no share"),
        pytest.param(Rollout(candidate=NEW, shadow=1.0), 1, BOTH, OWN, id="a shadow is no share"),
        pytest.param(Rollout(candidate=NEW, share=1.0), 2, BOTH, OWN, id="the second attempt"),
        pytest.param(Rollout(candidate=NEW, share=1.0), 1, (OWN,), OWN, id="the candidate is not here"),
        pytest.param(Rollout(NEW, OTHER, 1.0), 1, BOTH, NEW, id="what serves, when another is on trial"),
        pytest.param(Rollout(OTHER, NEW, 0.0), 1, BOTH, OWN, id="its own, when what serves is not here"),
    ],
)
def test_what_makes_a_cases_own_analysis(
    rollout: Rollout, attempt: int, loaded: tuple[str, ...], makes: str
) -> None:
    assert {bundle_for(rollout, case, attempt, loaded, OWN) for case in CASES[:50]} == {makes}


def _share(rollout: Rollout) -> set[UUID]:
    return {case for case in CASES if bundle_for(rollout, case, 1, BOTH, OWN) == NEW}


def test_a_share_is_that_part_of_the_cases_and_a_larger_one_holds_the_smaller() -> None:
    small, large = (_share(Rollout(candidate=NEW, share=share)) for share in (0.05, 0.2))

    # Four standard deviations of 4,000 draws.
    assert abs(len(small) / len(CASES) - 0.05) < 0.014
    assert abs(len(large) / len(CASES) - 0.2) < 0.026
    assert small < large


def test_share_and_shadow_fall_on_cases_independently_and_anew_for_another_candidate() -> None:
    shadows = {case for case in CASES if shadowed(Rollout(candidate=NEW, shadow=0.5), case)}
    others = {case for case in CASES if shadowed(Rollout(candidate=OTHER, shadow=0.5), case)}
    shares = _share(Rollout(candidate=NEW, share=0.5))

    for one, two in ((shadows, shares), (shadows, others)):
        assert abs(len(one & two) / len(CASES) - 0.25) < 0.03


def test_nothing_is_shadowed_without_a_candidate() -> None:
    assert not any(shadowed(Rollout(), case) for case in CASES[:50])


def test_trying_keeps_what_serves_and_replaces_the_candidate() -> None:
    assert tried(Rollout(OWN, OTHER, 0.5, 0.5), NEW, share=0.1, shadow=0.2) == Rollout(OWN, NEW, 0.1, 0.2)


@pytest.mark.parametrize(
    ("candidate", "share", "words"),
    [
        pytest.param(OWN, 0.1, "serves already", id="what serves is not tried"),
        pytest.param(NEW, 1.1, "from 0 to 1", id="more than all"),
        pytest.param(NEW, -0.1, "from 0 to 1", id="less than nothing"),
    ],
)
def test_a_trial_that_makes_no_sense_is_refused(candidate: str, share: float, words: str) -> None:
    with pytest.raises(RolloutRefused, match=words):
        tried(Rollout(serving=OWN), candidate, share=share, shadow=0)


def test_promoting_makes_the_candidate_serve_everything() -> None:
    assert promoted(Rollout(OWN, NEW, 0.1, 0.2)) == Rollout(serving=NEW)


def test_stopping_keeps_what_serves() -> None:
    assert stopped(Rollout(OTHER, NEW, 0.1, 0.2)) == Rollout(serving=OTHER)


def test_without_a_candidate_there_is_nothing_to_promote_or_to_stop() -> None:
    with pytest.raises(RolloutRefused, match="on trial"):
        promoted(Rollout(serving=OWN))
    with pytest.raises(RolloutRefused, match="on trial"):
        stopped(Rollout(serving=OWN))


_TRY, _STOP, _BACK = Action.TRY, Action.STOP, Action.ROLLBACK
_PROMOTE_NEW = (Action.PROMOTE, Rollout(serving=NEW))
_PROMOTE_OTHER = (Action.PROMOTE, Rollout(serving=OTHER))


@pytest.mark.parametrize(
    ("log", "serving"),
    [
        pytest.param([(_TRY, Rollout(None, NEW, 0.1)), _PROMOTE_NEW], None, id="the first promotion"),
        pytest.param([_PROMOTE_NEW, _PROMOTE_OTHER], NEW, id="the second of two"),
        pytest.param(
            [_PROMOTE_NEW, (_TRY, Rollout(NEW, OTHER, 0.1)), (_STOP, Rollout(serving=NEW))],
            None,
            id="a trial since does not count",
        ),
        pytest.param(
            [_PROMOTE_NEW, _PROMOTE_OTHER, (_BACK, Rollout(serving=NEW))], None, id="back, and back again"
        ),
        pytest.param(
            [_PROMOTE_NEW, (_BACK, Rollout()), _PROMOTE_OTHER],
            None,
            id="what was rolled back does not return",
        ),
    ],
)
def test_rolling_back_takes_the_last_promotion_back_that_stands(
    log: list[tuple[Action, Rollout]], serving: str | None
) -> None:
    assert rolled_back(log) == Rollout(serving=serving)


@pytest.mark.parametrize(
    "log",
    [
        pytest.param([], id="nothing was ever done"),
        pytest.param([(_TRY, Rollout(None, NEW, 0.1))], id="nothing was promoted"),
        pytest.param([_PROMOTE_NEW, (_BACK, Rollout())], id="it was taken back already"),
    ],
)
def test_without_a_promotion_that_stands_nothing_is_rolled_back(log: list[tuple[Action, Rollout]]) -> None:
    with pytest.raises(RolloutRefused, match="no promotion stands"):
        rolled_back(log)
