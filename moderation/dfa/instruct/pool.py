"""The pool: labelled pictures in one normal form, each with its origin and its split.

Every picture is treated alike, independent of its label: re-encoded at a quality drawn from one distribution, face
found, cropped to a square of one size. This removes other differences between a source's labels (resolution, tables,
backdrop): a model that can learn them learns nothing else. Losses are counted by label.
"""

import csv
import hashlib
import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from moderation.analysis import Box, Face, Label, Technique
from moderation.dfa.gpt.faces import find_faces
from moderation.dfa.gpt.pixels import Picture, crop_face, decode_picture
from moderation.dfa.instruct.forgery.masks import CANONICAL
from moderation.dfa.instruct.forgery.photometry import Encoding, recompressed
from moderation.dfa.instruct.sources import SHIPPED, Source, Table, read_table
from moderation.errors import SetupProblem

#: Side of a pooled crop in pixels, and its margin. The model's own crop (224 pixels at 1.3) fits inside, at about the
#: same scale, with room to shift and rotate.
CROP, MARGIN = 256, 1.5
#: Range of the re-encoding's quality, for every label.
QUALITIES = (75, 93)
#: Side in pixels to which tight origins are reduced before use: in `ifg_gan_faces`, bona fide files have 100 to 174
#: pixels, and almost all forged ones 448.
TIGHT_SIDE = 112
#: Shares of the groups in each split.
SHARES = {"train": 0.78, "calibration": 0.07, "test": 0.15}


@dataclass(frozen=True)
class Listed:
    """One picture of a folder's labels.csv."""

    file: str  # relative to the data folder
    source: str
    #: A finer name when a folder holds several origins: "ifg_gan_faces/stylegan".
    origin: str
    label: Label
    technique: Technique | None  # None when bona fide or unknown
    #: All pictures of one group are in one split: a pair when the source names one, otherwise a single file.
    group: str
    terms: str
    #: The origin's resolution depends on the label, so it is reduced to `TIGHT_SIDE`.
    tight: bool = False
    #: The bona fide file that a forged one was made from, relative to the data folder. None when unknown.
    paired: str | None = None
    #: The forged file matches `paired` pixel for pixel: both faces are at the same place.
    aligned: bool = False


@dataclass(frozen=True)
class Pooled:
    """One normalised crop: row `row` of the pool's array."""

    row: int
    file: str
    source: str
    origin: str
    label: Label
    technique: Technique | None
    group: str
    split: str
    terms: str
    sha256: str  # of the original file
    #: Left eye, right eye, nose, corners of the mouth, in pixels of the crop.
    landmarks: tuple[tuple[float, float], ...]
    #: Longer side of the face's box, in pixels of the original.
    face_side: float
    #: False when no face was found and the whole picture was used as a tight crop.
    found: bool
    #: The bona fide file that a forged one was made from. None when unknown or bona fide.
    paired: str | None = None


def listed(data: Path, about: Table = SHIPPED) -> Iterator[Listed]:
    """Every picture of every labels.csv in the folders of `data`.

    Raise SetupProblem when there is no such table, or a label is none.
    """
    tables = sorted(data.glob("*/labels.csv"))
    if not tables:
        raise SetupProblem(f"No folder in {data} has a labels.csv.")
    aligned = {kind.forged for kind in about.kinds if kind.aligned}
    for table in tables:
        source = about.source(table.parent.name)
        with table.open(newline="", encoding="utf-8") as lines:
            for number, row in enumerate(csv.DictReader(lines, restval=""), start=2):
                try:
                    yield _listed(source, row, aligned=source.folder in aligned)
                except KeyError as error:
                    raise SetupProblem(f"{table} has no column {error.args[0]}.") from error
                except ValueError as error:
                    raise SetupProblem(f"{table}, row {number}, label: {error}") from error


def _listed(about: Source, row: dict[str, str], *, aligned: bool) -> Listed:
    name = Path(row["file"]).name
    label = Label.told_by(row["label"])
    forged = label is Label.DEEPFAKE
    technique = Technique(row["type"]) if row["type"] in set(Technique) else None
    origin = about.origin(row.get("origin", ""))
    paired = row.get("paired_real") or None
    return Listed(
        file=f"{about.folder}/{row['file']}",
        source=about.folder,
        origin=origin,
        label=label,
        technique=technique,
        group=f"{about.folder}/{row.get('group') or paired or name}",
        terms=about.terms,
        tight=about.is_tight(origin),
        paired=f"{about.folder}/real/{Path(paired).name}" if forged and paired else None,
        aligned=aligned and forged and paired is not None,
    )


