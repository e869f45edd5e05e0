"""Reading from S3: the exact bytes, within limits, from our buckets alone. Against a real S3 server each time."""

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from moderation.cases import ImageRef
from moderation.errors import (
    BucketNotAllowed,
    BucketNotRead,
    ImageMissing,
    ImageTooLarge,
    SetupProblem,
    StorageTooSlow,
    StorageUnavailable,
)
from moderation.local import BUCKET
from moderation.settings import Settings
from moderation.storage import Storage


def test_the_bytes_come_back_with_their_digest(storage: Storage) -> None:
    image = storage.put_image("a/b c/ü.jpg", b"the bytes", "image/jpeg")

    fetched = storage.fetch_image(image)

    assert fetched.data == b"the bytes"
    assert fetched.sha256 == hashlib.sha256(b"the bytes").hexdigest()


@pytest.mark.parametrize(
    ("image", "error"),
    [
        pytest.param(ImageRef(BUCKET, "nobody/put/this"), ImageMissing, id="no such key"),
        pytest.param(ImageRef("elsewhere", "a.jpg"), BucketNotRead, id="a bucket that is not ours"),
        pytest.param(ImageRef(BUCKET, "../../etc/passwd"), ImageMissing, id="a key that climbs"),
    ],
)
def test_what_cannot_be_read_says_why(storage: Storage, image: ImageRef, error: type[Exception]) -> None:
    with pytest.raises(error):
        storage.fetch_image(image)


def test_a_version_in_a_store_that_keeps_none_is_missing(storage: Storage) -> None:
    image = storage.put_image("unversioned.jpg", b"x", "image/jpeg")
    assert image.version_id is None

    with pytest.raises(ImageMissing, match="keeps no versions"):
        storage.fetch_image(replace(image, version_id="3HL4kqtJlcpXroDTDmJ"))


def test_a_bucket_that_we_allow_and_that_is_gone_is_our_fault(settings: Settings) -> None:
    gone = Storage(settings.model_copy(update={"s3_buckets": ("gone-bucket",)}))

    with pytest.raises(StorageUnavailable):
        gone.fetch_image(ImageRef("gone-bucket", "a.jpg"))


def test_only_our_log_reads_where_a_silent_store_is(settings: Settings) -> None:
    nowhere = "http://127.0.0.1:9"
    silent = Storage(settings.model_copy(update={"s3_endpoint_url": nowhere, "s3_buckets": ("flagged",)}))

    with pytest.raises(StorageUnavailable) as raised:
        silent.fetch_image(ImageRef("flagged", "a.jpg"))

    assert nowhere in str(raised.value)
    assert raised.value.outside == "storage does not answer"


def test_a_file_over_the_limit_is_given_up(settings: Settings, storage: Storage) -> None:
    image = storage.put_image("large.jpg", b"x" * 5000, "image/jpeg")

    with pytest.raises(ImageTooLarge, match="5,000 bytes"):
        Storage(settings.model_copy(update={"image_max_bytes": 4999})).fetch_image(image)
    assert len(Storage(settings.model_copy(update={"image_max_bytes": 5000})).fetch_image(image).data) == 5000


def test_wrong_credentials_are_our_fault_not_the_images(settings: Settings, storage: Storage) -> None:
    image = storage.put_image("a.jpg", b"x", "image/jpeg")
    stranger = Storage(settings.model_copy(update={"s3_access_key_id": "stranger"}))

    with pytest.raises(StorageUnavailable):
        stranger.fetch_image(image)


@pytest.mark.parametrize("key_id", [None, "half of it"])
def test_without_credentials_nothing_starts_and_it_says_what_to_set(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, key_id: str | None
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")

    with pytest.raises(SetupProblem, match="credentials"):
        Storage(settings.model_copy(update={"s3_access_key_id": key_id, "s3_secret_access_key": None}))


def test_a_view_url_shows_the_image_and_a_changed_one_does_not(storage: Storage) -> None:
    image = storage.put_image("view.jpg", b"shown", "image/jpeg")

    url = storage.sign_view(image)

    assert httpx.get(url).content == b"shown"
    assert httpx.get(url[:-4] + "0000").status_code in (400, 403)
    with pytest.raises(BucketNotAllowed):
        storage.sign_view(ImageRef("elsewhere", "a.jpg"))


@pytest.fixture
def versioned(versioned_store: dict[str, str]) -> Storage:
    return Storage(Settings.model_validate(versioned_store))


def test_the_version_that_was_flagged_is_the_one_that_is_read(versioned: Storage) -> None:
    first = versioned.put_image("photo.jpg", b"first", "image/jpeg")
    second = versioned.put_image("photo.jpg", b"second", "image/jpeg")

    assert first.version_id != second.version_id
    assert versioned.fetch_image(first).data == b"first"
    newest = versioned.fetch_image(ImageRef("versions", "photo.jpg"))
    assert (newest.data, newest.version_id) == (b"second", second.version_id)


def test_a_version_that_never_was_is_missing(versioned: Storage) -> None:
    versioned.put_image("photo.jpg", b"x", "image/jpeg")

    with pytest.raises(ImageMissing):
        versioned.fetch_image(ImageRef("versions", "photo.jpg", "00000000-0000-0000-0000-000000000000"))


class _Misbehaving(BaseHTTPRequestHandler):
    """An S3 server on a bad day: errors, bodies shorter than they say, and bodies that never end."""

    def do_GET(self) -> None:
        if "short" in self.path:
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"only this")
            return
        if "trickle" in self.path:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            with contextlib.suppress(OSError):  # until nobody listens any more
                for _ in range(600):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            return
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        """Say nothing: the tests' output is for failures."""


@pytest.fixture(scope="module")
def misbehaving() -> Iterator[Storage]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Misbehaving)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    yield Storage(
        Settings.model_validate(
            {
                "s3_endpoint_url": address,
                "s3_buckets": "day",
                "s3_access_key_id": "x",
                "s3_secret_access_key": "y",
                "image_fetch_seconds": 0.5,
            }
        )
    )
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("key", ["short.jpg", "error.jpg"])
def test_a_store_on_a_bad_day_is_tried_again_later(misbehaving: Storage, key: str) -> None:
    with pytest.raises(StorageUnavailable):
        misbehaving.fetch_image(ImageRef("day", key))


def test_a_store_that_trickles_is_given_up_when_the_time_for_one_image_is_over(misbehaving: Storage) -> None:
    began = time.monotonic()

    with pytest.raises(StorageTooSlow, match="bytes when the time for one image was over"):
        misbehaving.fetch_image(ImageRef("day", "trickle.jpg"))
    assert 0.5 <= time.monotonic() - began < 5  # it would have gone on for half a minute


def test_a_store_that_is_not_there_is_unavailable() -> None:
    values = {
        "s3_endpoint_url": "http://127.0.0.1:9",
        "s3_buckets": "b",
        "s3_access_key_id": "x",
        "s3_secret_access_key": "y",
    }

    with pytest.raises(StorageUnavailable):
        Storage(Settings.model_validate(values)).fetch_image(ImageRef("b", "a.jpg"))
