"""The rules of review, each as a table that is written out a second time on purpose."""

from itertools import product
from typing import Any

import pytest

from moderation.analysis import Label, Technique
from moderation.cases import CaseState, Move, Stage
from moderation.decisions import (
    Judgement,
    Outcome,
    ReasonPolicy,
    agrees,
    is_blind_first,
    may_review,
    needs_second,
    next_step,
    require_reason,
    stage_after,
    verdict_is_hidden,
)
from moderation.errors import BonafideError, JudgementIncomplete, NotAllowed, ReasonRequired, SameReviewer
from moderation.people import Person, Role
from tests.builders import a_person, new_id

_O, _S = Outcome, Stage


def _allowed(stage: Stage, role: Role, *, again: bool) -> type[BonafideError] | None:
    if stage is _S.ESCALATED and role is Role.REVIEWER:
        return NotAllowed
    return SameReviewer if again else None


@pytest.mark.parametrize(("stage", "role", "again"), product(Stage, Role, [False, True]))
def test_who_may_review_what_and_never_the_same_person_twice(stage: Stage, role: Role, again: bool) -> None:
    person = a_person(role=role)
    earlier = {new_id(), person.id} if again else {new_id()}
    refused = _allowed(stage, role, again=again)

    if refused is None:
        may_review(stage, person, earlier)
    else:
        with pytest.raises(refused):
            may_review(stage, person, earlier)


@pytest.mark.parametrize("stage", Stage)
def test_a_disabled_person_reviews_nothing(stage: Stage) -> None:
    with pytest.raises(NotAllowed):
        may_review(stage, _disabled(), ())


def _disabled() -> Person:
    from datetime import UTC, datetime

    return a_person(role=Role.ADMIN, disabled_at=datetime.now(UTC))


def _expected(stage: Stage, outcome: Outcome, earlier: Outcome | None, *, sampled: bool) -> Move | None:
    """Written in another order than the code: by what the case comes to."""
    if stage is _S.ESCALATED:
        return None if outcome is _O.ESCALATE else Move.DECIDE
    if outcome is _O.ESCALATE:
        return Move.ESCALATE
    if stage is _S.APPEAL:
        return Move.DECIDE
    if stage is _S.FIRST:
        return Move.SECOND if sampled else Move.DECIDE
    return Move.DECIDE if outcome is earlier else Move.ESCALATE


@pytest.mark.parametrize(
    ("stage", "outcome", "earlier", "sampled"), product(Stage, Outcome, [None, *Outcome], [False, True])
)
def test_what_a_judgement_does_to_the_case(
    stage: Stage, outcome: Outcome, earlier: Outcome | None, sampled: bool
) -> None:
    expected = _expected(stage, outcome, earlier, sampled=sampled)

    if expected is None:
        with pytest.raises(JudgementIncomplete):
            next_step(stage, outcome, earlier, sampled=sampled)
    else:
        assert next_step(stage, outcome, earlier, sampled=sampled) is expected


def test_every_case_is_decided_after_three_people_at_the_most() -> None:
    """First, second, a lead: whatever they say, nobody sends a case round in circles."""
    for first, second in product(Outcome, Outcome):
        move = next_step(_S.FIRST, first, None, sampled=True)
        stage, people = stage_after(move, _S.FIRST), 1
        if stage is _S.SECOND:
            move = next_step(stage, second, first, sampled=True)
            stage, people = stage_after(move, stage), people + 1
        if move is not Move.DECIDE:
            assert stage is _S.ESCALATED
            move, people = next_step(stage, _O.CANNOT_TELL, second, sampled=True), people + 1

        assert move is Move.DECIDE
        assert people <= 3


_AGREE = {
    (_O.DEEPFAKE, Label.DEEPFAKE),
    (_O.BONA_FIDE, Label.BONA_FIDE),
    (_O.CANNOT_TELL, Label.UNDETERMINED),
}


@pytest.mark.parametrize(("outcome", "verdict"), product(Outcome, [None, *Label]))
def test_a_person_agrees_with_the_model_when_both_say_the_same(
    outcome: Outcome, verdict: Label | None
) -> None:
    assert agrees(outcome, verdict) is ((outcome, verdict) in _AGREE)