def split_of(group: str) -> str:
    """The split of a group. It depends only on the group's name, so it never changes."""
    position = int(hashlib.sha256(group.encode()).hexdigest()[:8], 16) / 2**32
    for split, share in SHARES.items():
        if position < share:
            return split
        position -= share
    return "test"


@dataclass
class Losses:
    """Counts of pictures and losses, by label."""

    duplicates: int = 0
    #: Pictures without a found face, used as tight crops.
    without_face: Counter[str] = field(default_factory=Counter[str])
    pictures: Counter[str] = field(default_factory=Counter[str])


def build_pool(
    data: Path,
    out: Path,
    table: Table = SHIPPED,
    *,
    seed: int = 0,
    limit: int | None = None,
    processes: int = 1,
) -> Losses:
    """Normalise every picture of `data` into `out`, in `processes` processes. A second run starts anew."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = list(listed(data, table))[:limit]
    crops = np.lib.format.open_memmap(
        out / "crops.npy", mode="w+", dtype=np.uint8, shape=(len(pictures), CROP, CROP, 3)
    )
    distinct: dict[str, Listed] = {}
    for picture in pictures:
        distinct.setdefault(hashlib.sha256((data / picture.file).read_bytes()).hexdigest(), picture)
    losses = Losses(duplicates=len(pictures) - len(distinct))
    spawned = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with (
        (out / "pool.jsonl").open("w", encoding="utf-8") as lines,
        spawned.Pool(processes, initializer=_one_thread) as workers,
    ):
        work = partial(_read_and_normalise, data, seed)
        for crop, pooled in workers.imap(work, enumerate(distinct.values()), chunksize=32):
            losses.pictures[pooled.label] += 1
            losses.without_face[pooled.label] += not pooled.found
            crops[pooled.row] = crop
            lines.write(json.dumps(asdict(pooled)) + "\n")
    crops.flush()
    (out / _MADE_OF).write_text(json.dumps({**_as_listed(pictures), **table.digests}, indent=1))
    (out / _OWN).unlink(missing_ok=True)
    if table.own is not None:
        (out / _OWN).write_text(table.own, encoding="utf-8")
    (out / "losses.json").write_text(json.dumps(vars(losses), indent=1))
    return losses


#: Beside a pool: a digest of each source's table as it was read, and a copy of the file of own sources.
_MADE_OF, _OWN = "made_of.json", "own_sources.toml"


def _as_listed(pictures: Iterable[Listed]) -> dict[str, str]:
    """A digest of what is listed of each source: names, labels, techniques, groups, and what its table says."""
    return _digests((picture.source, json.dumps(asdict(picture))) for picture in pictures)


def _digests(rows: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A digest of each source's rows."""
    by_source: dict[str, list[str]] = {}
    for name, words in rows:
        by_source.setdefault(name, []).append(words)
    return {name: hashlib.sha256("\n".join(each).encode()).hexdigest() for name, each in by_source.items()}


