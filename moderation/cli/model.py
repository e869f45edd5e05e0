"""`bonafide analyze` and `bonafide chat`: the model alone, in this process, without services."""

import itertools
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

from moderation.analysis import Analysis, Basis, Effect, FaceAnalysis, Label, Verdict
from moderation.cases import Refusal
from moderation.cli.pictures import pictures_of
from moderation.cli.printing import complain, print_json
from moderation.errors import BonafideError, ImageRejected, RequestRefused
from moderation.presentation import told_analysis
from moderation.settings import settings

if TYPE_CHECKING:  # it imports torch, which takes seconds; `--help` need not wait for it
    from moderation.dfa.gpt.detector import Detector, FaceCrop, Prepared

#: Files that are analysed together.
_TOGETHER = 32

Bundle = Annotated[
    str | None,
    typer.Option(help="A bundle's folder, `mini`, or org/name@revision of a base. Default: BONAFIDE_BUNDLE."),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N. Default: BONAFIDE_DEVICE.")]


@dataclass(frozen=True)
class _Looked:
    """The outcome of a file: an analysis or a refusal."""

    file: Path
    analysis: Analysis | None = None
    refusal: Refusal | None = None  # None exactly when there is an analysis
    #: What the scores were calibrated on. None: they only order.
    basis: Basis | None = None

    def as_json(self) -> dict[str, Any]:
        analysis = self.analysis
        timings = {} if analysis is None else analysis.seconds
        return {
            "file": str(self.file),
            "state": "ready",
            "refusal": self.refusal and self.refusal.code,
            "refusal_message": self.refusal and self.refusal.message,
            **told_analysis(analysis, self.basis),
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
    effects: Annotated[
        bool,
        typer.Option(
            "--effects",
            help="Measure how far the score falls without each artifact's region. "
            "It takes six more verdicts for each of a face's first BONAFIDE_EFFECT_ARTIFACTS artifacts.",
        ),
    ] = False,
    bundle: Bundle = None,
    device: Device = None,
) -> None:
    """Analyse pictures without any service.

    A file that cannot be analysed is listed with the reason; the command then exits with 1.
    """
    found, empty = pictures_of(files)
    refused = 0
    if found:
        detector = _load(bundle, device)
        seen: list[_Looked] = []
        for row in _look(detector, found, settings().effect_artifacts if effects else 0):
            refused += row.refusal is not None
            if json_:
                print_json(row.as_json(), ascii_only=False)
            else:
                seen.append(row)
        if not json_:
            _print_table(seen, detector.bundle_name, detector.basis)
    if refused:
        complain(f"{refused} of {len(found)} files could not be analysed")
    if refused or empty:
        raise typer.Exit(1)


def chat(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="A picture.")],
    *,
    question: Annotated[
        list[str] | None, typer.Option("--question", "-q", help="Ask this and stop. May be repeated.")
    ] = None,
    face: Annotated[int, typer.Option(min=1, help="The face: 1 is the largest.")] = 1,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object a line for each question.")] = False,
    bundle: Bundle = None,
    device: Device = None,
) -> None:
    """Ask the model about a face of a picture. An empty line ends the conversation."""
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
            print_json({**said.as_json(), "face": face}, ascii_only=False)
        else:
            console.print(escape(said.answer or "The model has no answer to this."))


def _load(bundle: str | None, device: str | None) -> "Detector":
    from moderation.dfa.gpt.detector import Detector
    from moderation.dfa.gpt.pixels import decode_picture
    from moderation.serving import limits_of, policy_of

    decode = partial(decode_picture, limits=limits_of(settings()))
    return Detector.load(
        bundle or settings().bundle,
        device=device or settings().device,
        policy=policy_of(settings()),
        decode=decode,
    )


