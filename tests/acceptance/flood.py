"""A thousand mixed pictures through the real system, and what became of each.

    python -m tests.acceptance.flood --count 1000 --faults [--json]

Every accepted case must end ready, with a verdict or with the one reason its kind deserves; none lost, none twice.
`--faults` kills the worker with SIGKILL and restarts the broker with nothing saved, half way.
"""

import argparse
import io
import json
import random
import signal
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from moderation.cases import ImageRef
from moderation.client import BonaFide
from moderation.database.connection import Database
from moderation.database.events import read_chain
from moderation.local import (
    BUCKET,
    Stack,
    System,
    scratch_folder,
    start_system,
    start_worker,
    wait_for_worker,
)
from moderation.settings import Settings
from moderation.storage import Storage

#: What a kind may end as: a verdict, a refusal's code, or a refusal at the door.
VERDICT = "verdict"


@dataclass(frozen=True)
class Kind:
    name: str
    #: Of a thousand.
    share: int
    ends_as: str
    #: The bytes, or None when nothing is put into the store.
    make: Callable[[random.Random], bytes | None]


@dataclass(frozen=True)
class Item:
    kind: Kind
    image: ImageRef


@dataclass(frozen=True)
class Report:
    submitted: int
    accepted: int
    refused_at_the_door: int
    #: Accepted, and not ready with what its kind deserves.
    wrong: list[str]
    lost: int
    duplicated: int
    chains_broken: int
    reused: int
    killed: int
    seconds: float
    ends: dict[str, dict[str, int]]


def portrait(chance: random.Random) -> bytes:
    """A face that no other item has: a shipped portrait, cropped and re-encoded a little differently."""
    name = chance.choice(["portrait-1.jpg", "portrait-2.jpg", "portrait-3.jpg"])
    with Image.open(io.BytesIO(files("moderation").joinpath("samples", name).read_bytes())) as picture:
        width, height = picture.size
        box = (
            chance.randrange(8),
            chance.randrange(8),
            width - chance.randrange(8),
            height - chance.randrange(8),
        )
        return _jpeg(picture.crop(box), quality=chance.randrange(60, 96))


def landscape(chance: random.Random) -> bytes:
    """A picture without a face: two colours and a sun."""
    picture = Image.new("RGB", (200, 150), tuple(chance.randrange(256) for _ in range(3)))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 100, 200, 150), fill=tuple(chance.randrange(256) for _ in range(3)))
    at = chance.randrange(160)
    pen.ellipse((at, 10, at + 30, 40), fill="yellow")
    return _jpeg(picture, quality=chance.randrange(60, 96))


def truncated(chance: random.Random) -> bytes:
    whole = portrait(chance)
    return whole[: len(whole) // chance.randrange(2, 5)]


def bomb(chance: random.Random) -> bytes:
    """A PNG of 12,000 × 12,000 pixels in half a megabyte, made without ever holding its pixels."""
    side = 12_000
    packer = zlib.compressobj(1)
    row = b"\0" + bytes(side)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    comment = b"n\0" + str(chance.random()).encode()
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(name, body)
        for name, body in ((b"IHDR", header), (b"tEXt", comment), (b"IDAT", pixels), (b"IEND", b""))
    )


def huge(chance: random.Random) -> bytes:
    """Forty megabytes: a portrait with a long tail."""
    return portrait(chance) + bytes(40 * 2**20)


KINDS = (
    Kind("portrait", 250, VERDICT, portrait),
    Kind("no face", 150, VERDICT, landscape),
    Kind("duplicate", 200, VERDICT, lambda chance: portrait(random.Random(chance.randrange(5)))),
    Kind("noise", 30, VERDICT, lambda chance: _jpeg(_noise(chance), quality=70)),
    Kind("truncated", 80, "image_corrupt", truncated),
    Kind("bomb", 18, "too_many_pixels", bomb),
    Kind("40 MB", 2, "image_too_large", huge),
    Kind("text", 80, "not_an_image", lambda chance: f"hello {chance.random()}".encode()),
    Kind("html", 50, "not_an_image", lambda chance: f"<!doctype html><p>{chance.random()}".encode()),
    Kind("empty", 40, "not_an_image", lambda chance: b""),
    Kind("missing", 60, "image_missing", lambda chance: None),
    Kind("wrong bucket", 40, "bucket_not_allowed", lambda chance: None),
)


def flood(system: System, *, count: int, faults: bool, seed: int = 0, timeout: float = 600) -> Report:
    """Submit `count` items by the batch call, disturb the system if asked, wait for the end and audit it."""
    started = time.monotonic()
    settings = _settings(system)
    items = list(_items(Storage(settings), count, random.Random(seed)))
    with BonaFide(system.url, system.key, tries=10) as client:
        bodies: list[Mapping[str, Any]] = [
            {"image": item.image, "external_id": f"flood-{seed}-{index}"} for index, item in enumerate(items)
        ]
        outcomes = list(client.submit_many(bodies))
    accepted = {outcome.case.id: item for outcome, item in zip(outcomes, items, strict=True) if outcome.case}
    refused = Counter(o.problem.code for o in outcomes if o.problem)
    database = Database(settings.database_url.get_secret_value())
    killed = _disturb(system, database, len(accepted)) if faults else 0
    _wait(database, len(accepted), timeout)
    report = _audit(database, accepted, refused, killed, started)
    database.close()
    return report


