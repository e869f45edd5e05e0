"""Archives: the records of old cases are written to S3, read back, and only then deleted from Postgres.

An object is gzip of lines of JSON: a manifest, then a line for each case, in the order of ids. Its name holds the first
and the last id. Nothing is lost when this is cut off at any point. One transaction deletes a case and notes its object,
after the object was read and compared with the rows. The database knows objects without cases, and the next run removes
them.
"""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from moderation.archive import archived as rows
from moderation.archive.archived import Archive
from moderation.archive.erasure import erase_case
from moderation.database.cases import require_case
from moderation.database.connection import Database
from moderation.database.events import Link, first_broken, read_chain
from moderation.errors import ArchiveBroken, ArchiveBusy, CaseNotFound, SetupProblem, TransitionRefused
from moderation.settings import Settings
from moderation.storage import Storage

#: Version of the object's format. It rises when an older reader could not read the new one.
FORMAT = 1
#: Cases of an object, about 10 MB unpacked. Taking a case out later rewrites the whole object.
CASES_AT_MOST = 2000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class ArchivePlace:
    """A bucket, and the prefix of names in it."""

    bucket: str
    prefix: str  # without a slash at its end; may be empty

    def key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name


@dataclass(frozen=True)
class Opened:
    """An unpacked object that agrees with its manifest."""

    manifest: Mapping[str, Any]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class ArchivedBatch:
    """The result for some cases of one run."""

    #: "s3://BUCKET/KEY". None: nothing was written.
    place: str | None
    cases: int
    #: Bytes of the object, and of its unpacked lines.
    size: int
    unpacked: int
    #: Cases that stay because their chain of events is broken. An engineer should look.
    broken: tuple[UUID, ...] = ()


def read_place(written: str) -> ArchivePlace:
    """Read `BUCKET/PREFIX`, with or without `s3://` in front. Raise SetupProblem."""
    bucket, _, prefix = written.removeprefix("s3://").partition("/")
    if not bucket:
        raise SetupProblem("an archive's place is BUCKET or BUCKET/PREFIX")
    return ArchivePlace(bucket, prefix.strip("/"))


