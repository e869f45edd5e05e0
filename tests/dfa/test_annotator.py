"""A remote vision model words what the mask bears out, and nothing else; against a real server on this machine."""

import base64
import contextlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from moderation.analysis import Region, Technique
from moderation.cli.dfa import app
from moderation.dfa.gpt.prompts import load_prompts
from moderation.dfa.gpt.replies import read_reply
from moderation.dfa.instruct.annotator import Annotation, Annotator, Endpoint, Wanted
from moderation.dfa.instruct.builder import EXACT, build
from moderation.dfa.instruct.filters import sieved
from moderation.errors import SetupProblem, Unavailable
from tests.dfa.drawn_faces import a_pool

PROMPTS = load_prompts()

#: What the server says to a request: a status, headers, and a body.
Reply = tuple[int, dict[str, str], str]


class Model:
    """An endpoint as OpenAI's, on a free port. `says` are its next replies; the last one is said for ever."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.says: list[Reply | Callable[[dict[str, Any]], Reply]] = []
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                model.asked.append(body)
                model.headers.append({**dict(self.headers), "path": self.path})
                said = model.says.pop(0) if len(model.says) > 1 else model.says[0]
                status, headers, text = said(body) if callable(said) else said
                with contextlib.suppress(ConnectionError):  # who asked may have given up
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(text.encode())

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name of the base class
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def model() -> Iterator[Model]:
    running = Model()
    yield running
    running.close()


def said(content: str | None) -> Reply:
    reply = {
        "choices": [{"message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": 900, "completion_tokens": 40},
    }
    return 200, {"Content-Type": "application/json"}, json.dumps(reply)


def artifacts(*pairs: tuple[str, str]) -> Reply:
    return said(json.dumps({"artifacts": [{"region": region, "text": text} for region, text in pairs]}))


def a_jpeg(shade: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (shade, shade, shade)).save(buffer, "JPEG")
    return buffer.getvalue()


def wanted(name: str = "0000001-b", **fields: Any) -> Wanted:
    return Wanted(
        name=name,
        technique=fields.pop("technique", Technique.FE),
        regions=fields.pop("regions", (Region.MOUTH, Region.SKIN)),
        picture=fields.pop("picture", a_jpeg()),
        **fields,
    )


class Clock:
    """Waits without waiting, and remembers for how long."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)


def annotator(
    model: Model, folder: Path, *, timeout: float = 5, key: str | None = "secret"
) -> tuple[Annotator, Clock]:
    clock = Clock()
    endpoint = Endpoint(model.url, "eyes-1", key, timeout=timeout)
    return Annotator(endpoint, folder / "annotations.jsonl", pause=clock), clock


def test_a_good_answer_is_kept_with_its_cost(model: Model, tmp_path: Path) -> None:
    model.says = [artifacts(("mouth", "The lips are blurred and lack fine lines."))]
    words, _ = annotator(model, tmp_path)

    annotation = words.annotate(wanted())

    assert annotation.outcome == "described"
    assert annotation.artifacts == (("mouth", "The lips are blurred and lack fine lines."),)
    assert (annotation.calls, annotation.tokens_in, annotation.tokens_out) == (1, 900, 40)
    assert model.headers[0]["Authorization"] == "Bearer secret"
    assert model.headers[0]["path"] == "/v1/chat/completions"


def test_the_model_sees_the_picture_and_is_told_only_the_regions_of_the_mask(
    model: Model, tmp_path: Path
) -> None:
    model.says = [artifacts(("mouth", "The lips are blurred."))]
    words, _ = annotator(model, tmp_path)
    picture = a_jpeg(40)

    words.annotate(wanted(picture=picture))

    text, image = model.asked[0]["messages"][0]["content"]
    assert "face editing" in text["text"]
    assert "mouth, skin" in text["text"]
    assert "eyes" not in text["text"]
    assert base64.b64decode(image["image_url"]["url"].partition(",")[2]) == picture
    assert model.asked[0]["model"] == "eyes-1"


