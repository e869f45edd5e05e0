"""S3, which holds the platform's images: read under limits, signed for viewing and uploading, never changed.

Our archives of old cases lie in another bucket, and no image is read from it.

Any S3-compatible store will do. The library's exceptions stop here and become `errors.ImageRejected` when the image is
at fault, `errors.StorageUnavailable` when the store is.
"""

import hashlib
import time
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
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

#: Bytes read at a time, so that reading a file over the limit stops early.
CHUNK = 256 * 1024

#: The store has nothing (more) to fetch, and asking again changes nothing. Three digits are the status of an answer
#: without a code, for example in HTML.
_GONE = {
    *("NoSuchKey", "NoSuchVersion", "404"),  # not NoSuchBucket: a missing allowed bucket is our fault
    *("MethodNotAllowed", "405"),  # the version is a delete marker
    "InvalidObjectState",  # archived
    *("InvalidArgument", "InvalidURI", "InvalidBucketName", "KeyTooLongError"),  # no such name can exist
    "XMinioInvalidObjectName",  # the same in MinIO's words
}
#: A store that keeps no versions answers so when one is asked for. Without a version it is a fault of the store.
_NO_VERSIONS = {"NotImplemented", "501"}

#: The reason for a key with steps. Nobody can be shown such an image, so it is not analysed.
_NOBODY_SEES_IT = (
    "The key has a `.` or `..` between slashes: browsers leave it out and would ask for another object, so that nobody "
    "could be shown this one."
)
#: Compressions that browsers and we undo. Other values of the header (`aws-chunked`, `utf-8`) are no compression, and
#: browsers ignore them.
_GZIP = {"gzip", "x-gzip"}
#: Compressions that browsers undo and we do not.
_NOT_UNDONE = {"deflate", "br", "zstd", "compress", "x-compress", "dcb", "dcz"}


@dataclass(frozen=True)
class FetchedImage:
    data: bytes
    #: Digest of `data`, in hexadecimal.
    sha256: str
    #: Version of the object that was read. None when the bucket keeps no versions.
    version_id: str | None


@dataclass(frozen=True)
class Upload:
    """A signed permission to PUT one image."""

    image: ImageRef
    url: str
    headers: Mapping[str, str]
    expires_at: datetime


