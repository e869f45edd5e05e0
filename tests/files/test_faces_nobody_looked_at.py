"""Every face that is found is counted, and a picture is bona fide only when no face of its size was left out."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from PIL import Image

from moderation.analysis import Abstain, Analysis, FaceAnalysis, Label, PictureFacts, image_verdict
from moderation.dfa.gpt.detector import faces_to_ask
from moderation.dfa.gpt.faces import find_faces
from moderation.dfa.gpt.pixels import Picture
from moderation.dfa.gpt.policy import Policy
from moderation.settings import Settings
from tests.builders import an_analysis, bona_fide

SAMPLES = Path(__file__).parents[2] / "moderation" / "samples"
PORTRAITS = [SAMPLES / f"portrait-{number}.jpg" for number in (1, 2, 3)]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def a_group(portraits: Sequence[tuple[Path, float]], columns: int = 5) -> Picture:
    """Portraits beside one another, each at its share of 330 × 400 pixels."""
    rows = -(-len(portraits) // columns)
    page = Image.new("RGB", (columns * 330, rows * 400), (120, 130, 140))
    for place, (path, share) in enumerate(portraits):
        with Image.open(path) as opened:
            image = opened.convert("RGB").resize((round(327 * share), round(400 * share)))
        page.paste(image, (place % columns * 330, place // columns * 400))
    facts = PictureFacts(sha256="", size=0, format="PNG", width=page.width, height=page.height)
    return Picture(np.array(page), facts)


def concluded(picture: Picture, *, at_most: int) -> Analysis:
    """The analysis when the model calls every face that it is asked about bona fide."""
    asked, others = faces_to_ask(picture, find_faces(picture), at_most=at_most)
    faces = [*(FaceAnalysis(face, bona_fide()) for face in asked), *others]
    verdict, ordered = image_verdict(faces)
    return an_analysis(verdict=verdict, faces=ordered)


def test_nine_faces_are_nine_judged_with_the_forged_one_that_is_smallest() -> None:
    group = a_group([*[(path, 1.0) for path in PORTRAITS * 3][:8], (SAMPLES / "forged-swap-1.jpg", 0.8)])

    asked, others = faces_to_ask(group, find_faces(group), at_most=Policy().max_faces)

    smallest = min(asked, key=lambda face: face.box.width)
    assert (len(asked), others) == (9, ())
    assert smallest.box.left > 3 * 330
    assert smallest.box.top > 400


def test_a_face_as_large_as_the_others_that_nobody_judged_leaves_the_picture_undetermined() -> None:
    group = a_group([*[(path, 1.0) for path in PORTRAITS], (SAMPLES / "forged-swap-1.jpg", 0.8)])

    analysis = concluded(group, at_most=3)

    assert (analysis.verdict.label, analysis.verdict.abstain) == (
        Label.UNDETERMINED,
        Abstain.FACES_NOT_JUDGED,
    )
    assert (analysis.faces_found, analysis.faces_judged) == (4, 3)
    assert not analysis.faces[0].background


@pytest.mark.parametrize(
    ("share", "reason"),
    [
        pytest.param(0.4, Abstain.FACES_NOT_JUDGED, id="one-too-many"),
        pytest.param(0.17, Abstain.FACE_TOO_SMALL, id="too-small-to-judge"),
    ],
)
def test_a_small_face_behind_is_listed_as_background_and_the_picture_keeps_its_verdict(
    share: float, reason: Abstain
) -> None:
    group = a_group([(PORTRAITS[0], 1.0), (PORTRAITS[1], share)])

    analysis = concluded(group, at_most=1)

    assert analysis.verdict.label is Label.BONA_FIDE
    assert (analysis.faces_found, analysis.faces_judged) == (2, 1)
    assert [face.background for face in analysis.faces] == [False, True]
    assert analysis.faces[1].verdict.abstain is reason


def test_a_small_face_that_is_judged_counts_like_any_other() -> None:
    group = a_group([(PORTRAITS[0], 1.0), (SAMPLES / "forged-swap-1.jpg", 0.4)])

    asked, others = faces_to_ask(group, find_faces(group), at_most=32)

    assert (len(asked), others) == (2, ())


def test_a_face_too_small_to_judge_with_none_larger_leaves_the_picture_undetermined() -> None:
    group = a_group([(PORTRAITS[0], 0.17), (PORTRAITS[1], 0.17)])

    analysis = concluded(group, at_most=32)

    assert analysis.verdict.abstain is Abstain.FACE_TOO_SMALL
    assert (analysis.faces_found, analysis.faces_judged) == (2, 0)


def test_thirty_two_faces_are_judged_by_default_here_and_in_the_settings() -> None:
    assert Policy().max_faces == 32
    assert Settings.model_fields["faces_at_most"].default == 32