@pytest.mark.parametrize(
    ("policy", "outcome", "verdict", "needed"),
    [
        pytest.param("never", _O.BONA_FIDE, Label.DEEPFAKE, False, id="never"),
        pytest.param("always", _O.DEEPFAKE, Label.DEEPFAKE, True, id="always"),
        pytest.param("disagreeing", _O.DEEPFAKE, Label.DEEPFAKE, False, id="agreeing needs no words"),
        pytest.param("disagreeing", _O.BONA_FIDE, Label.DEEPFAKE, True, id="overruling the model does"),
        pytest.param("disagreeing", _O.CANNOT_TELL, Label.BONA_FIDE, True, id="so does doubting it"),
        pytest.param("disagreeing", _O.DEEPFAKE, Label.UNDETERMINED, False, id="the model did not know"),
        pytest.param("disagreeing", _O.DEEPFAKE, None, False, id="there is no verdict"),
        pytest.param("disagreeing", _O.ESCALATE, None, True, id="an escalation says what it asks for"),
    ],
)
def test_when_a_reason_is_needed(
    policy: ReasonPolicy, outcome: Outcome, verdict: Label | None, needed: bool
) -> None:
    require_reason(Judgement(outcome, reason="the ears differ"), verdict, policy)
    for empty in (None, "", "  \n"):
        if needed:
            with pytest.raises(ReasonRequired):
                require_reason(Judgement(outcome, reason=empty), verdict, policy)
        else:
            require_reason(Judgement(outcome, reason=empty), verdict, policy)


@pytest.mark.parametrize("outcome", Outcome)
def test_whoever_says_what_an_unseen_picture_is_says_how_they_know(outcome: Outcome) -> None:
    require_reason(Judgement(outcome, reason="it is in the paper"), None, "never", unseen=True)

    if outcome in (_O.DEEPFAKE, _O.BONA_FIDE):
        with pytest.raises(ReasonRequired, match="say how you know"):
            require_reason(Judgement(outcome), None, "never", unseen=True)
    else:
        require_reason(Judgement(outcome), None, "never", unseen=True)


@pytest.mark.parametrize(
    ("outcome", "verdict", "said"),
    [
        (_O.ESCALATE, Label.DEEPFAKE, "say why you escalate"),
        (_O.BONA_FIDE, Label.DEEPFAKE, "you decide bona fide, and the verdict is deepfake"),
        (_O.CANNOT_TELL, Label.BONA_FIDE, "say why you cannot tell: the verdict is bona fide"),
        (_O.DEEPFAKE, Label.DEEPFAKE, "asks for a reason with every decision"),
        (_O.DEEPFAKE, Label.UNDETERMINED, "asks for a reason with every decision"),
        (_O.CANNOT_TELL, None, "asks for a reason with every decision"),
    ],
)
def test_a_missing_reason_is_asked_for_in_words_that_fit(
    outcome: Outcome, verdict: Label | None, said: str
) -> None:
    with pytest.raises(ReasonRequired, match=said):
        require_reason(Judgement(outcome), verdict, "always")


@pytest.mark.parametrize("outcome", [one for one in Outcome if one is not Outcome.DEEPFAKE])
def test_only_a_deepfake_has_a_technique(outcome: Outcome) -> None:
    with pytest.raises(JudgementIncomplete):
        Judgement(outcome, Technique.FS)


@pytest.mark.parametrize(
    ("changed", "hidden"),
    [
        pytest.param({}, True, id="before a first judgement"),
        pytest.param({"stage": Stage.SECOND}, True, id="before the second reader's"),
        pytest.param({"state": CaseState.ANALYZING}, True, id="of a case that is analysed once more"),
        pytest.param({"judged": True}, False, id="judged"),
        pytest.param({"has_verdict": False}, False, id="nothing to hide"),
        pytest.param({"state": CaseState.DECIDED}, False, id="decided"),
        pytest.param({"stage": Stage.ESCALATED}, False, id="for a lead"),
        pytest.param({"stage": Stage.APPEAL}, False, id="an appeal"),
        pytest.param({"share": 0.0}, False, id="not of the share"),
    ],
)
def test_a_verdict_is_hidden_from_whoever_judges_first(changed: dict[str, Any], hidden: bool) -> None:
    asked: dict[str, Any] = {
        "state": CaseState.READY,
        "stage": Stage.FIRST,
        "has_verdict": True,
        "judged": False,
        "share": 1.0,
        **changed,
    }

    assert verdict_is_hidden(new_id(), **asked) is hidden


def test_samples_are_of_the_size_that_is_asked_for_stable_and_independent() -> None:
    ids = [new_id() for _ in range(4000)]

    blind = {case_id for case_id in ids if is_blind_first(case_id, 0.25)}
    second = {case_id for case_id in ids if needs_second(case_id, 0.25)}

    # Five standard deviations of a binomial of 4,000 at a quarter are 137.
    assert abs(len(blind) - 1000) < 137
    assert abs(len(second) - 1000) < 137
    assert abs(len(blind & second) - 250) < 77
    assert blind == {case_id for case_id in ids if is_blind_first(case_id, 0.25)}
    assert blind <= {case_id for case_id in ids if is_blind_first(case_id, 0.5)}
    assert not any(is_blind_first(case_id, 0) for case_id in ids)
    assert all(needs_second(case_id, 1) for case_id in ids)
