"""Exports: decisions, analyses, reviewers' answers, erasures, as streamed JSON lines, CSV or Parquet.

Feedback as JSON lines is ready for DFA-Instruct: LLaVA conversations about faces, with answers that people agreed to.
Reviewers are named by id, never by name or email.
"""

import codecs
import csv
import enum
import io
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from importlib.resources import files
from itertools import islice
from typing import Any, BinaryIO, Literal
from uuid import UUID

from sqlalchemy import TextClause

from moderation.analysis import Label, Technique
from moderation.database.connection import Database
from moderation.decisions import Answer, Outcome
from moderation.errors import SetupProblem
from moderation.evidence.sentences import disclosed, sentence
from moderation.evidence.words import ClaimedOrigin, Strength, conflicts, fact_from_json
from moderation.presentation import effect_from_json, effect_json
from moderation.reports import export_rows as queries

Row = Mapping[str, Any]
ColumnKind = Literal["text", "number", "whole", "boolean", "time"]


class What(enum.StrEnum):
    DECISIONS = "decisions"
    ANALYSES = "analyses"
    #: One row for each fact beside a verdict, in the order of cases.
    EVIDENCE = "evidence"
    #: As JSON lines: conversations for training. Otherwise: one row for each artifact that a reviewer answered.
    FEEDBACK = "feedback"
    #: One row for each case that was erased or taken back in the period: `bonafide erase --from` redoes them.
    ERASURES = "erasures"


class Format(enum.StrEnum):
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


#: Rows in a group of a Parquet file. So many are held in memory.
PARQUET_ROWS = 10_000

#: Columns of each table, in order.
COLUMNS: Mapping[What, tuple[str, ...]] = {
    What.DECISIONS: (
        *("decision", "case", "source", "external_id", "stage", "outcome", "technique", "reason", "policy"),
        *("reviewer", "verdict", "verdict_technique", "score", "calibrated", "bundle", "fingerprint"),
        *("blind_outcome", "blind_technique", "saw_verdict_first", "seconds"),
        *("created_at", "final_at", "undone_at", "supersedes", "appealed"),
    ),
    What.ANALYSES: (
        *("analysis", "case", "source", "external_id", "bundle", "fingerprint", "label", "score", "margin"),
        *("answer_mass", "calibrated", "technique", "abstain", "faces", "artifacts", "image_sha256"),
        *("format", "width", "height", "size", "reused_from", "created_at", "faces_found", "faces_judged"),
    ),
    What.EVIDENCE: (
        *("case", "source", "external_id", "kind", "status", "strength", "points_to", "says", "disclosable"),
        *("data", "declared", "label", "conflict", "gatherer", "created_at"),
    ),
    What.FEEDBACK: (
        *("decision", "case", "analysis", "face", "ordinal", "heading", "regions", "text", "answer"),
        *("outcome", "technique", "verdict", "blind_outcome", "bundle", "fingerprint", "created_at"),
        *("score_without", "margin_fall", "control_score", "control_fall", "supported"),
    ),
    What.ERASURES: ("case", "withdrawn_at", "erased_at"),
}

#: Columns that are not text.
KINDS: Mapping[str, ColumnKind] = {
    **dict.fromkeys(("score", "seconds", "margin", "answer_mass"), "number"),
    **dict.fromkeys(("score_without", "margin_fall", "control_score", "control_fall"), "number"),
    **dict.fromkeys(
        ("faces", "faces_found", "faces_judged", "artifacts", "width", "height", "size", "face", "ordinal"),
        "whole",
    ),
    **dict.fromkeys(("calibrated", "saw_verdict_first", "appealed", "conflict", "supported"), "boolean"),
    **dict.fromkeys(("created_at", "final_at", "undone_at", "withdrawn_at", "erased_at"), "time"),
}

_QUERIES: Mapping[What, TextClause] = {
    What.DECISIONS: queries.DECISIONS,
    What.ANALYSES: queries.ANALYSES,
    What.EVIDENCE: queries.EVIDENCE,
    What.FEEDBACK: queries.ANSWERS,
    What.ERASURES: queries.ERASURES,
}


def export(
    database: Database,
    what: What,
    form: Format,
    out: BinaryIO,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    mark: bool = False,
) -> int:
    """Write the rows made from `since` to before `until`; return their number.

    `mark` puts a byte-order mark before CSV: without it Excel reads UTF-8 in the machine's code page.
    Raise SetupProblem for Parquet without the extra `export`.
    """
    if form is Format.PARQUET:
        with queries.stream(database, _QUERIES[what], since=since, until=until) as rows:
            return _write_parquet(_completed(what, rows), COLUMNS[what], out)
    if mark and form is Format.CSV:
        out.write(codecs.BOM_UTF8)
    written = 0
    for line in _lines(database, what, form, since=since, until=until):
        out.write(line)
        written += 1
    return written - (form is Format.CSV)


