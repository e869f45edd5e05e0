"""From labelled margins to a calibrator, written into a bundle that lies in a folder."""

import csv
import datetime
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from moderation.dfa.gpt.bundle import BundleSpec, load_bundle, read_bundle, write_card
from moderation.dfa.gpt.calibration import Platt, fit_platt, save_platt
from moderation.dfa.gpt.faces import find_faces
from moderation.dfa.gpt.pixels import crop_face, decode_picture
from moderation.dfa.instruct.examples import Example
from moderation.dfa.train.report import Judged, judge
from moderation.errors import SetupProblem

CALIBRATION_FILE = "calibration.json"


def fitted(judged: Sequence[Judged], *, today: datetime.date) -> Platt:
    """Platt scaling on what the model said about pictures with labels."""
    return fit_platt(
        [j.margin for j in judged],
        [j.example.deepfake for j in judged],
        version=today.isoformat(),
    )


def write_calibration(spec: BundleSpec, platt: Platt) -> BundleSpec:
    """Put a calibrator into a bundle; its digest and with it every fingerprint change."""
    save_platt(platt, spec.folder / CALIBRATION_FILE)
    return write_card(replace(spec, calibration=CALIBRATION_FILE))


def labelled_examples(table: Path, size: int) -> tuple[list[Example], int]:
    """Pictures of a CSV with the columns `file` and `label`, as the worker would crop them; and how many had no face.

    `label` is deepfake or bona_fide; fake and real are understood. Paths are relative to the table.
    """
    examples: list[Example] = []
    without_face = 0
    with table.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            picture = decode_picture((table.parent / row["file"]).read_bytes())
            faces = find_faces(picture, at_most=1)
            if not faces:
                without_face += 1
                continue
            examples.append(
                Example(
                    pixels=crop_face(picture, faces[0], size),
                    deepfake=_is_deepfake(row["label"], table),
                    technique=None,
                    grid=None,
                    facts=None,
                    origin=table.stem,
                    group=row["file"],
                )
            )
    return examples, without_face


def _is_deepfake(label: str, table: Path) -> bool:
    known = {"deepfake": True, "fake": True, "bona_fide": False, "real": False}
    if label not in known:
        raise SetupProblem(f"{table} has the label {label!r}; deepfake and bona_fide are understood.")
    return known[label]


def calibrate_bundle(folder: Path, table: Path, *, today: datetime.date) -> tuple[Platt, int]:
    """Fit a bundle's calibrator on labelled pictures and write it. Returns it, and how many had no face."""
    spec = read_bundle(folder)
    examples, without_face = labelled_examples(table, spec.image.size)
    bundle = load_bundle(spec, device=torch.device("cpu"), dtype=torch.float32)
    try:
        platt = fitted(judge(bundle, examples, describe=False), today=today)
    except ValueError as error:
        raise SetupProblem(str(error)) from error
    write_calibration(spec, platt)
    return platt, without_face
