"""Verdicts, faces, artifacts and decisions as JSON: one form for commands, the API, webhooks and the database.

Knows the words of `analysis` and `decisions` and nothing else. Numbers are stored as they are; what is read back equals
what was written.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from moderation.analysis import (
    Abstain,
    Artifact,
    Box,
    Effect,
    Face,
    FaceAnalysis,
    ForeignMap,
    Label,
    Point,
    Region,
    Technique,
    Verdict,
)
from moderation.decisions import Appeal, Decision


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    scores = verdict.technique_scores
    return {
        "label": verdict.label.value,
        "score": verdict.score,
        "margin": verdict.margin,
        "answer_mass": verdict.answer_mass,
        "calibrated": verdict.calibrated,
        "technique": verdict.technique and verdict.technique.value,
        "technique_scores": None if scores is None else {name.value: share for name, share in scores.items()},
        "abstain": verdict.abstain and verdict.abstain.value,
    }


def verdict_from_json(data: Mapping[str, Any]) -> Verdict:
    scores: Mapping[str, float] | None = data.get("technique_scores")
    return Verdict(
        label=Label(data["label"]),
        score=data.get("score"),
        margin=data.get("margin"),
        answer_mass=data.get("answer_mass"),
        calibrated=data.get("calibrated", False),
        technique=Technique(data["technique"]) if data.get("technique") else None,
        technique_scores=None
        if scores is None
        else {Technique(name): share for name, share in scores.items()},
        abstain=Abstain(data["abstain"]) if data.get("abstain") else None,
    )


def artifact_json(artifact: Artifact) -> dict[str, Any]:
    """`region` is the model's own heading, `regions` are our words, `polygon` is [[x, y], …] pixels or null.

    `effect` is null when it was not measured.
    """
    polygon = artifact.polygon
    return {
        "region": artifact.heading,
        "regions": [region.value for region in artifact.regions],
        "text": artifact.text,
        "polygon": None if polygon is None else [[point.x, point.y] for point in polygon],
        "effect": None if artifact.effect is None else effect_json(artifact.effect),
    }


def artifact_from_json(data: Mapping[str, Any]) -> Artifact:
    polygon: Sequence[Sequence[float]] | None = data.get("polygon")
    return Artifact(
        heading=data["region"],
        text=data["text"],
        regions=tuple(Region(region) for region in data["regions"]),
        polygon=None if polygon is None else tuple(Point(x, y) for x, y in polygon),
        effect=effect_from_json(data.get("effect")),
    )


def effect_json(effect: Effect) -> dict[str, Any]:
    return {
        "score_without": effect.score_without,
        "margin_fall": effect.margin_fall,
        "control_score": effect.control_score,
        "control_fall": effect.control_fall,
        "supported": effect.supported,
    }


def effect_from_json(data: Mapping[str, Any] | None) -> Effect | None:
    if data is None:
        return None
    return Effect(
        **{name: data[name] for name in ("score_without", "margin_fall", "control_score", "control_fall")}
    )


def foreign_json(foreign: ForeignMap) -> dict[str, Any]:
    """`values` are side · side bytes in base64, rows from the top of the face crop; `corners` are the crop's."""
    return {
        "side": foreign.side,
        "values": b64encode(foreign.values).decode(),
        "corners": [[point.x, point.y] for point in foreign.corners],
        "highest": [region.value for region in foreign.highest],
    }


def foreign_from_json(data: Mapping[str, Any] | None) -> ForeignMap | None:
    if data is None:
        return None
    first, second, third, fourth = (Point(x, y) for x, y in data["corners"])
    return ForeignMap(
        side=data["side"],
        values=b64decode(data["values"]),
        corners=(first, second, third, fourth),
        highest=tuple(Region(region) for region in data["highest"]),
    )


def face_json(face: FaceAnalysis) -> dict[str, Any]:
    """One face, whole: `box` is [left, top, right, bottom] pixels of the upright picture, `reply` the model's words.

    `background`: it is small, nobody judged it, and it does not count for the picture. Its view is told nobody.
    """
    landmarks = face.face.landmarks
    return {
        "box": list(face.face.box),
        "confidence": face.face.confidence,
        "landmarks": None if landmarks is None else [[point.x, point.y] for point in landmarks],
        "verdict": verdict_json(face.verdict),
        "rationale": [artifact_json(artifact) for artifact in face.rationale],
        "reply": face.reply,
        "rationale_dropped": face.rationale_dropped,
        "foreign": None if face.foreign is None else foreign_json(face.foreign),
        "background": face.background,
    }


def face_from_json(data: Mapping[str, Any]) -> FaceAnalysis:
    return FaceAnalysis(
        face=Face(
            box=Box(*data["box"]), confidence=data["confidence"], landmarks=_landmarks(data.get("landmarks"))
        ),
        verdict=verdict_from_json(data["verdict"]),
        rationale=tuple(artifact_from_json(item) for item in data["rationale"]),
        reply=data.get("reply"),
        rationale_dropped=data.get("rationale_dropped", 0),
        foreign=foreign_from_json(data.get("foreign")),
        background=data.get("background", False),
        view=tuple(data["view"]) if data.get("view") else None,
    )


def decision_json(decision: Decision) -> dict[str, Any]:
    """A decision as platforms see it: what was decided and why, not who decided."""
    return {
        "id": str(decision.id),
        "outcome": decision.outcome.value,
        "technique": decision.technique and decision.technique.value,
        "stage": decision.stage.value,
        "reason": decision.reason,
        "policy": decision.policy,
        "decided_at": decision.created_at.isoformat(),
        "final_at": decision.final_at.isoformat(),
    }


def appeal_json(appeal: Appeal) -> dict[str, Any]:
    """An appeal as platforms see it. `decision` is the id of what is appealed against."""
    return {
        "id": str(appeal.id),
        "decision": str(appeal.decision_id),
        "reason": appeal.reason,
        "external_id": appeal.external_id,
        "created_at": appeal.created_at.isoformat(),
        "resolved_by": None if appeal.resolved_by is None else str(appeal.resolved_by),
    }


def _landmarks(data: Sequence[Sequence[float]] | None) -> tuple[Point, Point, Point, Point, Point] | None:
    if data is None:
        return None
    left_eye, right_eye, nose, left_mouth, right_mouth = (Point(x, y) for x, y in data)
    return left_eye, right_eye, nose, left_mouth, right_mouth