class Storage:
    """The buckets that this installation may read. Threads may share it."""

    def __init__(self, settings: Settings, *, connections: int = 10) -> None:
        """Raise SetupProblem without credentials."""
        self._settings = settings
        _require_credentials(settings)
        self._client = _open_client(settings, settings.s3_endpoint_url, connections)
        public = settings.s3_public_endpoint_url
        # Signing connects to nothing; it only needs the address that the URL's reader will use.
        self._signer = self._client if public is None else _open_client(settings, public, 1)

    def allow(self, image: ImageRef) -> None:
        """Raise BucketNotAllowed unless the image lies in one of this installation's buckets."""
        if not self._reads(image):
            raise BucketNotAllowed(f"images are not read from the bucket {image.bucket!r}")

    def _reads(self, image: ImageRef) -> bool:
        return image.bucket in self._settings.s3_buckets

    def fetch_image(self, image: ImageRef) -> FetchedImage:
        """The exact bytes of this version, read under the limits of size and time.

        Raise ImageMissing, ImageTooLarge, BucketNotRead, StorageUnavailable after the client's own retries, or
        StorageTooSlow when bytes still come after `image_fetch_seconds`.
        """
        if not self._reads(image):
            # Intake accepted it, but this process is set up with fewer buckets. An operator can repair that.
            raise BucketNotRead(
                f"this worker may not read the bucket {image.bucket!r}",
                inside="BONAFIDE_S3_BUCKETS does not name it",
            )
        if _has_steps(image):
            raise ImageMissing(_NOBODY_SEES_IT)
        limit = self._settings.image_max_bytes
        deadline = time.monotonic() + self._settings.image_fetch_seconds
        try:
            reply = self._client.get_object(Bucket=image.bucket, Key=image.key, **_version(image))
            # Some stores give no length: they send pieces, or send until they close.
            length = reply.get("ContentLength")
            if length is not None and length > limit:
                raise ImageTooLarge(f"The file has {length:,} bytes; at most {limit:,} are read.")
            data = _read(reply["Body"], limit, deadline)
        except ClientError as error:
            raise _named(error, image) from error
        except (BotoCoreError, HTTPError, ResponseParserError) as error:
            raise StorageUnavailable("storage does not answer", inside=str(error)) from error
        if length is not None and len(data) != length:
            raise StorageUnavailable(f"storage sent {len(data):,} of {length:,} bytes")
        data = _uncompressed(data, reply.get("ContentEncoding") or "", limit)
        return FetchedImage(data, hashlib.sha256(data).hexdigest(), reply.get("VersionId"))

    def put_image(self, key: str, data: bytes, media_type: str) -> ImageRef:
        """Store bytes under `key`. For our own commands; platforms use a signed upload."""
        bucket = self._upload_bucket()
        with _answering("storage refused the upload"):
            reply = self._client.put_object(Bucket=bucket, Key=key, Body=data, ContentType=media_type)
        return ImageRef(bucket, key, reply.get("VersionId"))

    def sign_upload(self, media_type: str, *, owner: str, sha256: str | None = None) -> Upload:
        """Permit a PUT of one key, for a while. Different owners never share a key.

        With `sha256` the same bytes get the same key, so that a repeated flag is the same flag. Without it every upload
        has a new key that nobody can guess.
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
        """A URL that shows this image for some minutes. It is made when somebody looks, and never stored.

        Raise RequestRefused for a key that browsers would change.
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
        """Write an archive's object. Raise SetupProblem for a bucket of images."""
        if bucket in self._settings.s3_buckets:
            # Otherwise somebody could flag an archive's object as an image, and reviewers would get a signed URL of it.
            raise SetupProblem(
                f"archives cannot lie in {bucket!r}, which images are read from: give them a bucket of their own"
            )
        with _answering(f"storage refused the archive {bucket}/{key}"):
            self._client.put_object(Bucket=bucket, Key=key, Body=data, ContentType="application/gzip")

    def read_archive(self, bucket: str, key: str) -> bytes:
        """An archive's whole object. Raise ArchiveBroken when it is gone."""
        try:
            return self._client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except ClientError as error:
            if _code(error) in ("NoSuchKey", "404"):
                raise ArchiveBroken(f"s3://{bucket}/{key} is gone") from error
            raise StorageUnavailable(f"storage answered {_code(error)} for {bucket}/{key}") from error
        except (BotoCoreError, ResponseParserError) as error:
            raise StorageUnavailable("storage does not answer", inside=str(error)) from error

    def remove_archive(self, bucket: str, key: str) -> None:
        """Remove an archive's object. Do nothing when it is gone."""
        with _answering(f"storage did not remove {bucket}/{key}"):
            self._client.delete_object(Bucket=bucket, Key=key)

    def ping(self) -> None:
        """Raise StorageUnavailable unless every allowed bucket answers."""
        for bucket in self._settings.s3_buckets:
            with _answering(f"bucket {bucket!r} does not answer"):
                self._client.head_bucket(Bucket=bucket)

    def _upload_bucket(self) -> str:
        bucket = self._settings.upload_bucket
        if bucket is None:
            raise BucketNotAllowed("no bucket for uploads is set: see BONAFIDE_S3_BUCKETS")
        return bucket


@contextmanager
def _answering(otherwise: str) -> Generator[None]:
    """Raise StorageUnavailable with these words when the store refuses or does not answer."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise StorageUnavailable(otherwise, inside=str(error)) from error


def _require_credentials(settings: Settings) -> None:
    """Raise SetupProblem when neither the settings nor boto3's usual places have credentials."""
    named = settings.s3_access_key_id is not None, settings.s3_secret_access_key is not None
    if all(named):
        return
    try:
        found = None if any(named) else boto3.Session().get_credentials()
    except BotoCoreError as error:
        raise SetupProblem(f"the credentials for S3 cannot be used: {error}") from error
    if found is None:
        raise SetupProblem(
            "the credentials for S3 are incomplete: set both BONAFIDE_S3_ACCESS_KEY_ID and "
            "BONAFIDE_S3_SECRET_ACCESS_KEY, or give this host a role"
        )