def _lines(
    database: Database,
    what: What,
    form: Literal[Format.JSONL, Format.CSV],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Iterator[bytes]:
    """The output line by line. CSV begins with its header."""
    conversing = (what, form) == (What.FEEDBACK, Format.JSONL)
    query = queries.LABELLED if conversing else _QUERIES[what]
    with queries.stream(database, query, since=since, until=until) as found:
        rows = _completed(what, found)
        if conversing:
            for row in rows:
                wording = read_wording(row["prompts"] or UNTOLD)
                yield from map(_json_line, conversations(row, wording))
        elif form is Format.JSONL:
            yield from (_json_line({name: row[name] for name in COLUMNS[what]}) for row in rows)
        else:
            yield _csv_line(COLUMNS[what])
            yield from (_csv_line([row[name] for name in COLUMNS[what]]) for row in rows)


def _completed(what: What, rows: Iterator[Row]) -> Iterator[Row]:
    """Add what the database does not hold: sentences of evidence, and whether an effect supports its artifact."""
    added = {What.EVIDENCE: _fact_row, What.FEEDBACK: _feedback_row}.get(what)
    return rows if added is None else map(added, rows)


def _feedback_row(row: Row) -> Row:
    """The row of one answered artifact. A training case holds several and is completed one by one."""
    return row if "score_without" not in row else {**row, "supported": _supported(row)}


def _supported(measured: Row) -> bool | None:
    """Whether the score depends on the region. None: it was not measured."""
    effect = None if measured["score_without"] is None else effect_from_json(measured)
    return effect and effect.supported


def _fact_row(row: Row) -> Row:
    fact = fact_from_json(row["fact"])
    origin = row["declared"] and ClaimedOrigin(row["declared"])
    strength = row["declared_strength"] and Strength(row["declared_strength"])
    label = row["label"] and Label(row["label"])
    return {
        **row,
        "says": sentence(fact),
        "disclosable": disclosed(fact),
        "data": json.dumps(row["fact"]["data"], ensure_ascii=False, sort_keys=True),
        "conflict": conflicts(origin, strength, label),
    }


def _json_line(record: Row) -> bytes:
    return json.dumps(record, default=_plain, ensure_ascii=False).encode() + b"\n"


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not exported")


def _csv_line(values: Iterable[Any]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow([_cell(value) for value in values])
    return line.getvalue().encode()


#: Where a spreadsheet begins to read a formula: at the start of a cell or of a line, or after `;` or a tab where these
#: separate cells, as in half of Europe. White space and a quote in front are ignored. Full-width forms of the signs
#: count too. OWASP, "CSV Injection".
_FORMULA = re.compile(r"""(^|[;\t\r\n])([\s"']*)(?=[=+\-@＝＋－＠])""")


def _cell(value: Any) -> Any:
    """A cell that a spreadsheet reads as text: an apostrophe is put before what looks like a formula.

    Anybody may have written a platform's id or a reviewer's reason.
    """
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        text = _FORMULA.sub(r"\1\2'", value)
        return f"'{text}" if text.startswith(("\t", "\r", "\n")) else text
    return value


def _write_parquet(rows: Iterator[Row], columns: tuple[str, ...], out: BinaryIO) -> int:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise SetupProblem("Parquet needs pyarrow: pip install 'bonafide-moderation[export]'") from error
    types = {
        "text": arrow.string(),
        "number": arrow.float64(),
        "whole": arrow.int64(),
        "boolean": arrow.bool_(),
        "time": arrow.timestamp("us", tz="UTC"),
    }
    schema = arrow.schema([(name, types[KINDS.get(name, "text")]) for name in columns])
    written = 0
    with parquet.ParquetWriter(out, schema, compression="zstd") as writer:
        while group := list(islice(rows, PARQUET_ROWS)):
            values = [[_arrow(row[name]) for row in group] for name in columns]
            arrays = [arrow.array(column, field.type) for column, field in zip(values, schema, strict=True)]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
            written += len(group)
    return written


def _arrow(value: Any) -> Any:
    return str(value) if isinstance(value, UUID) else value


# --- conversations for training


@dataclass(frozen=True)
class Wording:
    """A prompt set's questions and answers, as the model is served and trained with them."""

    version: int
    image: str
    detection: str
    #: Its two answers: a deepfake, and bona fide.
    yes: str
    no: str
    classification: str
    techniques: Mapping[Technique, str]
    description: str
    line: str
    none: str


#: The prompt set of a bundle whose workers did not report one: older releases had only this.
UNTOLD = 1


@lru_cache(maxsize=8)
def read_wording(version: int) -> Wording:
    """The served questions of a prompt set. It is read as data, without the model's code.

    Raise SetupProblem when this release does not have it.
    """
    file = files("moderation").joinpath(f"dfa/gpt/prompts/{version}.toml")
    if not file.is_file():
        raise SetupProblem(
            f"a case was analysed with prompt set {version}, which this release does not have: export with the release "
            "of its workers"
        )
    raw = tomllib.loads(file.read_text(encoding="utf-8"))
    detection, classification, description = raw["detection"], raw["classification"], raw["description"]
    return Wording(
        version=raw["version"],
        image=raw["chat"]["image"],
        detection=detection["questions"][0],
        yes=detection["answer"].format(word=detection["yes"]),
        no=detection["answer"].format(word=detection["no"]),
        classification=classification["questions"][0],
        techniques={Technique(name): words for name, words in classification["answers"].items()},
        description=description["questions"][0],
        line=description["line"],
        none=description["none"],
    )


def conversations(row: Row, wording: Wording) -> Iterator[dict[str, Any]]:
    """One LLaVA record for each face whose label the decision settles.

    A bona fide decision settles all faces. A deepfake decision settles the face whose artifacts the reviewer agreed to,
    the only face, or the face that both the model and the reviewer call forged. Otherwise nobody said which face it is.
    """
    faces: list[dict[str, Any]] = row["faces"]
    deepfake = row["outcome"] == Outcome.DEEPFAKE
    agreed: dict[int, list[tuple[str, str]]] = {}
    for said in row["answers"]:
        if said["answer"] == Answer.AGREE:
            agreed.setdefault(said["face"], []).append((said["heading"], said["text"]))
    for index, face in enumerate(faces):
        if face["verdict"].get("score") is None:
            continue  # the model never saw it
        named = index == 0 and row["verdict"] == Label.DEEPFAKE
        if deepfake and not (index in agreed or len(faces) == 1 or named):
            continue
        name = f"{row['case']}-{index}"
        yield {
            "id": name,
            "image": f"images/{name}.jpg",
            "conversations": _turns(row, agreed.get(index, []), wording, deepfake=deepfake),
            "facts": _facts(row, index, wording),
        }


def _turns(
    row: Row, agreed: list[tuple[str, str]], wording: Wording, *, deepfake: bool
) -> list[dict[str, str]]:
    turns = [(f"{wording.image}\n{wording.detection}", wording.yes if deepfake else wording.no)]
    if deepfake and row["technique"] is not None:
        turns.append((wording.classification, wording.techniques[Technique(row["technique"])]))
    if deepfake and agreed:
        lines = [
            wording.line.format(number=number, heading=heading, text=text)
            for number, (heading, text) in enumerate(agreed, start=1)
        ]
        turns.append((wording.description, "\n".join(lines)))
    if not deepfake:
        turns.append((wording.description, wording.none))
    return [
        {"from": speaker, "value": value}
        for question, answer in turns
        for speaker, value in (("human", question), ("gpt", answer))
    ]


def _answered(said: Mapping[str, Any]) -> dict[str, Any]:
    effect = effect_from_json(said["effect"])
    return {"heading": said["heading"], "answer": said["answer"], "effect": effect and effect_json(effect)}


def _facts(row: Row, index: int, wording: Wording) -> dict[str, Any]:
    """Where the picture lies and who labelled it, for those who crop faces and split and weigh the data."""
    return {
        **{name: row[name] for name in ("case", "decision", "bucket", "key", "version_id", "sha256")},
        "box": row["faces"][index]["box"],
        "source": row["source"],
        "label": row["outcome"],
        "technique": row["technique"],
        "verdict": row["verdict"],
        # Blind judgements are not influenced by the verdict: calibrate only with these.
        "blind_label": row["blind_outcome"],
        "blind_technique": row["blind_technique"],
        # By anybody: another person may have made the current decision.
        "judged_blind": row["judged_blind"],
        "faces": len(row["faces"]),
        "stage": row["stage"],
        "bundle": row["bundle"],
        "fingerprint": row["fingerprint"],
        "annotator": "reviewer",
        # The answers about this face's artifacts, and whether the score depends on their regions. Learn first from
        # artifacts that both a person and a measurement confirm.
        "artifacts": [_answered(said) for said in row["answers"] if said["face"] == index],
        "prompts": wording.version,
        "decided_at": row["created_at"],
    }