def test_a_pair_shows_the_face_before_first(model: Model, tmp_path: Path) -> None:
    model.says = [artifacts(("mouth", "The lips are blurred."))]
    words, _ = annotator(model, tmp_path)
    before, after = a_jpeg(10), a_jpeg(200)

    annotation = words.annotate(wanted(picture=after, before=before))

    shown = [part["image_url"]["url"] for part in model.asked[0]["messages"][0]["content"][1:]]
    assert [base64.b64decode(url.partition(",")[2]) for url in shown] == [before, after]
    assert annotation.kind == "pair"


@pytest.mark.parametrize(
    ("region", "text", "reason"),
    [
        pytest.param("nose", "The nose is blurred.", "region outside the mask", id="outside the mask"),
        pytest.param("lips", "The lips are blurred.", "region outside the mask", id="not on the list"),
        pytest.param("mouth", "word " * 31, "too long", id="too long"),
        pytest.param("mouth", "  ", "no plain sentence", id="empty"),
        pytest.param("mouth", "**Blur** around the lips.", "no plain sentence", id="markup"),
        pytest.param(
            "mouth", "In the second image the lips differ.", "tells of another picture", id="second image"
        ),
        pytest.param(
            "mouth", "Unlike the original, the lips are soft.", "tells of another picture", id="original"
        ),
        pytest.param("mouth", "The mouth looks natural.", "contradicts the label", id="a denial"),
        pytest.param("mouth", "There are no visible artifacts.", "contradicts the label", id="none"),
        pytest.param("mouth", "The woman's lips are smeared.", "says who the person is", id="a person"),
    ],
)
def test_what_may_not_be_taught_is_left_out_with_its_reason(region: str, text: str, reason: str) -> None:
    kept, left_out = sieved(
        [(region, text), ("skin", "The skin is too smooth.")], (Region.MOUTH, Region.SKIN)
    )

    assert kept == (("skin", "The skin is too smooth."),)
    assert left_out == (reason,)


@pytest.mark.parametrize(
    "text",
    [
        "The lips look unnatural and lack fine lines.",
        "The texture is not consistent with the cheek beside it.",
        "Traces of a seam run along the lower lip.",
        "The lighting is inconsistent.",
    ],
)
def test_a_sentence_about_an_artifact_is_no_denial(text: str) -> None:
    assert sieved([("mouth", text)], (Region.MOUTH,)) == ((("mouth", text),), ())


def test_a_region_is_described_once() -> None:
    kept, left_out = sieved([("mouth", "Blurred lips."), ("mouth", "Smeared lips.")], (Region.MOUTH,))

    assert kept == (("mouth", "Blurred lips."),)
    assert left_out == ("region named twice",)


def test_an_answer_of_nothing_but_foreign_regions_is_worded_from_the_facts(
    model: Model, tmp_path: Path
) -> None:
    model.says = [artifacts(("background", "The background is blurred."))]
    words, _ = annotator(model, tmp_path)

    annotation = words.annotate(wanted())

    assert annotation.outcome == "nothing left"
    assert words.counts()["annotator: sentence left out: region outside the mask"] == 1


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("The lips are blurred.", id="prose"),
        pytest.param('{"artifacts": [{"region": "mouth"}]}', id="no text"),
        pytest.param('{"artifacts": [{"region": "mouth", "text": "x", "sure": 1}]}', id="a key more"),
        pytest.param('[{"region": "mouth", "text": "x"}]', id="a list"),
        pytest.param(None, id="refused"),
    ],
)
def test_an_unreadable_answer_is_asked_for_once_more(
    content: str | None, model: Model, tmp_path: Path
) -> None:
    model.says = [said(content), artifacts(("mouth", "The lips are blurred."))]
    words, _ = annotator(model, tmp_path)

    annotation = words.annotate(wanted())

    assert annotation.outcome == "described"
    assert annotation.calls == 2
    assert model.asked[0]["temperature"] != model.asked[1]["temperature"]


def test_an_answer_that_stays_unreadable_is_given_up_and_counted(model: Model, tmp_path: Path) -> None:
    model.says = [said("I cannot help with that.")]
    words, _ = annotator(model, tmp_path)

    annotation = words.annotate(wanted())

    assert annotation.outcome == "unreadable"
    assert words.counts()["annotator: single pictures unreadable"] == 1
    assert words.counts()["annotator: tokens in"] == 1800