def _open_client(settings: Settings, endpoint: str | None, connections: int) -> Any:
    secret = settings.s3_secret_access_key
    config = Config(
        # Without this boto3 signs view URLs in a form that S3-compatible stores refuse.
        signature_version="s3v4",
        s3={"addressing_style": "auto" if endpoint is None else "path"},
        # One connection per thread that fetches. With boto3's default of ten the others wait and warn.
        max_pool_connections=connections,
        # A lease is a minute: three tries fit into it, then the case returns to the line.
        connect_timeout=3,
        read_timeout=10,
        retries={"mode": "standard", "total_max_attempts": 3},
        # Stores that are not AWS answer the newer default checksums with errors.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=None if secret is None else secret.get_secret_value(),
        config=config,
    )
    client.meta.events.register("before-parse.s3.GetObject", _leave_dates_out)
    return client


def _leave_dates_out(response_dict: dict[str, Any], **_: Any) -> None:
    """Drop dates: we read none, and botocore fails on unusual ones."""
    for name in ("Last-Modified", "Expires", "x-amz-object-lock-retain-until-date"):
        response_dict["headers"].pop(name, None)


def _version(image: ImageRef) -> dict[str, str]:
    return {"VersionId": image.version_id} if image.version_id else {}


def _read(body: Any, limit: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    with body:
        # Read what has come so far. Otherwise a slow sender could keep us waiting for a whole chunk without end: each
        # byte restarts the connection's timeout. botocore's stream has no such call.
        while part := body._raw_stream.read1(CHUNK):  # noqa: SLF001
            size += len(part)
            if size > limit:
                raise ImageTooLarge(f"The file has more than {limit:,} bytes, the most that we read.")
            if time.monotonic() > deadline:
                raise StorageTooSlow(f"storage had sent {size:,} bytes when the time for one image was over")
            parts.append(part)
    return b"".join(parts)


def _has_steps(image: ImageRef) -> bool:
    """Whether browsers cannot request the key: they treat `.` and `..` between slashes as steps in a path."""
    return not {".", ".."}.isdisjoint(image.key.split("/"))


def _uncompressed(data: bytes, encoding: str, limit: int) -> bytes:
    """Undo the compression that the store names, as browsers do.

    Raise ImageTooLarge, ImageCorrupt, or UnsupportedFormat for a compression that we do not undo.
    """
    named = {part.strip().lower() for part in encoding.split(",")}
    if named & _NOT_UNDONE:
        raise UnsupportedFormat(f"The store sends the file compressed as {encoding}: only gzip is supported.")
    if not named & _GZIP:
        return data
    undo = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plain = undo.decompress(data, limit + 1)
    except zlib.error as error:
        raise ImageCorrupt("The store says that the file is compressed as gzip, and it is not.") from error
    if len(plain) > limit:
        raise ImageTooLarge(f"The file has more than {limit:,} bytes, the most that we read.")
    if not undo.eof:
        raise ImageCorrupt("The file is compressed as gzip, and ends in the middle.")
    return plain


def _code(error: ClientError) -> str:
    """The store's code, or without one the status of its answer."""
    answer: Mapping[str, Any] = error.response
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
    return str(answer.get("Error", {}).get("Code") or status)


def _named(error: ClientError, image: ImageRef) -> Exception:
    code = _code(error)
    if code in _GONE:
        return ImageMissing(f"The image {image} is not there: {code}.")
    if image.version_id is not None and code in _NO_VERSIONS:
        return ImageMissing(
            f"The flag names the version {image.version_id} of s3://{image.bucket}/{image.key}, and the store keeps no "
            f"versions ({code}). Flag the image again without a version."
        )
    # Our keys or policy are at fault, not the image: it waits until somebody repairs that.
    return StorageUnavailable(f"storage answered {code or 'with an error'} for {image}")
