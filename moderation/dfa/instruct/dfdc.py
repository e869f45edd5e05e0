"""More DFDC crops, from a checkout of the public repository behind `dfdc_faces224`.

`i-Shreyansh/DeepFake-Detection` holds one 224-pixel crop per training clip of the Deepfake Detection Challenge in
`faces_224/`, with labels in `metadata.csv`. This module lists them as a source folder of the pool. The pictures stay
under Meta's DFDC agreement.
"""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

from moderation.errors import SetupProblem

HEADER = ("file", "label", "type", "paired_real", "orig_crop_w", "orig_crop_h")


def gather_dfdc(
    checkout: Path, out: Path, *, bona_fide: int, forged_each: int = 1, seed: int = 0
) -> dict[str, int]:
    """Link up to `bona_fide` crops and, for each, up to `forged_each` forgeries of it; write labels.csv."""
    table = checkout / "metadata.csv"
    if not table.is_file():
        raise SetupProblem(f"{table} is missing: give a checkout of i-Shreyansh/DeepFake-Detection.")
    with table.open(newline="", encoding="utf-8") as lines:
        rows = {Path(row["videoname"]).stem: row for row in csv.DictReader(lines)}
    forgeries: dict[str, list[str]] = defaultdict(list)
    for name, row in rows.items():
        if row["label"] == "FAKE":
            forgeries[Path(row["original"]).stem].append(name)
    rng = np.random.default_rng(seed)
    originals = [name for name in sorted(forgeries) if rows.get(name, {}).get("label") == "REAL"]
    sample = [originals[index] for index in rng.permutation(len(originals))[:bona_fide]]
    written: list[tuple[str, ...]] = []
    for name in sample:
        written.append(_linked(checkout, out, rows[name], "real", name, ""))
        made = forgeries[name]
        drawn = [made[index] for index in rng.permutation(len(made))[:forged_each]]
        written += [_linked(checkout, out, rows[other], "fake", other, f"{name}.jpg") for other in drawn]
    with (out / "labels.csv").open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([HEADER, *written])
    return {"bona_fide": len(sample), "forged": len(written) - len(sample)}


def _linked(
    checkout: Path, out: Path, row: dict[str, str], label: str, name: str, paired: str
) -> tuple[str, ...]:
    file = out / label / f"{name}.jpg"
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.is_symlink():
        file.symlink_to((checkout / "faces_224" / file.name).resolve())
    technique = "REAL" if label == "real" else "DFDC_mixed(FS-dominant)"
    return f"{label}/{file.name}", label, technique, paired, row["original_width"], row["original_height"]