def test_json_in_a_code_block_is_read(model: Model, tmp_path: Path) -> None:
    model.says = [said('```json\n{"artifacts": [{"region": "mouth", "text": "Blurred lips."}]}\n```')]
    words, _ = annotator(model, tmp_path)

    assert words.annotate(wanted()).outcome == "described"


def test_a_busy_endpoint_is_waited_for_as_long_as_it_asks(model: Model, tmp_path: Path) -> None:
    model.says = [(429, {"Retry-After": "7"}, ""), artifacts(("mouth", "The lips are blurred."))]
    words, clock = annotator(model, tmp_path)

    annotation = words.annotate(wanted())

    assert annotation.outcome == "described"
    assert clock.waits == [7.0]
    assert annotation.failures == ("HTTP 429",)


def test_a_broken_endpoint_is_tried_again_and_the_failure_counted(model: Model, tmp_path: Path) -> None:
    model.says = [(500, {}, "oops"), (503, {}, ""), artifacts(("mouth", "The lips are blurred."))]
    words, clock = annotator(model, tmp_path)

    annotation = words.annotate(wanted())

    assert annotation.outcome == "described"
    assert len(clock.waits) == 2
    assert words.counts()["annotator: attempt failed: HTTP 500"] == 1


def test_a_silent_endpoint_times_out(model: Model, tmp_path: Path) -> None:
    release = threading.Event()

    def silent(_body: dict[str, Any]) -> Reply:
        release.wait(5)
        return 500, {}, ""

    model.says = [silent, artifacts(("mouth", "The lips are blurred."))]
    words, _ = annotator(model, tmp_path, timeout=0.2)

    annotation = words.annotate(wanted())
    release.set()

    assert annotation.outcome == "described"
    assert annotation.failures == ("timeout",)


def test_an_endpoint_that_never_answers_is_given_up_for_one_picture(model: Model, tmp_path: Path) -> None:
    model.says = [(500, {}, "")]
    words, clock = annotator(model, tmp_path)

    annotation = words.annotate(wanted())

    assert annotation.outcome == "unreachable"
    assert len(annotation.failures) == 5
    assert len(clock.waits) == 4


def test_an_endpoint_that_is_gone_for_long_stops_the_run(model: Model, tmp_path: Path) -> None:
    model.says = [(500, {}, "")]
    words, _ = annotator(model, tmp_path)

    for number in range(7):
        words.annotate(wanted(f"{number}-b"))
    with pytest.raises(Unavailable, match="8 times in a row"):
        words.annotate(wanted("7-b"))


def test_what_nobody_answered_is_asked_again_in_the_next_run(model: Model, tmp_path: Path) -> None:
    model.says = [(500, {}, "")]
    annotator(model, tmp_path)[0].annotate(wanted())
    model.says = [artifacts(("mouth", "The lips are blurred."))]

    annotation = annotator(model, tmp_path)[0].annotate(wanted())

    assert annotation.outcome == "described"


def test_a_refused_key_stops_the_run_at_once(model: Model, tmp_path: Path) -> None:
    model.says = [(401, {}, '{"error": "bad key"}')]
    words, clock = annotator(model, tmp_path)

    with pytest.raises(SetupProblem, match="BONAFIDE_ANNOTATOR_KEY"):
        words.annotate(wanted())
    assert clock.waits == []


def test_nothing_is_asked_and_paid_twice(model: Model, tmp_path: Path) -> None:
    model.says = [artifacts(("mouth", "The lips are blurred."))]
    first, _ = annotator(model, tmp_path)
    first.annotate(wanted())
    with (tmp_path / "annotations.jsonl").open("a") as notebook:
        notebook.write('{"name": "0000002-b", "sha')  # killed while it wrote

    second, _ = annotator(model, tmp_path)
    again = second.annotate(wanted())

    assert len(model.asked) == 1
    assert again.artifacts == (("mouth", "The lips are blurred."),)
    assert second.counts()["annotator: tokens in"] == 900


