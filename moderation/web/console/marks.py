"""Artifacts on the picture: numbered across faces, each with an outline and a part to enlarge. Only geometry."""

from collections.abc import Sequence
from dataclasses import dataclass

from moderation.analysis import Artifact, Box, FaceAnalysis, PictureFacts, Point
from moderation.web.console.words import effect_words

#: Margin around an outline in the lens, as a share of its longer side.
_MARGIN = 0.15
#: Pixels: the lens shows at least so much, because an edge without surroundings says nothing.
_CROP_AT_LEAST = 24.0


@dataclass(frozen=True)
class Mark:
    """One artifact of the rationale, as on the page."""

    #: From 1 across all faces. Up to 9 it is also the key that jumps to it.
    number: int
    face: int  # index into the analysis's faces
    ordinal: int  # from 1, in the model's order
    artifact: Artifact
    #: "x,y x,y …" in pixels of the upright picture. None when no honest outline can be drawn.
    points: str | None
    #: "x y width height" in pixels of the upright picture: what the lens enlarges.
    crop: str
    #: Whether the score depends on its region, in words. Empty when it was not measured.
    effect_words: str = ""

    @property
    def supported(self) -> bool:
        """Whether the score depends on its region. False when it was not measured."""
        return self.artifact.effect is not None and self.artifact.effect.supported


def marks(faces: Sequence[FaceAnalysis], picture: PictureFacts) -> tuple[Mark, ...]:
    found: list[Mark] = []
    for index, face in enumerate(faces):
        for ordinal, artifact in enumerate(face.rationale, start=1):
            outline = artifact.polygon
            box = _around(outline, picture) if outline else _inside(face.face.box, picture)
            found.append(
                Mark(
                    number=len(found) + 1,
                    face=index,
                    ordinal=ordinal,
                    artifact=artifact,
                    points=" ".join(f"{p.x:.1f},{p.y:.1f}" for p in outline) if outline else None,
                    crop=f"{box.left:.0f} {box.top:.0f} {box.width:.0f} {box.height:.0f}",
                    effect_words=_effect_words(face, artifact),
                )
            )
    return tuple(found)


def _effect_words(face: FaceAnalysis, artifact: Artifact) -> str:
    if artifact.effect is None or face.verdict.score is None:
        return ""
    return effect_words(face.verdict.score, artifact.effect)


def _around(outline: Sequence[Point], picture: PictureFacts) -> Box:
    """The outline's box with a margin."""
    xs, ys = [p.x for p in outline], [p.y for p in outline]
    margin = max(_MARGIN * max(max(xs) - min(xs), max(ys) - min(ys)), _CROP_AT_LEAST / 2)
    return _inside(Box(min(xs) - margin, min(ys) - margin, max(xs) + margin, max(ys) + margin), picture)


def _inside(box: Box, picture: PictureFacts) -> Box:
    """The box in whole pixels inside the picture."""
    left, top = max(0, round(box.left)), max(0, round(box.top))
    right, bottom = min(picture.width, round(box.right)), min(picture.height, round(box.bottom))
    return Box(left, top, max(right, left + 1), max(bottom, top + 1))