def _look(detector: "Detector", files: Iterable[Path], effects: int) -> Iterator[_Looked]:
    """Each file's outcome, in order. Faces of neighbouring files share batches.

    The effects of each face's first `effects` artifacts are measured.
    """
    waiting = iter(files)
    while group := list(itertools.islice(waiting, _TOGETHER)):
        yield from _look_together(detector, group, effects)


def _look_together(detector: "Detector", files: Sequence[Path], effects: int) -> list[_Looked]:
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
            effects,
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
    """Each face's analysis or error by (file, place), and when each file's last face was finished."""
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
    effects: int,
) -> _Looked:
    faces: list[FaceAnalysis] = []
    for answer in answers:
        if isinstance(answer, BonafideError):
            return _refused(file, answer)
        faces.append(answer)
    seconds = {"engine": engine}
    if effects:
        began = time.perf_counter()
        faces = detector.measure(prepared.crops, faces, at_most=effects)
        seconds["effect"] = time.perf_counter() - began
    analysis = detector.conclude(prepared, faces)
    return _Looked(file, replace(analysis, seconds={**analysis.seconds, **seconds}), basis=detector.basis)


def _refused(file: Path, error: BonafideError) -> _Looked:
    return _Looked(file, refusal=Refusal(error.code, str(error)))


def _print_table(rows: Sequence[_Looked], bundle: str, basis: Basis | None) -> None:
    console = Console(highlight=False)
    table = Table(title=escape(f"Verdicts of {bundle}: a model's opinion, not a decision"))
    table.add_column("file", overflow="fold")
    table.add_column("verdict", min_width=22)
    for name in ("faces", "seconds"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(escape(str(row.file)), *map(escape, _cells(row)))
    console.print(table)
    if basis is not None:
        console.print(
            escape(
                f"Scores were calibrated on {basis.words}. On other pictures they order, and are no probability."
            )
        )
    for row in rows:
        for line in _rationale(row):
            console.print(escape(line))


def _cells(row: _Looked) -> tuple[str, str, str]:
    """The verdict, the faces and the seconds. A refusal stands in the verdict's place."""
    if row.analysis is None:
        return row.refusal.message if row.refusal else "", "", ""
    verdict = row.analysis.verdict
    technique = f"\n{verdict.technique.words}" if verdict.technique else ""
    seconds = sum(row.analysis.seconds.values())
    return f"{_words(verdict)} {_score(verdict)}".strip() + technique, _faces(row.analysis), f"{seconds:.2f}"


def _faces(analysis: Analysis) -> str:
    """How many faces were found, and how many were judged if not all."""
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
        for artifact in face.rationale:
            yield f"  {artifact.heading}: {artifact.text}"
            if artifact.effect is not None:
                yield f"    {effect_words(face.verdict, artifact.effect)}"


def effect_words(verdict: Verdict, effect: Effect) -> str:
    """The score, the score without the region, and the score without a control region."""
    before, without, control = (
        "–" if score is None else f"{score:.3f}"
        for score in (verdict.score, effect.score_without, effect.control_score)
    )
    words = f"score {before}, without this region {without}, without a control region {control}"
    return words if effect.supported else f"{words}: not supported by the score"


@dataclass(frozen=True)
class _Said:
    """A question and its answer."""

    question: str
    #: The model's words. None: its reply could not be read, or the question was refused.
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
    """Each question with its answer. A reply that cannot be read is left out of the conversation.

    The conversation begins with the model's analysis of the face, as in the console.
    """
    from moderation.dfa.gpt.conversation import Turn, answer_or_none

    (analysis,) = detector.analyze([crop])
    known = analysis.verdict.label is not Label.UNDETERMINED
    turns: list[Turn] = []
    for question in questions:
        began = time.perf_counter()
        try:
            reply = "".join(detector.converse(crop, turns, question, about=analysis))
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
    """Lines from the terminal, until an empty line or the end of input."""
    while True:
        sys.stdout.write(prompt)
        sys.stdout.flush()
        line = sys.stdin.readline().strip()
        if not line:
            return
        yield line