def changed_sources(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The sources whose digests differ, in words. Empty when none does."""
    return ", ".join(sorted(name for name in {*before, *now} if before.get(name) != now.get(name)))


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _read_and_normalise(data: Path, seed: int, numbered: tuple[int, Listed]) -> tuple[np.ndarray, Pooled]:
    row, picture = numbered
    twin = (data / picture.paired).read_bytes() if picture.aligned and picture.paired else None
    return normalised((data / picture.file).read_bytes(), picture, row=row, seed=seed, twin=twin)


def normalised(
    content: bytes, picture: Listed, *, row: int, seed: int, twin: bytes | None = None
) -> tuple[np.ndarray, Pooled]:
    """One picture in the pool's normal form. Its face is searched for in `twin` when that is given."""
    digest = hashlib.sha256(content).hexdigest()
    rng = np.random.default_rng([seed, int(digest[:8], 16)])
    decoded = decode_picture(content)
    pixels = decoded.pixels
    if picture.tight:
        pixels = _at_most(pixels, TIGHT_SIDE)
    encoding = Encoding("JPEG", int(rng.integers(*QUALITIES)), subsampling=int(rng.choice([0, 2])))
    pixels = recompressed(pixels, encoding)
    even = Picture(pixels, replace(decoded.facts, width=pixels.shape[1], height=pixels.shape[0]))
    face, found = _face(even if twin is None else decode_picture(twin))
    crop = crop_face(even, face, CROP, MARGIN)
    side = max(face.box.width, face.box.height)
    pooled = Pooled(
        row=row,
        file=picture.file,
        source=picture.source,
        origin=picture.origin,
        label=picture.label,
        technique=picture.technique,
        group=picture.group,
        split=split_of(picture.group),
        terms=picture.terms,
        sha256=digest,
        landmarks=landmarks_in_crop(face),
        face_side=side,
        found=found,
        paired=picture.paired,
    )
    return crop, pooled


def _at_most(pixels: np.ndarray, side: int) -> np.ndarray:
    """Reduce a picture to this longer side, antialiased. Smaller pictures are unchanged."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def largest_face(picture: Picture) -> Face | None:
    """The largest face with landmarks. None when there is none."""
    return next((face for face in find_faces(picture, at_most=1) if face.landmarks is not None), None)


def _face(picture: Picture) -> tuple[Face, bool]:
    """The largest face, or almost the whole picture when none is found: sources hold tight crops."""
    face = largest_face(picture)
    if face is not None:
        return face, True
    height, width = picture.pixels.shape[:2]
    inset = 0.08
    box = Box(width * inset, height * inset, width * (1 - inset), height * (1 - inset))
    return Face(box, 0.0), False


def landmarks_in_crop(face: Face) -> tuple[tuple[float, float], ...]:
    """A face's landmarks in its pooled crop. Those of a canonical face when it has none."""
    box = face.box
    side = MARGIN * max(box.width, box.height)
    left, top = (box.left + box.right - side) / 2, (box.top + box.bottom - side) / 2
    if face.landmarks is None:
        # A canonical face that fills the box.
        scale = max(box.width, box.height) / 112
        points = [(float(x), float(y)) for x, y in CANONICAL * scale + (box.left, box.top)]
    else:
        points = [(point.x, point.y) for point in face.landmarks]
    return tuple(((x - left) * CROP / side, (y - top) * CROP / side) for x, y in points)


@dataclass(frozen=True, eq=False)
class Pool:
    """A built pool, read-only. The crops stay on disk until they are read."""

    crops: np.ndarray  # (N, CROP, CROP, 3) uint8
    rows: tuple[Pooled, ...]
    table: Table = SHIPPED

    def digests(self) -> dict[str, str]:
        """A digest of each source's pictures, labels, techniques and groups, and of each own table."""
        rows = ((row.source, f"{row.sha256} {row.label} {row.technique} {row.group}") for row in self.rows)
        return {**_digests(rows), **self.table.digests}


def open_pool(folder: Path) -> Pool:
    """Open a pool that `build_pool` made. Raise SetupProblem when the folder holds none."""
    table = folder / "pool.jsonl"
    if not table.is_file():
        raise SetupProblem(
            f"{folder} holds no pool: `bonafide dfa instruct --data … --pool {folder}` makes it."
        )
    rows = tuple(_pooled(line) for line in table.read_text(encoding="utf-8").splitlines())
    own = folder / _OWN
    return Pool(
        np.load(folder / "crops.npy", mmap_mode="r"), rows, read_table(own if own.is_file() else None)
    )


def pool_of(
    data: Path, folder: Path, table: Table = SHIPPED, *, processes: int, say: Callable[[], None]
) -> Pool:
    """The pool of these pictures, built unless it is there; `say` is called before it is built.

    Raise SetupProblem when the pool was made of others, or with another table. A pool of an older release does not
    tell of which pictures.
    """
    if not (folder / "losses.json").is_file():
        say()
        build_pool(data, folder, table, processes=processes)
    if table.own is None and (folder / _OWN).is_file():
        raise SetupProblem(
            f"{folder} was made with own sources: give their file again with --sources, or name another pool."
        )
    made_of, before, now = folder / _MADE_OF, dict[str, str](), dict(table.digests)
    if made_of.is_file():
        before, now = json.loads(made_of.read_text()), {**_as_listed(listed(data, table)), **now}
    changed = changed_sources(before, now)
    if changed:
        raise SetupProblem(
            f"{folder} was made before {changed} changed in {data} or in {table.file}: "
            "delete it, or name another pool."
        )
    return open_pool(folder)


def _pooled(line: str) -> Pooled:
    fields = json.loads(line)
    fields["label"] = Label(fields["label"])
    fields["technique"] = Technique(fields["technique"]) if fields["technique"] else None
    fields["landmarks"] = tuple((x, y) for x, y in fields["landmarks"])
    return Pooled(**fields)