def test_another_picture_of_the_same_name_is_asked_about(model: Model, tmp_path: Path) -> None:
    model.says = [artifacts(("mouth", "The lips are blurred."))]
    words, _ = annotator(model, tmp_path)

    words.annotate(wanted(picture=a_jpeg(1)))
    words.annotate(wanted(picture=a_jpeg(240)))

    assert len(model.asked) == 2


def test_what_is_named_on_an_unforged_face_is_counted_as_invented(model: Model, tmp_path: Path) -> None:
    model.says = [artifacts(("mouth", "The lips are blurred.")), artifacts()]
    words, _ = annotator(model, tmp_path)

    for number in range(2):
        words.annotate(wanted(f"{number}-a-control", before=a_jpeg(1), control=True))

    counts = words.counts()
    assert counts["annotator: controls"] == 2
    assert counts["annotator: controls that named artifacts on an unforged face"] == 1


# --- the builder ---


def the_first_region(body: dict[str, Any]) -> Reply:
    """Describes the first region that it is told of, in words that name the picture's own bytes."""
    text = body["messages"][0]["content"][0]["text"]
    region = text.partition("changed: ")[2].partition(".")[0].split(", ")[0].split(" (")[0]
    shown = body["messages"][0]["content"][-1]["image_url"]["url"]
    return artifacts((region, f"Something is amiss here, in the way of {hash(shown) % 10_000}."))


def test_built_descriptions_are_the_annotators_and_the_rest_is_exact(model: Model, tmp_path: Path) -> None:
    model.says = [the_first_region]
    words, _ = annotator(model, tmp_path)

    counts = build(a_pool(), tmp_path, PROMPTS, split="train", twos=8, seed=1, annotator=words, parallel=3)

    entries = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    forged = [entry for entry in entries if entry["facts"]]
    assert forged
    assert all(entry["annotator"].startswith("eyes-1, annotation prompts 1") for entry in forged)
    assert all(entry["annotator"] == EXACT for entry in entries if entry["label"] == "bona_fide")
    for entry in forged:
        reply = read_reply(entry["description"])
        assert reply is not None
        said_of = {region.value for artifact in reply.artifacts for region in artifact.regions}
        assert said_of <= {region for region, _, _ in entry["facts"]}
    told = (tmp_path / "conversations.json").read_text()
    assert "Something is amiss here" in told
    assert counts["annotator: calls"] == len(model.asked)
    assert counts["annotator: controls"] == 1


def test_building_with_an_annotator_goes_on_where_it_stopped(model: Model, tmp_path: Path) -> None:
    model.says = [the_first_region]
    pool = a_pool()
    for folder, steps in (("broken", (3, 6)), ("whole", (6,))):
        (tmp_path / folder).mkdir()
        for twos in steps:
            words, _ = annotator(model, tmp_path / folder)
            build(
                pool,
                tmp_path / folder,
                PROMPTS,
                split="train",
                twos=twos,
                seed=1,
                annotator=words,
                parallel=2,
            )

    for name in ("conversations.json", "manifest.jsonl"):
        assert (tmp_path / "broken" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_an_endpoint_that_fails_leaves_the_exact_facts(model: Model, tmp_path: Path) -> None:
    model.says = [said("no")]
    words, _ = annotator(model, tmp_path)

    counts = build(a_pool(), tmp_path, PROMPTS, split="train", twos=4, seed=1, annotator=words)

    entries = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert {entry["annotator"] for entry in entries} == {EXACT}
    assert sum(count for name, count in counts.items() if name.endswith("unreadable")) > 0


def test_calls_run_side_by_side(model: Model, tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=10)

    def meets(body: dict[str, Any]) -> Reply:
        together.wait()
        return the_first_region(body)

    model.says = [meets]
    words, _ = annotator(model, tmp_path)
    began = time.monotonic()
    results: list[Annotation] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(words.annotate(wanted(f"{n}-b"))))
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(results) == 3
    assert time.monotonic() - began < 10
    assert len((tmp_path / "annotations.jsonl").read_text().splitlines()) == 3


def test_the_command_asks_for_a_model(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app,
        ["instruct", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--annotator", "http://x/v1"],
    )

    assert isinstance(result.exception, SetupProblem)
    assert "--annotator-model" in str(result.exception)
