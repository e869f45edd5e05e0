"""What is wrong with a face is learnt from facts, and judged on faces that were left out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.grounding.facts import Kind, Touch
from moderation.dfa.gpt.heads import REGIONS, Heads, findings
from moderation.dfa.instruct.examples import GRID, SIZE
from moderation.dfa.train.findings import Described, described, fit_findings, left_out_findings

PARTS = (Region.EYES, Region.NOSE, Region.MOUTH)
KINDS = (Kind.SOFTER, Kind.COLOUR)
LAYERS, WIDTH = 2, 16


@pytest.fixture
def faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Described], torch.Tensor]:
    """Faces with one forged patch, which says its region, its kind and its strength in directions of their own."""
    for name, value in (
        ("RATE", 0.1),
        ("REGION_RIDGE", 300.0),
        ("KIND_RIDGE", 300.0),
    ):  # few faces, few features
        monkeypatch.setattr(f"moderation.dfa.train.findings.{name}", value)
    rng = np.random.default_rng(0)
    known: list[Described] = []
    patches = torch.from_numpy(rng.normal(size=(240, GRID**2, LAYERS * WIDTH)).astype(np.float32)) * 0.3
    for row in range(len(patches)):
        region, kind, strength = int(rng.integers(3)), int(rng.integers(2)), float(rng.random())
        place = int(rng.integers(GRID**2))
        patches[row, place, 0] += 6
        patches[row, place, 1 + region] += 3
        patches[row, place, 5 + kind] += 3
        patches[row, place, 8] += 3 * strength
        mask = np.zeros((GRID, GRID), np.uint8)
        mask.flat[place] = 255
        file = tmp_path / f"{row}.png"
        Image.fromarray(mask).resize((SIZE, SIZE), Image.Resampling.NEAREST).save(file)
        touches = (Touch(PARTS[region], KINDS[kind], strength),)
        known.append(Described(file, file, Technique.FE, touches, f"group {row}"))
    return known, patches.half()


def test_regions_kinds_and_strengths_are_those_of_faces_left_out(
    faces: tuple[list[Described], torch.Tensor],
) -> None:
    known, patches = faces
    heads = Heads(LAYERS, WIDTH)

    found = left_out_findings(heads, known, patches)

    assert 20 < found.faces < 80
    assert found.region_f1 > 0.9
    assert found.blind_f1 < 0.6
    assert found.kinds > 0.9
    assert found.strengths > 0.7
    assert not heads.finds  # only a copy was fitted


def test_fitted_heads_point_to_the_forged_patch_and_say_what_is_wrong(
    faces: tuple[list[Described], torch.Tensor],
) -> None:
    known, patches = faces
    heads = Heads(LAYERS, WIDTH)

    fit_findings(heads, known, patches)

    assert heads.finds
    technique = torch.full((len(known),), list(Technique).index(Technique.FE))
    with torch.no_grad():
        wrong = heads.wrong(*heads.look(patches.float()), technique)
    named = findings(wrong, technique)
    right = [touches[0].region is face.touches[0].region for touches, face in zip(named, known, strict=True)]
    assert np.mean(right) > 0.95
    brightest = wrong.grid.argmax(dim=1)
    assert (patches[torch.arange(len(known)), brightest, 0] > 4).float().mean() > 0.95


def test_only_faces_forged_in_known_parts_teach(tmp_path: Path) -> None:
    rows = [
        {
            "mask": "masks/a.png",
            "facts": [["nose", "softer", 0.5], ["eyes", "colour", 0.2]],
            "technique": "FE",
        },
        {"mask": None, "facts": [["unmapped", "pattern", 0.5]], "technique": "EFS"},
        {"mask": "masks/c.png", "facts": None, "technique": "FS"},
        {"mask": "masks/d.png", "facts": [["ears", "softer", 0.5]], "technique": "FE"},  # no head names ears
    ]
    (tmp_path / "manifest.jsonl").write_text(
        "".join(
            json.dumps(row | {"image": f"images/{index}.jpg", "group": "one"}) + "\n"
            for index, row in enumerate(rows)
        ),
        encoding="utf-8",
    )

    (face,) = described(tmp_path)

    assert face.image == tmp_path / "images/0.jpg"
    assert [touch.region for touch in face.touches] == [Region.NOSE, Region.EYES]
    assert Region.EARS not in REGIONS
