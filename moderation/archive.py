"""Archives: what old cases consist of, written to S3, read back, and only then deleted from Postgres.

An object is gzip of lines of JSON: a manifest, then a line for each case, in the order of ids. Its name holds the first
and the last id. Nothing is lost wherever this is cut off: a case is deleted here in the transaction that says in which
object it lies, after that object was read and compared with the rows themselves; and an object that no case lies in
is known to the database and removed by the next run.
"""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from moderation.database import archive as rows
from moderation.database.archive import Archive
from moderation.database.cases import find_case
from moderation.database.connection import Database
from moderation.database.erasure import erase_case
from moderation.database.events import Link, first_broken, read_chain
from moderation.errors import ArchiveBroken, ArchiveBusy, CaseNotFound, SetupProblem, TransitionRefused
from moderation.settings import Settings
from moderation.storage import Storage

#: Of the object's form. Raised when a reader of before could not read it.
FORMAT = 1
#: Cases of an object. About 10 MB unpacked; what is taken out of it later rewrites that much.
CASES_AT_MOST = 2000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Place:
    """A bucket, and what the names in it begin with."""

    bucket: str
    prefix: str  # without a slash at its end; may be empty

    def key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name


@dataclass(frozen=True)
class Opened:
    """An object that was unpacked and holds what its manifest says."""

    manifest: Mapping[str, Any]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Batch:
    """What became of some cases of one run."""

    #: "s3://BUCKET/KEY". None: nothing was written.
    place: str | None
    cases: int
    #: Bytes of the object, and of its lines unpacked.
    size: int
    unpacked: int
    #: Cases that stay, because their chain of events does not hold: somebody should look.
    broken: tuple[UUID, ...] = ()


def read_place(written: str) -> Place:
    """`BUCKET/PREFIX`, with or without `s3://` before it. Raise SetupProblem."""
    bucket, _, prefix = written.removeprefix("s3://").partition("/")
    if not bucket:
        raise SetupProblem("an archive's place is BUCKET or BUCKET/PREFIX")
    return Place(bucket, prefix.strip("/"))


def pack(lines: Sequence[str], *, schema: str, now: datetime) -> bytes:
    """The object of these lines. The same lines make the same manifest but for the time.

    `schema` is for whoever reads it without us: a line names its columns itself, and comes back by these.
    """
    manifest = {
        "bonafide_archive": FORMAT,
        "schema": schema,
        "cases": len(lines),
        "first": _case_id(lines[0]),
        "last": _case_id(lines[-1]),
        "sha256": digest(lines),
        "made_at": now.isoformat(),
    }
    return gzip.compress("".join(f"{line}\n" for line in (json.dumps(manifest), *lines)).encode(), mtime=0)


def digest(lines: Sequence[str]) -> str:
    """sha256 of the cases' lines, in hexadecimal."""
    whole = hashlib.sha256()
    for line in lines:
        whole.update(f"{line}\n".encode())
    return whole.hexdigest()


