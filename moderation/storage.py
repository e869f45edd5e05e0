"""S3, where the platform's images lie: read under limits, signed for viewing and uploading. No image is ever changed.

Our own archives of old cases lie in a bucket beside, which no image is read from.

Any S3-compatible store will do. A library's exception stops here: what leaves is `errors.ImageRejected` when the
image is at fault and `errors.StorageUnavailable` when the store is.
"""

import hashlib
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import boto3
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from moderation.cases import ImageRef
from moderation.errors import (
    ArchiveBroken,
    BucketNotAllowed,
    BucketNotRead,
    ImageCorrupt,
    ImageMissing,
    ImageTooLarge,
    RequestRefused,
    SetupProblem,
    StorageTooSlow,
    StorageUnavailable,
    UnsupportedFormat,
)
from moderation.settings import Settings

#: Bytes read at a time, so that a file over the limit is given up early.
CHUNK = 256 * 1024

#: The store says that there is nothing (more) to fetch: asking again changes nothing. A code of three digits is the
#: status of an answer in which there was no code, as of one in HTML.
_GONE = {
    *(
        "NoSuchKey",
        "NoSuchVersion",
        "404",
    ),  # but not NoSuchBucket: an allowed bucket that is gone is a fault of ours
    *("MethodNotAllowed", "405"),  # the version is a delete marker
    "InvalidObjectState",  # archived
    *("InvalidArgument", "InvalidURI", "InvalidBucketName", "KeyTooLongError"),  # no such name can be
    "XMinioInvalidObjectName",  # the same in MinIO's words
}

#: Of a key with steps. What nobody can be shown nobody has analysed either.
_NOBODY_SEES_IT = (
    "the key has a `.` or `..` between slashes: browsers leave it out and would ask for another object, so that nobody "
    "could be shown this one"
)
#: How an object may be compressed on its way, as browsers undo it. What else is said there (`aws-chunked`, `utf-8`) is
#: no compression, and browsers take no notice of it.
_GZIP = {"gzip", "x-gzip"}
#: Those that browsers undo and we do not.
_NOT_UNDONE = {"deflate", "br", "zstd", "compress", "x-compress", "dcb", "dcz"}


@dataclass(frozen=True)
class FetchedImage:
    data: bytes
    #: Of `data`, in hexadecimal.
    sha256: str
    #: Of the object that was read; None when the bucket keeps no versions.
    version_id: str | None


@dataclass(frozen=True)
class Upload:
    """A signed permission to PUT one image."""

    image: ImageRef
    url: str
    headers: Mapping[str, str]
    expires_at: datetime


