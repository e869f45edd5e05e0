"""The model alone, in this process and without services: `bonafide analyze` and `bonafide chat`."""

import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from moderation.analysis import Analysis, FaceAnalysis, Label, Verdict
from moderation.cases import Refusal
from moderation.cli.pictures import none_in, pictures_of
from moderation.errors import BonafideError, ImageRejected, RequestRefused
from moderation.presentation import face_json, verdict_json
from moderation.settings import settings

if (
    TYPE_CHECKING
):  # the model's side imports torch, which takes seconds; a command that is only asked for help need not
    from moderation.dfa.gpt.detector import Detector, FaceCrop, Prepared

#: Files that are read ahead and looked at together.
_TOGETHER = 32

_Bundle = Annotated[
    str | None,
    typer.Option(help="A bundle's folder, `mini`, or org/name@revision of a base. Default: BONAFIDE_BUNDLE."),
]
_Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N. Default: BONAFIDE_DEVICE.")]


@dataclass(frozen=True)
class _Looked:
    """What came of one file: an analysis or a refusal."""

    file: Path
    analysis: Analysis | None = None
    refusal: Refusal | None = None  # None exactly when there is an analysis

    def as_json(self) -> dict[str, Any]:
        analysis = self.analysis
        timings = {} if analysis is None else analysis.seconds
        return {
            "file": str(self.file),
            "state": "ready",
            "refusal": self.refusal and self.refusal.code,
            "refusal_message": self.refusal and self.refusal.message,
            "verdict": None if analysis is None else verdict_json(analysis.verdict),
            "faces": [] if analysis is None else [face_json(face) for face in analysis.faces],
            "faces_found": None if analysis is None else analysis.faces_found,
            "faces_judged": None if analysis is None else analysis.faces_judged,
            "fingerprint": analysis and analysis.fingerprint,
            "seconds": round(sum(timings.values()), 4),
            "timings": {stage: round(value, 4) for stage, value in timings.items()},
        }


def analyze(
    files: Annotated[
        list[Path], typer.Argument(exists=True, readable=True, help="Pictures, or folders of them.")
    ],
    *,
    json_: Annotated[
        bool, typer.Option("--json", help="One JSON object a line for each file, in order.")
    ] = False,
    bundle: _Bundle = None,
    device: _Device = None,
) -> None:
    """Ask the model about pictures, without any service.

    A file that cannot be analysed is an answer too; the command then ends with 1.
    """
    found, empty = _pictures(files)
    refused = 0
    if found:
        detector = _load(bundle, device)
        seen: list[_Looked] = []
        for row in _look(detector, found):
            refused += row.refusal is not None
            if json_:
                print(json.dumps(row.as_json(), ensure_ascii=False), flush=True)
            else:
                seen.append(row)
        if not json_:
            _print_table(seen, detector.bundle_name)
    if refused:
        typer.echo(f"bonafide: {refused} of {len(found)} files could not be analysed", err=True)
    if refused or empty:
        raise typer.Exit(1)


def _pictures(files: Iterable[Path]) -> tuple[list[Path], bool]:
    """What is to be looked at, and whether a folder held nothing."""
    found: list[Path] = []
    empty = False
    for file in files:
        inside = pictures_of(file)
        found += inside
        empty = none_in(file, inside) or empty
    return found, empty