def pack(lines: Sequence[str], *, schema: str, now: datetime) -> bytes:
    """The object of these lines. The same lines give the same manifest, except for the time.

    `schema` is for readers without this program. A line names its own columns and is restored by them.
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
    """Unpack an object. Raise ArchiveBroken unless count, order, digest and every case's chain are right."""
    try:
        first, *lines = gzip.decompress(data).decode().split("\n")[:-1]
        manifest = json.loads(first)
    except (OSError, EOFError, ValueError) as error:
        raise ArchiveBroken(f"this is no archive, or an incomplete one: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("bonafide_archive") != FORMAT:
        raise ArchiveBroken("this archive has an unknown format")
    if len(lines) != manifest["cases"] or digest(lines) != manifest["sha256"]:
        raise ArchiveBroken(f"the manifest names {manifest['cases']} other cases than the {len(lines)} there")
    broken = [line for line in lines if broken_at(line) is not None]
    if broken:
        raise ArchiveBroken(f"the chain of case {_case_id(broken[0])} does not hold")
    return Opened(manifest, tuple(lines))


def broken_at(line: str) -> int | None:
    """The place of the first changed event in a case's line. None: its chain holds."""
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
    """Bytes from the form in which Postgres prints a bytea in JSON."""
    return bytes.fromhex(printed.removeprefix("\\x"))


class Archives:
    """Moves old cases out and back. Only one works on a database at a time."""

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
        return sum(map(len, self._pages(decided_before, limit, 10_000)))

    def archive(
        self,
        place: ArchivePlace,
        decided_before: datetime,
        *,
        limit: int | None = None,
        batch: int = CASES_AT_MOST,
    ) -> Iterator[ArchivedBatch]:
        """Move decided cases out, oldest first; one ArchivedBatch for each object.

        First it removes objects that earlier runs left over, and erases archived cases whose retention is over. Raise
        ArchiveBusy while another archiver works, ArchiveBroken when storage does not return what was written.
        """
        with rows.only_archiver(self._database):
            self._remove_leftovers()
            self._erase_past()
            for ids in self._pages(decided_before, limit, batch):
                yield self._archive(place, ids)

    def read(self, place: ArchivePlace) -> Opened:
        """Unpack an object and verify it. Raise ArchiveBroken."""
        return unpack(self._storage.read_archive(place.bucket, place.prefix))

    def restore(self, case_id: UUID) -> None:
        """Restore an archived case exactly. Raise CaseNotFound, TransitionRefused or ArchiveBroken."""
        with rows.only_archiver(self._database):
            self._remove_leftovers()
            self._take_out(self._archive_of(case_id), [case_id], erase_as=None)

    def erase(self, case_id: UUID, *, actor: str) -> None:
        """Erase an archived case: restore it, rewrite its object without it, then erase it.

        The next `archive` moves it out again, erased. Raise as `restore` does, and TransitionRefused when the case is
        restored but a webhook about it is not sent yet.
        """
        with rows.only_archiver(self._database):
            self._remove_leftovers()
            if self._take_out(self._archive_of(case_id), [case_id], erase_as=actor):
                raise TransitionRefused(
                    f"case {case_id} is restored and not erased: a webhook about it is not sent yet"
                )

    # --- out

    def _pages(self, decided_before: datetime, limit: int | None, size: int) -> Iterator[list[UUID]]:
        """The cases that may leave, `size` at a time and `limit` at most."""
        first_erased = [source for source, _ in self._retention]
        left, after = limit, None
        while left is None or left > 0:
            most = size if left is None else min(size, left)
            with self._database.transaction() as session:
                ids = rows.cases_to_archive(
                    session, decided_before, erased_first=first_erased, after=after, limit=most
                )
            if not ids:
                return
            yield ids
            after = ids[-1]
            left = None if left is None else left - len(ids)

    def _archive(self, place: ArchivePlace, ids: Sequence[UUID]) -> ArchivedBatch:
        with self._database.transaction() as session:
            lines = rows.read_records(session, ids)
        broken = tuple(UUID(_case_id(line)) for line in lines if broken_at(line) is not None)
        if broken:
            ids = [case_id for case_id in ids if case_id not in broken]
            lines = [line for line in lines if UUID(_case_id(line)) not in broken]
        if not lines:
            return ArchivedBatch(None, 0, 0, 0, broken)
        archive_id, where, size = self._write(place, lines)
        with self._database.transaction() as session:
            # The rows still equal what was read back. A case that was appealed or erased in between differs.
            unchanged = rows.lock_cases(session, ids) and rows.read_records(session, ids) == lines
            if unchanged:
                rows.move_into_archive(session, archive_id, ids)
        if not unchanged:
            self._remove_leftovers()
            return ArchivedBatch(None, 0, 0, 0, broken)
        return ArchivedBatch(where, len(ids), size, sum(len(line) + 1 for line in lines), broken)

    def _write(self, place: ArchivePlace, lines: Sequence[str]) -> tuple[int, str, int]:
        """Write an object, read it back and compare. Return its id, its place and its size."""
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
            require_case(session, case_id)
            found = rows.archive_of(session, case_id)
        if found is None:
            raise TransitionRefused(f"case {case_id} is not archived")
        return found

    def _take_out(self, archive: Archive, ids: Sequence[UUID], *, erase_as: str | None) -> list[UUID]:
        """Restore cases of one object. The other cases go into a new object, and the old one is removed.

        With `erase_as` the restored cases are erased. Return those that cannot be erased yet, because a webhook waits
        for an endpoint that was enabled again.
        """
        opened = unpack(self._storage.read_archive(archive.bucket, archive.key))
        if digest(opened.lines) != archive.sha256:
            raise ArchiveBroken(f"s3://{archive.bucket}/{archive.key} is not the object that was written")
        lines = {UUID(_case_id(line)): line for line in opened.lines}
        missing = [case_id for case_id in ids if case_id not in lines]
        if missing:
            raise CaseNotFound(f"case {missing[0]} is not in this archive")
        wanted = {case_id: lines.pop(case_id) for case_id in ids}
        others = list(lines.values())
        folder = archive.key.rpartition("/")[0]
        new_id = self._write(ArchivePlace(archive.bucket, folder), others)[0] if others else None
        kept: list[UUID] = []
        with self._database.transaction() as session:
            for case_id, line in wanted.items():
                if not rows.restore_case(session, line):
                    raise ArchiveBusy(f"case {case_id} was restored just now")
                if read_chain(session, case_id).broken_at is not None:
                    raise ArchiveBroken(f"the chain of case {case_id} is not the same after the restore")
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
        """Erase archived cases whose retention is over: it was set after they had left."""
        while True:
            with self._database.transaction() as session:
                found = rows.archive_past(session, self._retention)
            if found is None:
                return
            archive, ids = found
            self._take_out(archive, ids, erase_as="archiver")

    def _remove_leftovers(self) -> None:
        while True:
            # Locked while the object is removed: a run that still wants to finish it waits, and then finds it gone.
            with self._database.transaction() as session:
                leftover = rows.lock_leftover(session)
                if leftover is None:
                    return
                self._storage.remove_archive(leftover.bucket, leftover.key)
                rows.forget_archive(session, leftover.id)
