"""The lab on files: from bona fide pictures to forged ones, with masks and facts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from moderation.analysis import Technique
from moderation.dfa.gpt.pixels import crop_face, decode_picture
from moderation.dfa.instruct.forgery.forged import Forgery
from moderation.dfa.instruct.forgery.masks import Portrait, geometry
from moderation.dfa.instruct.forgery.pairs import forge
from moderation.dfa.instruct.pool import CROP, MARGIN, landmarks_in_crop, largest_face
from moderation.errors import ImageRejected, SetupProblem

#: The text on a marked forgery.
MARK = "FORGED"


def portrait(file: Path) -> Portrait | None:
    """The largest face of a picture, cropped for the lab. None when there is none."""
    picture = decode_picture(file.read_bytes())
    face = largest_face(picture)
    if face is None:
        return None
    landmarks = np.array(landmarks_in_crop(face))
    return Portrait(crop_face(picture, face, CROP, MARGIN), geometry(landmarks, CROP))


@dataclass(frozen=True)
class Forged:
    """What `forge_files` did."""

    written: int
    without_face: list[Path]
    #: The reason of each file that could not be read.
    unreadable: dict[Path, str]


def forge_files(
    files: Sequence[Path], out: Path, techniques: Sequence[Technique], *, mark: bool, seed: int
) -> Forged:
    """Forge each face by each technique. Files that cannot be read or show no face are left out.

    Each forgery is written with its bona fide crop, mask and facts. `mark` writes `MARK` onto the forged picture: no
    forged face should leave the lab without it. Raise SetupProblem when nothing would be written, or two files would
    be written under one name.
    """
    _check_names(files)
    found: list[tuple[Path, Portrait]] = []
    without_face: list[Path] = []
    unreadable: dict[Path, str] = {}
    for file in files:
        try:
            face = portrait(file)
        except ImageRejected as error:
            unreadable[file] = str(error)
        except OSError as error:
            unreadable[file] = error.strerror or str(error)
        else:
            if face is None:
                without_face.append(file)
            else:
                found.append((file, face))
    if not found:
        reasons = "".join(f" {file}: {reason}" for file, reason in unreadable.items())
        raise SetupProblem(f"No face was found in any of the pictures.{reasons}")
    out.mkdir(parents=True, exist_ok=True)
    written = 0
    for number, (file, face) in enumerate(found):
        other = found[(number + 1) % len(found)][1]
        Image.fromarray(face.pixels).save(out / f"{file.stem}.bona_fide.png")
        for technique in techniques:
            rng = np.random.default_rng([seed, number, list(Technique).index(technique)])
            _write(forge(technique, face, other, rng), out / f"{file.stem}.{technique}", mark=mark)
            written += 1
    return Forged(written, without_face, unreadable)


def _check_names(files: Sequence[Path]) -> None:
    """What is written is named for its picture, without the ending."""
    first: dict[str, Path] = {}
    for file in files:
        earlier = first.setdefault(file.stem, file)
        if earlier is not file:
            raise SetupProblem(
                f"{earlier} and {file} would be written under one name, {file.stem}: rename one, or forge them "
                "into different folders."
            )


def _write(forgery: Forgery, stem: Path, *, mark: bool) -> None:
    image = Image.fromarray(forgery.pixels)
    if mark:
        ImageDraw.Draw(image).text((6, 4), MARK, fill=(255, 0, 0), font_size=28)
    image.save(stem.with_name(f"{stem.name}.png"))
    Image.fromarray((forgery.mask * 255).astype(np.uint8)).save(stem.with_name(f"{stem.name}.mask.png"))
    facts = {
        "technique": forgery.technique,
        "recipe": forgery.recipe,
        "touches": [
            {"region": touch.region, "kind": touch.kind, "strength": round(touch.strength, 3)}
            for touch in forgery.facts
        ],
    }
    stem.with_name(f"{stem.name}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