def chat(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="A picture.")],
    *,
    question: Annotated[
        list[str] | None,
        typer.Option("--question", "-q", help="Ask this and stop. May be given several times."),
    ] = None,
    face: Annotated[int, typer.Option(min=1, help="Which face: 1 is the largest.")] = 1,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object a line for each question.")] = False,
    bundle: _Bundle = None,
    device: _Device = None,
) -> None:
    """Talk with the model about one face of a picture. An empty line ends the conversation."""
    console = Console(highlight=False, stderr=json_)
    detector = _load(bundle, device)
    try:
        prepared = detector.prepare(file.read_bytes())
    except ImageRejected as error:
        console.print(escape(f"{file}: {error}"))
        raise typer.Exit(1) from error
    if not prepared.crops:
        console.print(escape(f"{file}: no face was found that the model could judge."))
        raise typer.Exit(1)
    if face > len(prepared.crops):
        raise typer.BadParameter(
            f"the model can judge {len(prepared.crops)} of the faces in {file.name}", param_hint="--face"
        )
    questions = iter(question) if question else _typed(prompt="" if json_ else "> ")
    for said in _converse(console, detector, prepared.crops[face - 1], questions):
        if json_:
            typer.echo(json.dumps({**said.as_json(), "face": face}, ensure_ascii=False))
        else:
            console.print(escape(said.answer or "The model has no answer to this."))


def _load(bundle: str | None, device: str | None) -> "Detector":
    from moderation.dfa.gpt.detector import Detector
    from moderation.dfa.gpt.pixels import decode_picture
    from moderation.serving import limits_of, policy_of

    chosen = settings()
    decode = partial(decode_picture, limits=limits_of(chosen))
    return Detector.load(
        bundle or chosen.bundle, device=device or chosen.device, policy=policy_of(chosen), decode=decode
    )


def _look(detector: "Detector", files: Iterable[Path]) -> Iterator[_Looked]:
    """Each file's outcome, in order; faces of neighbouring files share the model's batches."""
    waiting = iter(files)
    while group := list(itertools.islice(waiting, _TOGETHER)):
        yield from _look_together(detector, group)


def _look_together(detector: "Detector", files: Sequence[Path]) -> list[_Looked]:
    outcomes: list[_Looked | Prepared] = [_prepare(detector, file) for file in files]
    crops = [
        ((index, place), crop)
        for index, outcome in enumerate(outcomes)
        if not isinstance(outcome, _Looked)
        for place, crop in enumerate(outcome.crops)
    ]
    began = time.perf_counter()
    answers, finished = _answers(detector, crops)
    return [
        outcome
        if isinstance(outcome, _Looked)
        else _conclude(
            detector,
            file,
            outcome,
            [answers[index, place] for place in range(len(outcome.crops))],
            finished.get(index, began) - began,
        )
        for index, (file, outcome) in enumerate(zip(files, outcomes, strict=True))
    ]


def _prepare(detector: "Detector", file: Path) -> "_Looked | Prepared":
    try:
        return detector.prepare(file.read_bytes())
    except ImageRejected as error:
        return _refused(file, error)


def _answers(
    detector: "Detector", crops: Sequence[tuple[tuple[int, int], "FaceCrop"]]
) -> tuple[dict[tuple[int, int], FaceAnalysis | BonafideError], dict[int, float]]:
    """Every face's analysis or error by (file, place), and when the last face of each file was finished."""
    waiting = list(crops)

    def take(room: int, _idle: bool) -> Sequence[tuple[tuple[int, int], "FaceCrop"]] | None:  # noqa: FBT001
        taken, waiting[:] = waiting[:room], waiting[room:]
        return taken or None

    answers: dict[tuple[int, int], FaceAnalysis | BonafideError] = {}
    finished: dict[int, float] = {}
    for key, answer in detector.stream(take):
        answers[key] = answer
        finished[key[0]] = time.perf_counter()
    return answers, finished


def _conclude(
    detector: "Detector",
    file: Path,
    prepared: "Prepared",
    answers: Sequence[FaceAnalysis | BonafideError],
    engine: float,
) -> _Looked:
    faces: list[FaceAnalysis] = []
    for answer in answers:
        if isinstance(answer, BonafideError):
            return _refused(file, answer)
        faces.append(answer)
    analysis = detector.conclude(prepared, faces)
    return _Looked(file, replace(analysis, seconds={**analysis.seconds, "engine": engine}))


