"""Things that are valid by default: a test names only the fields it is about."""

import dataclasses
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from uuid6 import uuid7

from moderation.analysis import (
    Abstain,
    Analysis,
    Artifact,
    Box,
    Effect,
    Face,
    FaceAnalysis,
    ForeignMap,
    Label,
    PictureFacts,
    Point,
    Region,
    Technique,
    Verdict,
)
from moderation.cases import Case, CaseState, Flag, ImageRef
from moderation.database.cases import Opening
from moderation.people import Person, Role


def a_flag(**fields: Any) -> Flag:
    image = fields.pop("image", None) or ImageRef("flagged", "photo.jpg")
    values: dict[str, Any] = {"image": image, "source": "profile-photos", **fields}
    return Flag(**values)


def an_opening(**fields: Any) -> Opening:
    key = fields.pop("idempotency_key", None)
    publish = fields.pop("publish", False)
    return Opening(a_flag(**fields), key, publish)


def a_case(**fields: Any) -> Case:
    values: dict[str, Any] = {
        "id": new_id(),
        "flag": a_flag(),
        "state": CaseState.WAITING,
        "version": 1,
        "created_at": datetime.now(UTC),
        **fields,
    }
    return Case(**values)


def a_verdict(**fields: Any) -> Verdict:
    values: dict[str, Any] = {
        "label": Label.DEEPFAKE,
        "score": 0.93,
        "margin": 2.6,
        "answer_mass": 0.99,
        "technique": Technique.FS,
        "technique_scores": {Technique.FS: 0.7, Technique.FR: 0.1, Technique.FE: 0.1, Technique.EFS: 0.1},
        **fields,
    }
    return Verdict(**values)


def bona_fide(score: float = 0.08) -> Verdict:
    return Verdict(label=Label.BONA_FIDE, score=score, margin=-2.4, answer_mass=0.98)


def undecided(abstain: Abstain = Abstain.NEAR_THRESHOLD, score: float | None = 0.5) -> Verdict:
    return Verdict(label=Label.UNDETERMINED, score=score, abstain=abstain)


def an_artifact(**fields: Any) -> Artifact:
    triangle = (Point(1, 2), Point(3.5, 2), Point(2, 5))
    values: dict[str, Any] = {
        "heading": "Mouth and Lips",
        "text": "The edge is blurred.",
        "regions": (Region.MOUTH,),
        "polygon": triangle,
    }
    return Artifact(**(values | fields))


def an_effect(**fields: Any) -> Effect:
    values = {"score_without": 0.41, "margin_fall": 3.1, "control_score": 0.92, "control_fall": 0.2}
    return Effect(**(values | fields))


def a_map(*, side: int = 14, **fields: Any) -> ForeignMap:
    """High in the lower half of the face's crop, and nowhere else."""
    half = side * (side // 2)
    values: dict[str, Any] = {
        "side": side,
        "values": bytes(half) + bytes([230]) * (side * side - half),
        "corners": (Point(0, 0), Point(120, 0), Point(120, 120), Point(0, 120)),
        "highest": (Region.MOUTH, Region.JAWLINE),
    }
    return ForeignMap(**(values | fields))


def a_face(**fields: Any) -> Face:
    landmarks = (Point(30, 40), Point(60, 40), Point(45, 55), Point(33, 70), Point(57, 70))
    values: dict[str, Any] = {
        "box": Box(10, 10, 90, 100),
        "confidence": 0.99,
        "landmarks": landmarks,
        **fields,
    }
    return Face(**values)


def a_face_analysis(**fields: Any) -> FaceAnalysis:
    values: dict[str, Any] = {
        "face": a_face(),
        "verdict": a_verdict(),
        "rationale": (an_artifact(),),
        "reply": "1. **Mouth**: …",
    }
    return FaceAnalysis(**(values | fields))


def an_analysis(**fields: Any) -> Analysis:
    faces = fields.pop("faces", (a_face_analysis(),))
    values: dict[str, Any] = {
        "fingerprint": "f1",
        "bundle": "scripted 1",
        "verdict": faces[0].verdict if faces else a_verdict(),
        "faces": faces,
        "picture": PictureFacts("ab" * 32, 1234, "JPEG", 640, 480),
        "seconds": {"decode": 0.01},
        **fields,
    }
    return Analysis(**values)


def with_verdict(verdict: Verdict) -> FaceAnalysis:
    return dataclasses.replace(a_face_analysis(), verdict=verdict, rationale=())


def a_person(**fields: Any) -> Person:
    name = fields.pop("name", "Ada")
    values: dict[str, Any] = {
        "id": new_id(),
        "email": f"{name.lower()}@example.org",
        "name": name,
        "role": Role.REVIEWER,
    }
    return Person(**(values | fields))


def new_id() -> UUID:
    return UUID(int=uuid7().int)
