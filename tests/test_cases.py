from itertools import product

import pytest

from moderation.cases import TRANSITIONS, CaseState, ImageRef, Move, after, before
from moderation.errors import TransitionRefused
from tests.builders import a_flag

_S, _M = CaseState, Move

#: The design's life-cycle, written out a second time on purpose: changing one means changing both.
ALLOWED: dict[tuple[CaseState | None, Move], CaseState] = {
    (None, _M.ACCEPT): _S.WAITING,
    (_S.WAITING, _M.BEGIN): _S.ANALYZING,
    (_S.ANALYZING, _M.RELEASE): _S.WAITING,
    (_S.ANALYZING, _M.EXPIRE): _S.WAITING,
    (_S.ANALYZING, _M.RECORD): _S.READY,
    (_S.ANALYZING, _M.REFUSE): _S.READY,
    (_S.READY, _M.RETRY): _S.WAITING,
    (_S.READY, _M.REANALYZE): _S.READY,
    (_S.DECIDED, _M.REANALYZE): _S.DECIDED,
    (_S.READY, _M.DECIDE): _S.DECIDED,
    (_S.READY, _M.SECOND): _S.READY,
    (_S.READY, _M.ESCALATE): _S.READY,
    (_S.READY, _M.WITHDRAW): _S.READY,
    (_S.DECIDED, _M.UNDO): _S.READY,
    (_S.DECIDED, _M.APPEAL): _S.READY,
    (_S.WAITING, _M.RECALL): _S.WITHDRAWN,
    (_S.ANALYZING, _M.RECALL): _S.WITHDRAWN,
    (_S.READY, _M.RECALL): _S.WITHDRAWN,
}


@pytest.mark.parametrize(("state", "move"), product([None, *CaseState], Move))
def test_a_case_moves_only_as_the_life_cycle_says(state: CaseState | None, move: Move) -> None:
    if (state, move) in ALLOWED:
        assert after(state, move) is ALLOWED[state, move]
    else:
        with pytest.raises(TransitionRefused, match="cannot be"):
            after(state, move)


def test_every_other_move_starts_from_one_state() -> None:
    for move in set(Move) - {Move.ACCEPT, Move.REANALYZE, Move.RECALL}:
        assert (before(move), move) in TRANSITIONS


def test_accepting_starts_from_nothing() -> None:
    with pytest.raises(TransitionRefused):
        before(Move.ACCEPT)


def test_every_state_but_one_can_be_left_and_only_an_undo_or_an_appeal_reopens_a_case() -> None:
    left = {state for state, _ in TRANSITIONS}

    assert left == {None, *CaseState} - {CaseState.WITHDRAWN}
    reopened = {
        move
        for (state, move), then in TRANSITIONS.items()
        if state is CaseState.DECIDED and then is not CaseState.DECIDED
    }
    assert reopened == {Move.UNDO, Move.APPEAL}


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"image": ImageRef("flagged", "other.jpg")}, id="another image"),
        pytest.param({"image": ImageRef("flagged", "photo.jpg", "v2")}, id="another version"),
        pytest.param({"source": "avatars"}, id="another source"),
        pytest.param({"external_id": "7"}, id="an external id"),
        pytest.param({"reason": "spam"}, id="another reason"),
        pytest.param({"priority": 3}, id="another priority"),
        pytest.param({"context": {"user": 1}}, id="a context"),
    ],
)
def test_two_flags_that_ask_for_different_things_have_different_digests(other: dict) -> None:
    assert a_flag().digest() != a_flag(**other).digest()


def test_the_order_of_a_context_does_not_matter() -> None:
    assert a_flag(context={"a": 1, "b": [2]}).digest() == a_flag(context={"b": [2], "a": 1}).digest()
