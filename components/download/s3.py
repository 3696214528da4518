"""Downloads from s3://bucket/key: an archive, or everything below a prefix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as NotConnected

from components.download.transfer import Body, LineError, NotModifiedError, Opener, OtherVersionError
from components.errors import StepError

CHUNK = 1 << 18
BUSY = frozenset({"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling"})


def opener(s3: Any, bucket: str, key: str) -> Opener:
    """Ask for an object, or for the rest of it."""

    def ask(offset: int, version: str | None, whole: bool) -> Body:
        wanted = {"IfNoneMatch": version} if whole and version else {}
        if offset:
            wanted = {"Range": f"bytes={offset}-"} | ({"IfMatch": version} if version else {})
        try:
            answer = s3.get_object(Bucket=bucket, Key=key, **wanted)
        except (ClientError, BotoCoreError) as error:
            raise trouble(error, f"s3://{bucket}/{key}") from None
        start = offset if "ContentRange" in answer else 0
        return Body(
            start,
            start + int(answer["ContentLength"]),
            answer.get("ETag"),
            _chunks(answer["Body"]),
        )

    return ask


def objects(s3: Any, bucket: str, prefix: str) -> dict[str, int]:
    """Return key and size of everything below a prefix; of `prefix` itself where it is an object.

    Raises:
        StepError: The bucket is not to be had.
        LineError: The server does not answer.
    """
    shown = f"s3://{bucket}/{prefix}"
    try:
        if prefix and not prefix.endswith("/"):
            return {prefix: int(s3.head_object(Bucket=bucket, Key=prefix)["ContentLength"])}
    except (ClientError, BotoCoreError) as error:
        if _status(error) not in (
            403,
            404,
        ):  # both may mean that only objects below it exist
            raise trouble(error, shown) from None
    sizes: dict[str, int] = {}
    try:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            sizes |= {str(entry["Key"]): int(entry["Size"]) for entry in page.get("Contents", ())}
    except (ClientError, BotoCoreError) as error:
        raise trouble(error, shown) from None
    below = prefix.rstrip("/") + "/" if prefix else ""
    return {k: size for k, size in sizes.items() if k == prefix or (k.startswith(below) and not k.endswith("/"))}


def _chunks(body: Any) -> Iterator[bytes]:
    try:
        yield from body.iter_chunks(CHUNK)
    except (IncompleteReadError, HTTPClientError, BotoCoreError, OSError):
        raise LineError("the connection was cut") from None
    finally:
        body.close()


def _status(error: ClientError | BotoCoreError) -> int:
    response = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def trouble(error: ClientError | BotoCoreError, shown: str) -> Exception:
    """Return what an error of the client means."""
    if isinstance(error, HTTPClientError | NotConnected):
        # One that was closed before the answer says nothing of where it led.
        endpoint = (getattr(error, "kwargs", None) or {}).get("endpoint_url")
        return LineError(f"no connection to {endpoint or 'the server'}")
    if not isinstance(error, ClientError):
        return StepError(f"{shown}: {error}; check the AWS settings of the environment")
    code = str(error.response["Error"].get("Code", ""))
    status = _status(error)
    if status == 304:
        return NotModifiedError()
    if status in (412, 416):
        return OtherVersionError()
    if status >= 500 or code in BUSY:
        return LineError(f"the server answers {status} {code}")
    if status == 404:
        return StepError(f"{shown}: there is no such bucket or object; check data.source")
    if status in (401, 403):
        return StepError(
            f"{shown}: access is denied ({code}); set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
        )
    return StepError(f"{shown}: the server answers {status} {code}; check data.source")