def _items(storage: Storage, count: int, chance: random.Random) -> Iterator[Item]:
    kinds = [kind for kind in KINDS for _ in range(max(1, round(kind.share * count / 1000)))]
    chance.shuffle(kinds)
    for index, kind in enumerate(kinds[:count]):
        bucket = "elsewhere" if kind.ends_as == "bucket_not_allowed" else BUCKET
        image = ImageRef(bucket, f"flood/{index:05d}.jpg")
        data = kind.make(chance)
        if data is not None:
            storage.put_image(image.key, data, "image/jpeg")
        yield Item(kind, image)


def _disturb(system: System, database: Database, expected: int) -> int:
    """At a third, SIGKILL of the worker. At two thirds, of the broker, which saved nothing, and the worker again."""
    _wait(database, expected // 3, 300)
    system.stack.stop_process("worker", signal.SIGKILL)
    start_worker(system.stack, system.env)
    wait_for_worker(system.stack)
    _wait(database, expected * 2 // 3, 300)
    port = urlsplit(system.env["BONAFIDE_BROKER_URL"]).port
    system.stack.stop_process("valkey", signal.SIGKILL)
    system.stack.start_valkey(port)
    system.stack.stop_process("worker", signal.SIGKILL)
    start_worker(system.stack, system.env)
    wait_for_worker(system.stack)
    return 2


def _wait(database: Database, at_least: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        with database.transaction() as session:
            ready = session.scalar(text("SELECT count(*) FROM cases WHERE state = 'ready'")) or 0
        if ready >= at_least:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{ready} of {at_least} cases are ready after {timeout:.0f} seconds")
        time.sleep(0.2)


_ENDS = text("""
    SELECT c.id, c.state, c.refusal_code, count(a.id) AS analyses, count(a.reused_from) AS reused,
           (SELECT count(*) FROM events e WHERE e.case_id = c.id AND e.kind IN ('analyzed', 'refused')) AS ends
    FROM cases c LEFT JOIN analyses a ON a.case_id = c.id GROUP BY c.id
""")


def _audit(
    database: Database, accepted: Mapping[UUID, Item], refused: Counter[str], killed: int, started: float
) -> Report:
    with database.transaction() as session:
        rows = {row.id: row for row in session.execute(_ENDS)}
        broken = sum(read_chain(session, case_id).broken_at is not None for case_id in accepted)
    ends: dict[str, Counter[str]] = {}
    wrong: list[str] = []
    for case_id, item in accepted.items():
        row = rows[case_id]
        end = row.refusal_code or (VERDICT if row.analyses else "nothing")
        ends.setdefault(item.kind.name, Counter())[end] += 1
        if (row.state, end) != ("ready", item.kind.ends_as):
            wrong.append(f"{item.kind.name} {case_id}: {row.state}, {end}")
    for code, number in refused.items():
        ends.setdefault("at the door", Counter())[code] += number
    return Report(
        submitted=len(accepted) + refused.total(),
        accepted=len(accepted),
        refused_at_the_door=refused.total(),
        wrong=wrong,
        lost=sum(row.state != "ready" for row in rows.values()) + len(accepted.keys() - rows.keys()),
        duplicated=sum(row.analyses > 1 or row.ends > 1 for row in rows.values())
        + len(rows.keys() - accepted.keys()),
        chains_broken=broken,
        reused=sum(row.reused for row in rows.values()),
        killed=killed,
        seconds=time.monotonic() - started,
        ends={kind: dict(counter) for kind, counter in sorted(ends.items())},
    )


def _settings(system: System) -> Settings:
    return Settings.model_validate(
        {name.removeprefix("BONAFIDE_").lower(): value for name, value in system.env.items()}
    )


def _noise(chance: random.Random) -> Image.Image:
    grain = np.random.default_rng(chance.randrange(2**32)).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    return Image.fromarray(grain)


def _jpeg(picture: Image.Image, *, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


#: Short leases, so that what a killed worker held comes back within seconds.
QUICK = {
    "BONAFIDE_LEASE_SECONDS": "6",
    "BONAFIDE_SWEEP_SECONDS": "0.5",
    "BONAFIDE_PUBLISH_AGAIN_SECONDS": "3",
    "BONAFIDE_DEVICE": "cpu",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with scratch_folder() as folder, Stack(folder) as stack:
        system = start_system(stack, overrides=QUICK)
        report = flood(system, count=asked.count, faults=asked.faults, seed=asked.seed)
    if asked.json:
        print(json.dumps(vars(report)))
        return
    table = Table("kind", "ended as", "count", title=f"{report.submitted} pictures in {report.seconds:.0f} s")
    for kind, counter in report.ends.items():
        for end, number in counter.items():
            table.add_row(kind, end, str(number))
    console = Console()
    console.print(table)
    console.print(
        f"accepted {report.accepted}, refused at the door {report.refused_at_the_door}, lost {report.lost}, "
        f"duplicated {report.duplicated}, wrong {len(report.wrong)}, broken chains {report.chains_broken}, "
        f"reused {report.reused}, worker killed {report.killed} times"
    )


if __name__ == "__main__":
    main()