class Storage:
    """The buckets this installation may read. Safe to share between threads."""

    def __init__(self, settings: Settings, *, connections: int = 10) -> None:
        """Raise SetupProblem without credentials."""
        self._settings = settings
        _require_credentials(settings)
        self._client = _open_client(settings, settings.s3_endpoint_url, connections)
        public = settings.s3_public_endpoint_url
        # Signing talks to nobody; it only needs the address that the reader of the URL will use.
        self._signer = self._client if public is None else _open_client(settings, public, 1)

    def allow(self, image: ImageRef) -> None:
        """Raise BucketNotAllowed unless the image lies in one of this installation's buckets."""
        if not self._reads(image):
            raise BucketNotAllowed(f"images are not read from the bucket {image.bucket!r}")

    def _reads(self, image: ImageRef) -> bool:
        return image.bucket in self._settings.s3_buckets

    def fetch_image(self, image: ImageRef) -> FetchedImage:
        """The exact bytes of this version, read under the limits of size and of time.

        Raise ImageMissing or ImageTooLarge, BucketNotRead, StorageUnavailable after the client's own retries, or
        StorageTooSlow at the first bytes that come `image_fetch_seconds` after the beginning.
        """
        if not self._reads(image):
            # Intake took it: whoever set up this process named it fewer buckets, and may still mend that.
            raise BucketNotRead(
                f"this worker may not read the bucket {image.bucket!r}: BONAFIDE_S3_BUCKETS does not name it"
            )
        if _has_steps(image):
            raise ImageMissing(_NOBODY_SEES_IT)
        limit = self._settings.image_max_bytes
        deadline = time.monotonic() + self._settings.image_fetch_seconds
        try:
            reply = self._client.get_object(Bucket=image.bucket, Key=image.key, **_version(image))
            # Some stores send a body in pieces, or until they hang up, and say no length.
            length = reply.get("ContentLength")
            if length is not None and length > limit:
                raise ImageTooLarge(f"the file has {length:,} bytes; at most {limit:,} are read")
            data = _read(reply["Body"], limit, deadline)
        except ClientError as error:
            raise _named(error, image) from error
        except (BotoCoreError, HTTPError, ResponseParserError) as error:
            raise StorageUnavailable(f"storage does not answer: {error}") from error
        if length is not None and len(data) != length:
            raise StorageUnavailable(f"storage sent {len(data):,} of {length:,} bytes")
        data = _uncompressed(data, reply.get("ContentEncoding") or "", limit)
        return FetchedImage(data, hashlib.sha256(data).hexdigest(), reply.get("VersionId"))

    def put_image(self, key: str, data: bytes, media_type: str, *, bucket: str | None = None) -> ImageRef:
        """Store bytes under `key`. For our own commands; platforms use a signed upload."""
        target = bucket or self._upload_bucket()
        try:
            reply = self._client.put_object(Bucket=target, Key=key, Body=data, ContentType=media_type)
        except (ClientError, BotoCoreError) as error:
            raise StorageUnavailable(f"storage refused the upload: {error}") from error
        return ImageRef(target, key, reply.get("VersionId"))

    def sign_upload(self, media_type: str, *, owner: str, sha256: str | None = None) -> Upload:
        """Permit a PUT of one key, for a while. Keys of different owners never meet.

        With the bytes' digest the same bytes have the same key, so that a flag of them repeated is the same flag.
        Without it every upload has a new key, which nobody can guess.
        """
        lifetime = self._settings.upload_url_seconds
        key = f"uploads/{owner}/{sha256 or uuid4()}"
        bucket = self._upload_bucket()
        url = self._signer.generate_presigned_url(
            "put_object",
            Params={"Bucket": bucket, "Key": key, "ContentType": media_type},
            ExpiresIn=lifetime,
        )
        expires_at = datetime.now(UTC) + timedelta(seconds=lifetime)
        return Upload(ImageRef(bucket, key), url, {"Content-Type": media_type}, expires_at)

    def sign_view(self, image: ImageRef) -> str:
        """A URL that shows this image for minutes. Made when somebody looks, never stored.

        Raise RequestRefused for a key for which a browser would ask by another name.
        """
        self.allow(image)
        if _has_steps(image):
            raise RequestRefused(_NOBODY_SEES_IT)
        return self._signer.generate_presigned_url(
            "get_object",
            Params={"Bucket": image.bucket, "Key": image.key, **_version(image)},
            ExpiresIn=self._settings.view_url_seconds,
        )

    def put_archive(self, bucket: str, key: str, data: bytes) -> None:
        """Write an object of an archive. Raise SetupProblem for a bucket that images are read from."""
        if bucket in self._settings.s3_buckets:
            # Whoever flags an object of it as an image would have it signed for a reviewer's browser.
            raise SetupProblem(
                f"archives cannot lie in {bucket!r}, which images are read from: give them a bucket of their own"
            )
        try:
            self._client.put_object(Bucket=bucket, Key=key, Body=data, ContentType="application/gzip")
        except (ClientError, BotoCoreError) as error:
            raise StorageUnavailable(f"storage refused the archive {bucket}/{key}: {error}") from error

    def read_archive(self, bucket: str, key: str) -> bytes:
        """An object of an archive, whole. Raise ArchiveBroken when it is gone."""
        try:
            return self._client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except ClientError as error:
            if _code(error) in ("NoSuchKey", "404"):
                raise ArchiveBroken(f"s3://{bucket}/{key} is gone") from error
            raise StorageUnavailable(f"storage answered {_code(error)} for {bucket}/{key}") from error
        except (BotoCoreError, ResponseParserError) as error:
            raise StorageUnavailable(f"storage does not answer: {error}") from error

    def remove_archive(self, bucket: str, key: str) -> None:
        """Remove an object of an archive; nothing happens when it is gone."""
        try:
            self._client.delete_object(Bucket=bucket, Key=key)
        except (ClientError, BotoCoreError) as error:
            raise StorageUnavailable(f"storage did not remove {bucket}/{key}: {error}") from error

    def ping(self) -> None:
        """Raise StorageUnavailable unless every allowed bucket answers."""
        for bucket in self._settings.s3_buckets:
            try:
                self._client.head_bucket(Bucket=bucket)
            except (ClientError, BotoCoreError) as error:
                raise StorageUnavailable(f"bucket {bucket!r} does not answer: {error}") from error

    def _upload_bucket(self) -> str:
        bucket = self._settings.upload_bucket
        if bucket is None:
            raise BucketNotAllowed("no bucket for uploads is set: see BONAFIDE_S3_BUCKETS")
        return bucket


