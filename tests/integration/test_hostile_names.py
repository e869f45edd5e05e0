"""Names that are attacks: of buckets, of keys, of sources; at the API and at the store."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from moderation.accounts.accounts import Accounts
from moderation.accounts.keys import add_key
from moderation.cases import ImageRef
from moderation.database.connection import Database
from moderation.errors import (
    BucketNotAllowed,
    BucketNotRead,
    ImageRejected,
    RequestRefused,
    StorageUnavailable,
)
from moderation.local import BUCKET
from moderation.people import Role
from moderation.settings import Settings
from moderation.storage import Storage


@pytest.mark.parametrize(
    "bucket",
    [
        "flagged-other",
        "flagge",
        "FLAGGED",
        "flagged/",
        "flagged/../secret",
        "flagged?x=y",
        " flagged",
        "flagged,secret",
        "arn:aws:s3:::flagged",
    ],
)
def test_a_bucket_that_only_looks_like_an_allowed_one_is_refused(
    api: TestClient, storage: Storage, bucket: str
) -> None:
    answer = api.post("/v1/cases", json={"image": {"bucket": bucket, "key": "x.jpg"}})

    assert answer.status_code == 422
    with pytest.raises(BucketNotRead):
        storage.fetch_image(ImageRef(bucket, "x.jpg"))
    with pytest.raises(BucketNotAllowed):
        storage.sign_view(ImageRef(bucket, "x.jpg"))


@pytest.mark.parametrize(
    "key",
    [
        "../../../etc/passwd",
        "..%2f..%2fetc/passwd",
        "/etc/passwd",
        "../other-bucket/x.jpg",
        "x.jpg?versionId=../..",
        "x.jpg#fragment",
        "http://169.254.169.254/latest/meta-data",
        "a" * 1024,
    ],
)
def test_a_key_is_a_name_and_never_a_path(storage: Storage, key: str) -> None:
    with pytest.raises((ImageRejected, StorageUnavailable)) as refused:
        storage.fetch_image(ImageRef(BUCKET, key))
    assert "root:" not in str(refused.value)

    if ".." in key.split("/"):
        with pytest.raises(RequestRefused):
            storage.sign_view(ImageRef(BUCKET, key))
        return
    url = storage.sign_view(ImageRef(BUCKET, key))
    assert url.split("?")[0].startswith(storage._client.meta.endpoint_url + f"/{BUCKET}/")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", "profiles\r\nSet-Cookie: a=b"),
        ("source", "profiles\x00"),
        ("external_id", "photo\x1b[2J"),
        ("external_id", "photo\nfake=log line"),
        ("external_id", "photo\x85fake"),
        ("external_id", "photo\u2028fake"),
        ("external_id", "photo\u202egpj.exe"),
        ("source", "profiles\u2066of others"),
        ("reason", "because\x00"),
        ("image", {"bucket": BUCKET, "key": "x.jpg\r\nSet-Cookie: a=b"}),
        ("image", {"bucket": BUCKET, "key": "x\u2029.jpg"}),
        ("image", {"bucket": BUCKET, "key": "x.jpg", "version_id": "1\n2"}),
    ],
)
def test_a_control_character_in_a_name_is_refused(api: TestClient, field: str, value: object) -> None:
    body: dict[str, Any] = {"image": {"bucket": BUCKET, "key": "x.jpg"}} | {field: value}

    answer = api.post("/v1/cases", json=body)

    assert answer.status_code == 422
    assert "set-cookie" not in answer.headers


TURNED = ["Rosa\u202eziD", "Rosa\u202a", "\u2066Rosa", "Rosa\u2069", "Rosa\nDiaz"]


@pytest.mark.parametrize("name", TURNED)
def test_nobody_has_a_name_that_is_shown_as_another(
    database: Database, settings: Settings, name: str
) -> None:
    accounts = Accounts(database, settings)

    with pytest.raises(RequestRefused):
        accounts.add_person("rosa@example.org", name, Role.REVIEWER, None)
    with pytest.raises(RequestRefused):
        accounts.add_person(f"{name}@example.org", "Rosa", Role.REVIEWER, None)
    with pytest.raises(RequestRefused), database.transaction() as session:
        add_key(session, name)
    assert accounts.list_people() == []


@pytest.mark.parametrize("name", ["رُبى الحداد", "Rosa\u200f", "می\u200cخواهم", "👩\u200d⚕️", "Rosa  Díaz"])
def test_names_of_every_script_stay(database: Database, settings: Settings, name: str) -> None:
    person = Accounts(database, settings).add_person("rosa@example.org", name, Role.REVIEWER, None)

    assert person.name == name


@pytest.mark.parametrize("name", ["key\r\nX-Injected: 1", "clé", "\x7f"])
def test_an_idempotency_key_is_plain_ascii(api: TestClient, name: str) -> None:
    body = {"image": {"bucket": BUCKET, "key": "x.jpg"}}

    answer = api.post("/v1/cases", json=body, headers={"Idempotency-Key": name.encode()})  # pyright: ignore[reportArgumentType]

    assert answer.status_code in (400, 422)
    assert "x-injected" not in answer.headers
