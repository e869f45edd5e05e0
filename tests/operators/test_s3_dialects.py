"""What S3-compatible stores do differently. Each row is a real HTTP server that answers so."""

import gzip
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from moderation.cases import ImageRef
from moderation.errors import (
    ArchiveBroken,
    ImageCorrupt,
    ImageMissing,
    ImageTooLarge,
    RequestRefused,
    StorageUnavailable,
    UnsupportedFormat,
)
from moderation.settings import Settings
from moderation.storage import Storage

PICTURE = b"\xff\xd8 the bytes of a picture \xff\xd9" * 50
LIMIT = 100_000

Answer = Callable[[BaseHTTPRequestHandler], None]


class Store:
    """An S3 server that answers every request in one way, and keeps the paths that were asked for."""

    def __init__(self) -> None:
        self.answer: Answer = _whole(PICTURE)
        self.asked: list[str] = []
        store = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                store.asked.append(self.path.partition("?")[0])
                store.answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
                """Say nothing: the tests' output is for failures."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture(scope="module")
def running() -> Iterator[Store]:
    store = Store()
    yield store
    store.server.shutdown()
    store.server.server_close()


@pytest.fixture
def store(running: Store) -> Store:
    running.asked.clear()
    running.answer = _whole(PICTURE)
    return running


@pytest.fixture
def storage(store: Store) -> Storage:
    values = {
        "s3_endpoint_url": store.url,
        "s3_buckets": "flagged",
        "s3_access_key_id": "x",
        "s3_secret_access_key": "y",
        "image_max_bytes": LIMIT,
    }
    return Storage(Settings.model_validate(values))


# --- the dialects


def _whole(body: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def _until_it_hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(PICTURE)


def _in_pieces(end: bytes) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for start in range(0, len(PICTURE), 500):
            piece = PICTURE[start : start + 500]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(end)
        handler.protocol_version = "HTTP/1.0"

    return answer


def _error(code: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>no</Message></Error>'.encode()


_PAGE = b"<!doctype html><html><head><meta charset=utf-8><title>404</title></head><body><p>Not here<br></body></html>"
_XML_PAGE = (
    b'<html xmlns="http://www.w3.org/1999/xhtml"><head><title>404</title></head><body><p>No</p></body></html>'
)

#: How a store answers, and what comes of it: the bytes of an image, or why there are none.
DIALECTS = [
    pytest.param(_whole(PICTURE), PICTURE, id="as Amazon S3"),
    pytest.param(_until_it_hangs_up, PICTURE, id="no Content-Length, until it hangs up"),
    pytest.param(_in_pieces(b"0\r\n\r\n"), PICTURE, id="no Content-Length, in pieces"),
    pytest.param(_in_pieces(b""), StorageUnavailable, id="in pieces of which the last never comes"),
    pytest.param(_whole(PICTURE, Last_Modified="yesterday"), PICTURE, id="a Last-Modified that is no date"),
    pytest.param(
        _whole(PICTURE, Last_Modified="2026-11-28T10:00:00Z[UTC]"), PICTURE, id="another form of date"
    ),
    pytest.param(_whole(PICTURE, Last_Modified=""), PICTURE, id="an empty Last-Modified"),
    pytest.param(_whole(PICTURE, Expires="0"), PICTURE, id="an Expires that is no date"),
    pytest.param(
        _whole(gzip.compress(PICTURE), Content_Encoding="gzip"), PICTURE, id="compressed, which browsers undo"
    ),
    pytest.param(
        _whole(gzip.compress(PICTURE), Content_Encoding="aws-chunked, X-GZIP"),
        PICTURE,
        id="with another word before",
    ),
    pytest.param(
        _whole(PICTURE, Content_Encoding="gzip"), ImageCorrupt, id="not compressed, though it says so"
    ),
    pytest.param(
        _whole(gzip.compress(PICTURE)[:-40], Content_Encoding="gzip"),
        ImageCorrupt,
        id="compressed and cut off",
    ),
    pytest.param(
        _whole(gzip.compress(bytes(LIMIT + 1)), Content_Encoding="gzip"),
        ImageTooLarge,
        id="compressed a thousandfold",
    ),
    pytest.param(_whole(PICTURE, Content_Encoding="br"), UnsupportedFormat, id="compressed in another way"),
    pytest.param(
        _whole(PICTURE, Content_Encoding="aws-chunked"), PICTURE, id="a word that means nothing here"
    ),
    pytest.param(_whole(PICTURE, Content_Encoding="utf-8"), PICTURE, id="a word that is no compression"),
    pytest.param(_whole(_error("NoSuchKey"), 404), ImageMissing, id="404 as Amazon S3"),
    pytest.param(_whole(_PAGE, 404, Content_Type="text/html"), ImageMissing, id="404 with a page"),
    pytest.param(
        _whole(_XML_PAGE, 404, Content_Type="text/html"), ImageMissing, id="404 with a page that is XML"
    ),
    pytest.param(_whole(b"", 404), ImageMissing, id="404 and nothing"),
    pytest.param(
        _whole(b'{"error": "no"}', 404, Content_Type="application/json"), ImageMissing, id="404 with JSON"
    ),
    pytest.param(_whole(_error("NoSuchBucket"), 404), StorageUnavailable, id="404 of the whole bucket"),
    pytest.param(_whole(_XML_PAGE, 403), StorageUnavailable, id="403 with a page"),
    pytest.param(_whole(_error("AccessDenied"), 403), StorageUnavailable, id="403 as Amazon S3"),
    pytest.param(
        _whole(_error("XMinioInvalidObjectName"), 400), ImageMissing, id="a name that MinIO refuses"
    ),
    pytest.param(_whole(_error("KeyTooLongError"), 400), ImageMissing, id="a name that is too long"),
    pytest.param(
        _whole(_error("NotImplemented"), 501), StorageUnavailable, id="501, and no version was asked for"
    ),
]


@pytest.mark.parametrize(("answer", "expected"), DIALECTS)
def test_a_store_that_answers_so(store: Store, storage: Storage, answer: Answer, expected: Any) -> None:
    store.answer = answer

    if isinstance(expected, bytes):
        assert storage.fetch_image(ImageRef("flagged", "a.jpg")).data == expected
    else:
        with pytest.raises(expected):
            storage.fetch_image(ImageRef("flagged", "a.jpg"))


@pytest.mark.parametrize("body", [_error("NotImplemented"), b""])
def test_a_store_that_knows_no_versions_has_none(store: Store, storage: Storage, body: bytes) -> None:
    store.answer = _whole(body, 501)

    with pytest.raises(ImageMissing):
        storage.fetch_image(ImageRef("flagged", "a.jpg", "v1"))


def test_a_body_without_a_length_is_given_up_at_the_limit(store: Store, storage: Storage) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(bytes(LIMIT + 1))

    store.answer = answer

    with pytest.raises(ImageTooLarge):
        storage.fetch_image(ImageRef("flagged", "a.jpg"))


def test_an_archive_is_read_in_every_dialect(store: Store, storage: Storage) -> None:
    store.answer = _whole(PICTURE, Last_Modified="yesterday")
    assert storage.read_archive("old", "a.gz") == PICTURE

    store.answer = _whole(_XML_PAGE, 404)
    with pytest.raises(ArchiveBroken):
        storage.read_archive("old", "a.gz")


# --- one object for the worker and for the browser


@pytest.mark.parametrize(
    "key",
    [
        "a b+c%2F.jpg",
        "ü/é ✓.jpg",
        "a//b.jpg",
        "/a.jpg",
        "a/.../b.jpg",
        ".hidden/..b.jpg",
        "a\\b.jpg",
        "a?b#c&d=e.jpg",
        "%2e%2e/a.jpg",
    ],
)
def test_worker_and_reviewer_ask_for_the_same_object(store: Store, storage: Storage, key: str) -> None:
    image = ImageRef("flagged", key)

    storage.fetch_image(image)
    shown = storage.sign_view(image)
    httpx.get(shown)

    by_worker, by_reviewer = store.asked
    assert by_worker == by_reviewer == urlsplit(shown).path


@pytest.mark.parametrize("key", ["../secret/a.jpg", "a/./b.jpg", "a/../b.jpg", "..", "a/."])
def test_a_key_that_browsers_would_change_is_neither_read_nor_shown(
    store: Store, storage: Storage, key: str
) -> None:
    with pytest.raises(ImageMissing, match="browsers"):
        storage.fetch_image(ImageRef("flagged", key))
    with pytest.raises(RequestRefused, match="browsers"):
        storage.sign_view(ImageRef("flagged", key))

    assert store.asked == []