def _refused(file: Path, error: BonafideError) -> _Looked:
    return _Looked(file, refusal=Refusal(error.code, str(error)))


def _print_table(rows: Sequence[_Looked], bundle: str) -> None:
    console = Console(highlight=False)
    table = Table(title=escape(f"Verdicts of {bundle}: a model's opinion, not a decision"))
    table.add_column("file", overflow="fold")
    table.add_column("verdict", min_width=22)
    for name in ("faces", "seconds"):
        table.add_column(name, justify="right")
    for row in rows:
        file, words, score, technique, faces, seconds = (escape(cell) for cell in _cells(row))
        verdict = "\n".join(filter(None, (f"{words} {score}".rstrip(), technique)))
        table.add_row(file, verdict, faces, seconds)
    console.print(table)
    for row in rows:
        for line in _rationale(row):
            console.print(escape(line))


def _cells(row: _Looked) -> tuple[str, ...]:
    if row.analysis is None:
        message = row.refusal.message if row.refusal else ""
        return str(row.file), message, "", "", "", ""
    verdict = row.analysis.verdict
    return (
        str(row.file),
        _words(verdict),
        _score(verdict),
        verdict.technique.words if verdict.technique else "",
        _faces(row.analysis),
        f"{sum(row.analysis.seconds.values()):.2f}",
    )


def _faces(analysis: Analysis) -> str:
    """How many were found; and how many of them judged, when that is not all."""
    found, judged = analysis.faces_found, analysis.faces_judged
    return str(found) if found == judged else f"{found}, {judged} judged"


def _words(verdict: Verdict) -> str:
    if verdict.abstain is not None:
        return f"undetermined: {verdict.abstain.words}"
    return "deepfake" if verdict.label is Label.DEEPFAKE else "bona fide"


def _score(verdict: Verdict) -> str:
    if verdict.score is None:
        return ""
    return f"{verdict.score:.3f}" + ("" if verdict.calibrated else " uncalibrated")


def _rationale(row: _Looked) -> Iterator[str]:
    if row.analysis is None or not any(face.rationale for face in row.analysis.faces):
        return
    yield f"\n{row.file}"
    for face in row.analysis.faces:
        yield from (f"  {artifact.heading}: {artifact.text}" for artifact in face.rationale)


@dataclass(frozen=True)
class _Said:
    """What became of one question."""

    question: str
    #: In the model's words. None: its reply could not be read, or the question was refused.
    answer: str | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return {
            "question": self.question,
            "answer": self.answer,
            "answered": self.answer is not None,
            "seconds": round(self.seconds, 4),
        }


def _converse(
    console: Console, detector: "Detector", crop: "FaceCrop", questions: Iterator[str]
) -> Iterator[_Said]:
    """Each question with its answer. What could not be read is no part of the conversation that follows.

    The model goes on from what it says of the face, as in the console.
    """
    from moderation.dfa.gpt.conversation import Turn, answer_or_none, served_turns

    (analysis,) = detector.analyze([crop])
    known = analysis.verdict.label is not Label.UNDETERMINED
    served = served_turns(detector.bundle.prompts, analysis)
    turns: list[Turn] = []
    for question in questions:
        began = time.perf_counter()
        try:
            reply = "".join(detector.converse(crop, turns, question, served=served))
        except RequestRefused as error:
            console.print(escape(str(error)))
            reply = ""
        answer = answer_or_none(
            reply,
            deepfake=analysis.verdict.label is Label.DEEPFAKE if known else None,
            artifacts=analysis.rationale if known else None,
        )
        if answer is not None:
            turns.append(Turn(question, answer))
        yield _Said(question, answer, time.perf_counter() - began)


def _typed(*, prompt: str) -> Iterator[str]:
    """Lines from the terminal until an empty one or the end of input."""
    while True:
        sys.stdout.write(prompt)
        sys.stdout.flush()
        line = sys.stdin.readline().strip()
        if not line:
            return
        yield line
