import dataclasses

import pytest

from moderation.analysis import Abstain, Basis, Label, Technique, Verdict, image_verdict
from tests.builders import a_verdict, bona_fide, undecided, with_verdict


@pytest.mark.parametrize(
    ("verdicts", "label"),
    [
        pytest.param([], Label.UNDETERMINED, id="nobody to judge"),
        pytest.param([bona_fide()], Label.BONA_FIDE, id="one honest face"),
        pytest.param([bona_fide(), a_verdict()], Label.DEEPFAKE, id="one forged face makes a forged image"),
        pytest.param(
            [bona_fide(), undecided()], Label.UNDETERMINED, id="the unread face may be the forged one"
        ),
        pytest.param(
            [undecided(score=0.9), a_verdict(score=0.6)], Label.DEEPFAKE, id="a verdict beats a doubt"
        ),
    ],
)
def test_the_image_gets_the_verdict_of_the_face_that_decides(verdicts: list[Verdict], label: Label) -> None:
    verdict, _ = image_verdict([with_verdict(one) for one in verdicts])

    assert verdict.label is label


def test_the_deciding_face_comes_first() -> None:
    weak, strong = with_verdict(a_verdict(score=0.6)), with_verdict(a_verdict(score=0.95))

    verdict, faces = image_verdict([weak, strong])

    assert faces == (strong, weak)
    assert verdict.score == 0.95


def test_an_image_without_faces_says_so() -> None:
    verdict, _ = image_verdict([])

    assert verdict.abstain is Abstain.NO_FACE


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"label": Label.UNDETERMINED, "technique": None}, id="undetermined without a code"),
        pytest.param({"abstain": Abstain.UNPARSED}, id="a code beside a verdict"),
        pytest.param({"label": Label.BONA_FIDE}, id="a technique on a bona fide face"),
    ],
)
def test_a_verdict_that_contradicts_itself_cannot_be_made(fields: dict) -> None:
    with pytest.raises(ValueError, match="with"):
        a_verdict(**{"technique": Technique.FS, **fields})


@pytest.mark.parametrize(
    ("verdict", "source", "holds"),
    [
        pytest.param(a_verdict(calibrated=True), "avatars", True, id="a source it was fitted to"),
        pytest.param(a_verdict(calibrated=True), "banners", False, id="another source"),
        pytest.param(a_verdict(calibrated=True), None, False, id="a picture from nowhere"),
        pytest.param(a_verdict(calibrated=False), "avatars", False, id="a score that was not fitted"),
        pytest.param(
            dataclasses.replace(undecided(), calibrated=True), "avatars", True, id="close to the threshold"
        ),
        pytest.param(
            dataclasses.replace(undecided(Abstain.UNLIKE_TRAINING), calibrated=True),
            "avatars",
            False,
            id="unlike what it was fitted to",
        ),
    ],
)
def test_a_score_is_a_probability_only_where_its_calibration_holds(
    verdict: Verdict, source: str | None, *, holds: bool
) -> None:
    assert Basis("labelled pictures of avatars", ("avatars",)).holds(verdict, source) is holds