def unpack(data: bytes) -> Opened:
    """Raise ArchiveBroken unless the object is whole: count, order, digest and the chain of every case."""
    try:
        first, *lines = gzip.decompress(data).decode().split("\n")[:-1]
        manifest = json.loads(first)
    except (OSError, EOFError, ValueError) as error:
        raise ArchiveBroken(f"this is no archive, or not all of one: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("bonafide_archive") != FORMAT:
        raise ArchiveBroken("this is no archive of a form that is known here")
    if len(lines) != manifest["cases"] or digest(lines) != manifest["sha256"]:
        raise ArchiveBroken(
            f"the manifest speaks of {manifest['cases']} other cases than the {len(lines)} there"
        )
    broken = [line for line in lines if broken_at(line) is not None]
    if broken:
        raise ArchiveBroken(f"the chain of case {_case_id(broken[0])} does not hold")
    return Opened(manifest, tuple(lines))


def broken_at(line: str) -> int | None:
    """The first event of a case's line that is not what was written. None: its chain holds."""
    record = json.loads(line)
    links = (
        Link(
            event["seq"],
            (datetime.fromisoformat(event["at"]) - _EPOCH) // timedelta(microseconds=1),
            event["kind"],
            event["actor"],
            event["body"],
            _bytes(event["previous"]),
            _bytes(event["hash"]),
        )
        for event in record["events"]
    )
    return first_broken(UUID(record["case"]["id"]), links, record["case"]["version"])


def find_line(opened: Opened, case_id: UUID) -> str:
    """The line of a case. Raise CaseNotFound."""
    found = next((line for line in opened.lines if _case_id(line) == str(case_id)), None)
    if found is None:
        raise CaseNotFound(f"case {case_id} is not in this archive")
    return found


def _case_id(line: str) -> str:
    return str(json.loads(line)["case"]["id"])


def _bytes(printed: str) -> bytes:
    """As Postgres prints a bytea in JSON."""
    return bytes.fromhex(printed.removeprefix("\\x"))


class Archives:
    """Moves old cases out and back. One of these works on a database at a time."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        settings: Settings,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._storage = storage
        self._retention = settings.retention_days
        self._keep_hashes = settings.keep_hashes
        self._clock = clock

    def count(self, decided_before: datetime, *, limit: int | None = None) -> int:
        """How many cases `archive` would take."""
        found, after = 0, None
        while limit is None or found < limit:
            ids = self._next(decided_before, after, 10_000 if limit is None else min(10_000, limit - found))
            if not ids:
                break
            found, after = found + len(ids), ids[-1]
        return found

    def archive(
        self, place: Place, decided_before: datetime, *, limit: int | None = None, batch: int = CASES_AT_MOST
    ) -> Iterator[Batch]:
        """Move decided cases out, oldest first; one Batch for each object.

        First what earlier runs left over is removed, and archived cases whose retention is over are erased. Raise
        ArchiveBusy while another archiver works, ArchiveBroken when storage does not give back what it was given.
        """
        with rows.only_archiver(self._database):
            self._remove_leftovers()
            self._erase_past()
            left, after = limit, None
            while left is None or left > 0:
                ids = self._next(decided_before, after, batch if left is None else min(batch, left))
                if not ids:
                    return
                done = self._archive(place, ids)
                after = ids[-1]
                left = None if left is None else left - len(ids)
                yield done

    def read(self, place: Place) -> Opened:
        """Unpack an object and verify it. Raise ArchiveBroken."""
        return unpack(self._storage.read_archive(place.bucket, place.prefix))

    def restore(self, case_id: UUID) -> None:
        """Bring an archived case back as it was. Raise CaseNotFound, TransitionRefused or ArchiveBroken."""
        with rows.only_archiver(self._database):
            self._remove_leftovers()
            self._take_out(self._archive_of(case_id), [case_id], erase_as=None)

    def erase(self, case_id: UUID, *, actor: str) -> None:
        """Erase an archived case: bring it back, write its object anew without it, erase it here.

        The next `archive` takes it again, erased. Raise as `restore` does, and TransitionRefused when it is back but a
        platform is still to be told of it.
        """
        with rows.only_archiver(self._database):
            self._remove_leftovers()
            if self._take_out(self._archive_of(case_id), [case_id], erase_as=actor):
                raise TransitionRefused(
                    f"case {case_id} is back from its archive and not erased: a webhook about it is still to be sent"
                )

    # --- out

    def _next(self, decided_before: datetime, after: UUID | None, limit: int) -> list[UUID]:
        with self._database.transaction() as session:
            return rows.cases_to_archive(
                session,
                decided_before,
                erased_first=[source for source, _ in self._retention],
                after=after,
                limit=limit,
            )

    def _archive(self, place: Place, ids: Sequence[UUID]) -> Batch:
        with self._database.transaction() as session:
            lines = rows.read_records(session, ids)
        broken = tuple(UUID(_case_id(line)) for line in lines if broken_at(line) is not None)
        if broken:
            ids = [case_id for case_id in ids if case_id not in broken]
            lines = [line for line in lines if UUID(_case_id(line)) not in broken]
        if not lines:
            return Batch(None, 0, 0, 0, broken)
        archive_id, where, size = self._write(place, lines)
        with self._database.transaction() as session:
            # What was read back is what lies here, still: a case that was appealed or erased meanwhile is neither.
            unchanged = rows.lock_cases(session, ids) and rows.read_records(session, ids) == lines
            if unchanged:
                rows.move_into_archive(session, archive_id, ids)
        if not unchanged:
            self._remove_leftovers()
            return Batch(None, 0, 0, 0, broken)
        return Batch(where, len(ids), size, sum(len(line) + 1 for line in lines), broken)

    def _write(self, place: Place, lines: Sequence[str]) -> tuple[int, str, int]:
        """Write an object, read it back and compare; return its id, its place and its bytes."""
        with self._database.transaction() as session:
            schema = rows.schema_revision(session)
        data, sha256 = pack(lines, schema=schema, now=self._clock()), digest(lines)
        key = place.key(f"{_case_id(lines[0])}_{_case_id(lines[-1])}_{sha256[:8]}.jsonl.gz")
        with self._database.transaction() as session:
            archive_id = rows.begin_archive(
                session, place.bucket, key, cases=len(lines), size=len(data), sha256=sha256
            )
        self._storage.put_archive(place.bucket, key, data)
        if unpack(self._storage.read_archive(place.bucket, key)).lines != tuple(lines):
            raise ArchiveBroken(f"s3://{place.bucket}/{key} does not hold what was written to it")
        return archive_id, f"s3://{place.bucket}/{key}", len(data)

    # --- back

    def _archive_of(self, case_id: UUID) -> Archive:
        with self._database.transaction() as session:
            if find_case(session, case_id) is None:
                raise CaseNotFound(f"no case has the id {case_id}")
            found = rows.archive_of(session, case_id)
        if found is None:
            raise TransitionRefused(f"case {case_id} is not archived")
        return found

    def _take_out(self, archive: Archive, ids: Sequence[UUID], *, erase_as: str | None) -> list[UUID]:
        """Bring cases of one object back; the others lie in a new object without them, and the old one is removed.

        With `erase_as` they are erased; return those that cannot be yet, because something about them waited for an
        endpoint that was enabled since.
        """
        opened = unpack(self._storage.read_archive(archive.bucket, archive.key))
        if digest(opened.lines) != archive.sha256:
            raise ArchiveBroken(f"s3://{archive.bucket}/{archive.key} is another object than was written")
        lines = {UUID(_case_id(line)): line for line in opened.lines}
        missing = [case_id for case_id in ids if case_id not in lines]
        if missing:
            raise CaseNotFound(f"case {missing[0]} is not in this archive")
        wanted = {case_id: lines.pop(case_id) for case_id in ids}
        others = list(lines.values())
        folder = archive.key.rpartition("/")[0]
        new_id = self._write(Place(archive.bucket, folder), others)[0] if others else None
        kept: list[UUID] = []
        with self._database.transaction() as session:
            for case_id, line in wanted.items():
                if not rows.restore_case(session, line):
                    raise ArchiveBusy(f"case {case_id} was brought back meanwhile")
                if read_chain(session, case_id).broken_at is not None:
                    raise ArchiveBroken(f"the chain of case {case_id} does not come back as it was")
                if erase_as is not None and not erase_case(
                    session, case_id, actor=erase_as, keep_hash=self._keep_hashes
                ):
                    kept.append(case_id)
            if new_id is None:
                rows.abandon_archive(session, archive.id)
            else:
                rows.replace_archive(session, archive, new_id)
        self._remove_leftovers()
        return kept

    def _erase_past(self) -> None:
        """Erase archived cases whose retention is over: for a retention that was set after they had left."""
        while True:
            with self._database.transaction() as session:
                found = rows.archive_past(session, self._retention)
            if found is None:
                return
            archive, ids = found
            self._take_out(archive, ids, erase_as="archiver")

    def _remove_leftovers(self) -> None:
        while True:
            # Locked while the object is removed: whoever believes to be finishing it waits, and then finds it gone.
            with self._database.transaction() as session:
                leftover = rows.lock_leftover(session)
                if leftover is None:
                    return
                self._storage.remove_archive(leftover.bucket, leftover.key)
                rows.forget_archive(session, leftover.id)
