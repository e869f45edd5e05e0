"""Content Credentials say who signed what; nothing they ask for is fetched, and nothing they do stops a picture."""

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
from pathlib import Path

import pytest
from PIL import Image

from moderation.dfa.gpt.pixels import PixelLimits, decode_picture
from moderation.errors import SetupProblem
from moderation.evidence.gather import Gatherer
from moderation.evidence.options import Options, gatherer
from moderation.evidence.words import ClaimedOrigin, Evidence, Fact, FactKind, Status, Strength, evidence_json
from tests.evidence.signing import an_issuer, signed
from worker.decoding import DecodePool

PORTRAIT = files("moderation").joinpath("samples", "portrait-1.jpg").read_bytes()
AI = "trainedAlgorithmicMedia"


@pytest.fixture
def trust_list(tmp_path: Path) -> Path:
    path = tmp_path / "trusted.pem"
    path.write_bytes(an_issuer().root)
    return path


def credentials(data: bytes, *trust_lists: Path, private: bool = False) -> Fact | None:
    gathered = Gatherer(Options(tuple(map(str, trust_lists)), private)).gather(data, decode_picture(data))
    return gathered.fact(FactKind.CONTENT_CREDENTIALS)


def test_a_picture_without_a_manifest_has_no_credentials() -> None:
    assert credentials(PORTRAIT) is None


def test_one_who_is_on_the_trust_list_signs_that_it_is_ai_made(trust_list: Path) -> None:
    fact = credentials(signed(PORTRAIT, source_type=AI), trust_list)

    assert fact is not None
    assert (fact.strength, fact.points_to) == (Strength.CRYPTOGRAPHIC, ClaimedOrigin.SYNTHETIC)
    assert fact.data["state"] == "trusted"
    assert (fact.data["signer"], fact.data["signer_name"]) == ("Example Cameras", "Ada Lovelace")
    assert fact.data["made_with"] == ("Example 1.0",)
    assert fact.data["source_types"] == (AI,)


def test_one_who_is_on_no_trust_list_only_says_so_and_is_not_named(trust_list: Path) -> None:
    data = signed(PORTRAIT, source_type="digitalCapture", issuer=an_issuer("Nobody Known"))

    fact, kept = credentials(data, trust_list), credentials(data, trust_list, private=True)

    assert fact is not None
    assert kept is not None
    assert (fact.strength, fact.points_to) == (Strength.DECLARED, ClaimedOrigin.CAPTURED)
    assert fact.data["state"] == "valid"
    assert "signingCredential.untrusted" in str(fact.data["failures"])
    assert "Ada" not in json.dumps(evidence_json(Evidence((fact,))))
    assert kept.data["signer_name"] == "Ada Lovelace"


def test_without_a_trust_list_nobody_is_trusted() -> None:
    fact = credentials(signed(PORTRAIT, source_type=AI))

    assert fact is not None
    assert fact.strength is Strength.DECLARED


def test_pixels_that_were_changed_after_signing_are_told(trust_list: Path) -> None:
    data = bytearray(signed(PORTRAIT, source_type="digitalCapture"))
    data[-300] ^= 1

    fact = credentials(bytes(data), trust_list)

    assert fact is not None
    assert (fact.strength, fact.points_to, fact.data["state"]) == (Strength.ANOMALY, None, "invalid")
    assert "assertion.dataHash.mismatch" in str(fact.data["failures"])


def test_an_edit_of_an_ai_made_picture_still_says_so_and_the_editor_does_not_vouch_for_it(
    trust_list: Path,
) -> None:
    made = signed(PORTRAIT, source_type=AI, program="Maker 3")
    edited = signed(made, program="Editor 2", parent=made)

    fact = credentials(edited, trust_list)

    assert fact is not None
    assert (fact.strength, fact.points_to) == (Strength.DECLARED, ClaimedOrigin.SYNTHETIC)
    assert fact.data["actions"] == ("c2pa.opened", "c2pa.cropped")
    assert (fact.data["made_with"], fact.data["made_before_with"]) == (("Editor 2",), ("Maker 3",))
    assert fact.data["source_types_before"] == (AI,)


def test_a_manifest_in_a_png_is_read_too(trust_list: Path) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(PORTRAIT)).save(buffer, "PNG")

    fact = credentials(signed(buffer.getvalue(), source_type=AI, mime="image/png"), trust_list)

    assert fact is not None
    assert fact.strength is Strength.CRYPTOGRAPHIC