def _require_credentials(settings: Settings) -> None:
    """Raise SetupProblem when the settings name no credentials and boto3 finds none where it looks."""
    named = settings.s3_access_key_id is not None, settings.s3_secret_access_key is not None
    if all(named):
        return
    try:
        found = None if any(named) else boto3.Session().get_credentials()
    except BotoCoreError as error:
        raise SetupProblem(f"the credentials for S3 cannot be used: {error}") from error
    if found is None:
        raise SetupProblem(
            "there are no whole credentials for S3: set both BONAFIDE_S3_ACCESS_KEY_ID and "
            "BONAFIDE_S3_SECRET_ACCESS_KEY, or give this host a role"
        )


def _open_client(settings: Settings, endpoint: str | None, connections: int) -> Any:
    secret = settings.s3_secret_access_key
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=None if secret is None else secret.get_secret_value(),
        config=_client_config(connections, path_style=endpoint is not None),
    )
    client.meta.events.register("before-parse.s3.GetObject", _leave_dates_out)
    return client


def _leave_dates_out(response_dict: dict[str, Any], **_: Any) -> None:
    """Nobody here reads them, and botocore stumbles over one that is written in another way."""
    for name in ("Last-Modified", "Expires", "x-amz-object-lock-retain-until-date"):
        response_dict["headers"].pop(name, None)


def _client_config(connections: int, *, path_style: bool) -> Config:
    return Config(
        # Without it boto3 signs view URLs in a form that S3-compatible stores refuse.
        signature_version="s3v4",
        s3={"addressing_style": "path" if path_style else "auto"},
        # One connection per thread that fetches; boto3's default of ten makes the others wait and warn.
        max_pool_connections=connections,
        # A lease is a minute: three tries within it, then the case goes back into the line.
        connect_timeout=3,
        read_timeout=10,
        retries={"mode": "standard", "total_max_attempts": 3},
        # Stores that are not AWS answer the newer default checksums with errors.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


def _version(image: ImageRef) -> dict[str, str]:
    return {"VersionId": image.version_id} if image.version_id else {}


def _read(body: Any, limit: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    with body:
        # What has come, each time anything has: where bytes trickle, a whole chunk would be waited for without end, as
        # each byte starts the connection's own timeout again. botocore's stream has no such call.
        while part := body._raw_stream.read1(CHUNK):  # noqa: SLF001
            size += len(part)
            if size > limit:
                raise ImageTooLarge(f"the file has more than {limit:,} bytes, which are as many as are read")
            if time.monotonic() > deadline:
                raise StorageTooSlow(f"storage had sent {size:,} bytes when the time for one image was over")
            parts.append(part)
    return b"".join(parts)


def _has_steps(image: ImageRef) -> bool:
    """Whether browsers cannot ask for the key: to them `.` and `..` between slashes are steps in a path."""
    return not {".", ".."}.isdisjoint(image.key.split("/"))


def _uncompressed(data: bytes, encoding: str, limit: int) -> bytes:
    """The image as browsers show it, when the store says that it is compressed.

    Raise ImageTooLarge, ImageCorrupt, or UnsupportedFormat for a compression that is not undone here.
    """
    named = {part.strip().lower() for part in encoding.split(",")}
    if named & _NOT_UNDONE:
        raise UnsupportedFormat(f"the store sends the file compressed as {encoding}: only gzip is undone")
    if not named & _GZIP:
        return data
    undo = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plain = undo.decompress(data, limit + 1)
    except zlib.error as error:
        raise ImageCorrupt("the store says that the file is compressed as gzip, and it is not") from error
    if len(plain) > limit:
        raise ImageTooLarge(f"the file has more than {limit:,} bytes, which are as many as are read")
    if not undo.eof:
        raise ImageCorrupt("the file is compressed as gzip, and ends in the middle")
    return plain


def _code(error: ClientError) -> str:
    """The store's own code, or else the status of its answer."""
    answer: Mapping[str, Any] = error.response
    named = answer.get("Error", {}).get("Code") or answer.get("ResponseMetadata", {}).get(
        "HTTPStatusCode", ""
    )
    return str(named)


def _named(error: ClientError, image: ImageRef) -> Exception:
    code = _code(error)
    if code in _GONE:
        return ImageMissing(f"{image} is not there: {code}")
    # Refused access is a matter of our keys or policy, not of the image: it waits until somebody mends that.
    return StorageUnavailable(f"storage answered {code or 'with an error'} for {image}")
