"""The object store, as the environment names it.

Credentials, region and endpoint (`AWS_ENDPOINT_URL`) are those of the environment; without credentials buckets are
asked as a stranger, which public ones allow.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore
from botocore.config import Config

from components.errors import StepError


def client(attempts: int = 1) -> Any:
    """Return an S3 client.

    Args:
        attempts: How often a request is made that the line or the server fails; 1 leaves retries to the caller.
    """
    session = boto3.Session()
    settings = {
        "connect_timeout": 10,
        "read_timeout": 60,
        "retries": {"mode": "standard", "total_max_attempts": attempts},
    }
    if session.get_credentials() is None:
        settings["signature_version"] = botocore.UNSIGNED
    return session.client("s3", config=Config(**settings), region_name=session.region_name or "us-east-1")


def split(url: str) -> tuple[str, str]:
    """Bucket and key of an address.

    Raises:
        StepError: There is no bucket.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc:
        raise StepError(f"{url}: names no bucket; write s3://bucket/key")
    return parts.netloc, parts.path.lstrip("/")
