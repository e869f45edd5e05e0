"""Verdicts, faces, artifacts and decisions as JSON: one form for commands, the API, webhooks and the database.

It knows only the words of `analysis` and `decisions`. Numbers are stored unchanged: what is read equals what was
written.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from pydantic import TypeAdapter

from moderation.analysis import Analysis, Artifact, Basis, Effect, FaceAnalysis, ForeignMap, Verdict
from moderation.decisions import Appeal, Decision

_VERDICT, _FACE_ANALYSIS = TypeAdapter(Verdict), TypeAdapter(FaceAnalysis)


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Its fields by their names."""
    return _VERDICT.dump_python(verdict, mode="json")


def told_verdict(verdict: Verdict, basis: Basis | None, *, source: str | None = None) -> dict[str, Any]:
    """A verdict for others: with what its score was calibrated on, and whether that holds for the source."""
    known = basis if verdict.calibrated else None
    return {
        **verdict_json(verdict),
        "calibrated_on": None if known is None else known.words,
        "is_probability": known is not None and known.holds(verdict, source),
    }


def verdict_from_json(data: Mapping[str, Any]) -> Verdict:
    return _VERDICT.validate_python(data)


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


def effect_json(effect: Effect) -> dict[str, Any]:
    return {**asdict(effect), "supported": effect.supported}


def effect_from_json(data: Mapping[str, Any] | None) -> Effect | None:
    if data is None:
        return None
    return Effect(**{field.name: data[field.name] for field in fields(Effect)})


def foreign_json(foreign: ForeignMap) -> dict[str, Any]:
    """`values` are side · side bytes in base64, rows from the top of the face crop. `corners` are those of the crop."""
    return {
        "side": foreign.side,
        "values": b64encode(foreign.values).decode(),
        "corners": [[point.x, point.y] for point in foreign.corners],
        "highest": [region.value for region in foreign.highest],
    }


def face_json(face: FaceAnalysis) -> dict[str, Any]:
    """One whole face: `box` is [left, top, right, bottom] in pixels of the upright picture, `reply` the model's words.

    `background`: it is small, was not judged, and does not count for the picture. Its view is never shown.
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


def told_face(face: FaceAnalysis, basis: Basis | None, *, source: str | None = None) -> dict[str, Any]:
    """One face for others."""
    return {**face_json(face), "verdict": told_verdict(face.verdict, basis, source=source)}


def told_analysis(
    analysis: Analysis | None, basis: Basis | None, *, source: str | None = None
) -> dict[str, Any]:
    """The verdict and the faces of a picture for others. Null, and no faces, without an analysis."""
    return {
        "verdict": analysis and told_verdict(analysis.verdict, basis, source=source),
        "faces": [told_face(face, basis, source=source) for face in analysis.faces] if analysis else [],
        "faces_found": analysis and analysis.faces_found,
        "faces_judged": analysis and analysis.faces_judged,
        "fingerprint": analysis and analysis.fingerprint,
    }


def face_from_json(data: Mapping[str, Any]) -> FaceAnalysis:
    foreign = data.get("foreign")
    return _FACE_ANALYSIS.validate_python(
        {
            **data,
            "face": data,
            "rationale": [{**artifact, "heading": artifact["region"]} for artifact in data["rationale"]],
            "foreign": foreign and {**foreign, "values": b64decode(foreign["values"])},
            "view": data.get("view") or None,
        }
    )


def decision_json(decision: Decision) -> dict[str, Any]:
    """A decision for platforms: the outcome and the reason, without the reviewer."""
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
    """An appeal for platforms, without the reviewer. `decision` is the id of the decision that it is against."""
    kind, _, name = appeal.appellant.partition(":")
    return {
        "id": str(appeal.id),
        "decision": str(appeal.decision_id),
        "appellant": f"platform:{name}" if kind == "platform" else kind,
        "reason": appeal.reason,
        "external_id": appeal.external_id,
        "created_at": appeal.created_at.isoformat(),
        "resolved_by": None if appeal.resolved_by is None else str(appeal.resolved_by),
    }