def test_a_trust_list_that_is_none_stops_the_process_with_its_name(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")

    for path in (empty, tmp_path / "missing.pem"):
        with pytest.raises(SetupProblem, match=str(path)):
            Gatherer(Options((str(path),)))


def test_another_trust_list_is_another_gatherer(trust_list: Path) -> None:
    assert gatherer(Options()) != gatherer(Options((str(trust_list),)))
    assert gatherer(Options()) != gatherer(Options(private=True))
    assert gatherer(Options(seconds=1)) == gatherer(Options(seconds=2))


# --- hostile ones, in the child that decodes


class _Listening(BaseHTTPRequestHandler):
    """Whoever asks has been made to."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()

    do_HEAD = do_POST = do_GET  # noqa: N815  names of `http.server`

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  as `http.server` calls it
        """Not into the test's output."""


@pytest.fixture
def address() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    server = HTTPServer(("127.0.0.1", 0), type("Listening", (_Listening,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/latest/meta-data", asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    opened = DecodePool(PixelLimits(), children=1, seconds=20, evidence=Options())
    yield opened
    opened.close()


def gathered(pool: DecodePool, data: bytes) -> Evidence:
    evidence = pool.decode(data).evidence
    assert isinstance(evidence, Evidence)
    return evidence


@pytest.mark.parametrize("embedded", [True, False], ids=["beside an embedded one", "alone"])
def test_a_remote_manifest_is_never_fetched(
    pool: DecodePool, address: tuple[str, list[str]], *, embedded: bool
) -> None:
    url, asked = address

    fact = gathered(pool, signed(PORTRAIT, source_type=AI, remote=url, embedded=embedded)).fact(
        FactKind.CONTENT_CREDENTIALS
    )

    assert asked == []
    assert fact is not None
    if not embedded:
        assert (fact.status, fact.points_to) == (Status.UNREADABLE, None)
        assert fact.data["remote_url"] == url


@pytest.mark.slow
def test_a_huge_manifest_is_read_or_left_and_the_picture_decodes(pool: DecodePool) -> None:
    huge = PORTRAIT
    for number in range(7):
        huge = signed(PORTRAIT, program=f"Editor {number}", parent=huge, extra={"x": ["long" * 250] * 800})

    picture = pool.decode(huge)

    assert len(huge) > 5_000_000
    assert isinstance(picture.evidence, Evidence)
    fact = picture.evidence.fact(FactKind.CONTENT_CREDENTIALS)
    assert fact is not None
    assert fact.status is Status.UNREADABLE
    assert picture.evidence.seconds < 5


@pytest.mark.slow
def test_a_long_history_is_read_within_its_time(pool: DecodePool) -> None:
    data = signed(PORTRAIT, source_type=AI, program="Maker 3")
    for number in range(12):
        data = signed(PORTRAIT, program=f"Editor {number}", parent=data)

    fact = gathered(pool, data).fact(FactKind.CONTENT_CREDENTIALS)

    assert fact is not None
    assert fact.points_to is ClaimedOrigin.SYNTHETIC


@pytest.mark.slow
def test_a_manifest_whose_boxes_name_each_other_or_nothing_never_hangs(pool: DecodePool) -> None:
    """Ingredients that point at their own manifest, boxes of no or all length: the bytes, changed here and there."""
    made = signed(PORTRAIT, source_type=AI)
    edited = signed(made, parent=made)
    marks = [
        at for at in range(len(edited) - 8) if edited[at : at + 4] in (b"jumb", b"jumd", b"cbor", b"urn:")
    ]

    for mark in marks[:: max(1, len(marks) // 40)]:
        for change in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x08"):
            odd = edited[: mark - 4] + change + edited[mark:]
            assert pool.decode(odd).facts.width == 327
    own, other = sorted({edited[at : at + 45] for at in marks_of(edited, b"urn:c2pa:")})
    for looping in (edited.replace(other, own), edited.replace(own, other)):
        assert gathered(pool, looping).fact(FactKind.CONTENT_CREDENTIALS) is not None


def marks_of(data: bytes, mark: bytes) -> list[int]:
    return [at for at in range(len(data)) if data.startswith(mark, at)]
