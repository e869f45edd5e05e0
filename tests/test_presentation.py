import json

from moderation.analysis import (
    Abstain,
    Artifact,
    Box,
    Face,
    FaceAnalysis,
    Label,
    Point,
    Region,
    Technique,
    Verdict,
)
from moderation.presentation import face_from_json, face_json
from tests.builders import a_face_analysis, a_map, an_artifact, an_effect


def test_faces_survive_the_way_through_json() -> None:
    points = tuple(Point(float(n), n + 0.5) for n in range(5))
    deepfake = FaceAnalysis(
        face=Face(Box(1, 2, 30, 40.5), 0.9, (points[0], points[1], points[2], points[3], points[4])),
        verdict=Verdict(
            Label.DEEPFAKE,
            score=0.97,
            margin=3.4,
            answer_mass=0.99,
            calibrated=True,
            technique=Technique.FS,
            technique_scores={Technique.FS: 0.75, Technique.FE: 0.25},
        ),
        rationale=(
            Artifact(
                "Cheek and Jawline", "A seam.", (Region.CHEEKS, Region.JAWLINE), points[:3], an_effect()
            ),
            Artifact("Overall", "Odd.", (Region.UNMAPPED,), None),
        ),
        reply="1. **Cheek and Jawline**: A seam.",
        rationale_dropped=2,
        foreign=a_map(),
    )
    unread = FaceAnalysis(
        Face(Box(0, 0, 9, 9), 0.5), Verdict(Label.UNDETERMINED, abstain=Abstain.TOO_BLURRED), reply=None
    )

    for face in (deepfake, unread):
        assert face_from_json(json.loads(json.dumps(face_json(face)))) == face


def test_a_face_that_an_earlier_release_wrote_has_no_map_and_no_effects() -> None:
    written = face_json(a_face_analysis(rationale=(an_artifact(effect=an_effect()),), foreign=a_map()))
    del written["foreign"], written["rationale"][0]["effect"]

    face = face_from_json(written)

    assert face.foreign is None
    assert face.rationale[0].effect is None
