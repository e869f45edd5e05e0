"""From labelled margins to a calibrator, written into a bundle that lies in a folder."""

import datetime
from dataclasses import dataclass, replace
from pathlib import Path

from moderation.dfa.bench.ask import as_crop
from moderation.dfa.bench.manifest import read_manifest
from moderation.dfa.gpt.bundle import BundleSpec, write_card
from moderation.dfa.gpt.calibration import Platt, doubtful, fit_platt, save_platt
from moderation.dfa.gpt.crops import FaceCrop
from moderation.dfa.gpt.detector import Detector
from moderation.dfa.gpt.faces import find_faces
from moderation.dfa.gpt.pixels import crop_face, decode_picture
from moderation.dfa.gpt.policy import Policy
from moderation.errors import SetupProblem

CALIBRATION_FILE = "calibration.json"


class MarginsReversed(SetupProblem):
    """A fit that falls with the margin. It would make every verdict the opposite of what the model says."""

    code = "margins_reversed"


def write_calibration(spec: BundleSpec, platt: Platt) -> BundleSpec:
    """Put a calibrator into a bundle; its digest and with it every fingerprint change."""
    save_platt(platt, spec.folder / CALIBRATION_FILE)
    return write_card(replace(spec, calibration=CALIBRATION_FILE))


@dataclass(frozen=True)
class Labelled:
    """Pictures with known labels, as the model sees them."""

    crops: tuple[FaceCrop, ...]
    deepfakes: tuple[bool, ...]
    #: Pictures in which no face was found.
    without_face: int


def labelled_crops(table: Path, size: int) -> Labelled:
    """The pictures of a manifest, as the worker would crop them, or as they are where it says that they are crops.

    Raise SetupProblem when it cannot be read.
    """
    crops: list[FaceCrop] = []
    deepfakes: list[bool] = []
    without_face = 0
    for item in read_manifest(table):
        data = item.file.read_bytes()
        crop = as_crop(data, size) if item.crop else _largest_face(data, size)
        if crop is None:
            without_face += 1
            continue
        crops.append(crop)
        deepfakes.append(item.deepfake)
    return Labelled(tuple(crops), tuple(deepfakes), without_face)


def _largest_face(data: bytes, size: int) -> FaceCrop | None:
    picture = decode_picture(data)
    faces = find_faces(picture, at_most=1)
    return FaceCrop(faces[0], crop_face(picture, faces[0], size)) if faces else None


def calibrate_bundle(
    folder: Path, table: Path, *, today: datetime.date, device: str = "cpu", float8: bool = False
) -> tuple[Platt, int]:
    """Fit a bundle's calibrator on labelled pictures and write it. Returns it, and how many had no face.

    Margins come from the engine that serves, in the numbers that this device computes in, or in eight bits: a
    calibration holds for those. A zone is fitted again if there was one, and how strange a face may be stays. Raise
    SetupProblem when there is too little to fit, MarginsReversed when what is fitted would turn verdicts round; nothing
    is written then.
    """
    policy = Policy(technique=False, rationale=False, float8=float8)
    detector = Detector.load(folder, device=device, policy=policy)
    labelled = labelled_crops(table, detector.image_size)
    judged = [
        (face.verdict.margin, deepfake)
        for face, deepfake in zip(detector.analyze(labelled.crops), labelled.deepfakes, strict=True)
        if face.verdict.margin is not None
    ]
    version = f"{today.isoformat()} float8" if float8 else today.isoformat()
    try:
        platt = fit_platt(
            [margin for margin, _ in judged], [deepfake for _, deepfake in judged], version=version
        )
    except ValueError as error:
        raise SetupProblem(str(error)) from error
    if platt.a <= 0:
        raise MarginsReversed(
            f"The fitted slope is {platt.a:.3g}: the model finds the bona fide pictures more forged than deepfakes. "
            f"Look whether the labels of {table} are swapped; if not, it knows nothing about pictures like these."
        )
    before = detector.bundle.calibration
    if before is not None:
        scores = [platt.probability(margin) for margin, deepfake in judged if not deepfake]
        platt = replace(platt, strangest=before.strangest, zone=before.zone and doubtful(scores))
    write_calibration(detector.bundle.spec, platt)
    return platt, labelled.without_face
