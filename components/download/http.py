"""Downloads from http and https addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import requests

from components.download.transfer import Body, LineError, NotModifiedError, Opener, OtherVersionError
from components.errors import StepError

TIMEOUT = (10.0, 60.0)  # seconds to connect, seconds without a byte
CHUNK = 1 << 18
BUSY = frozenset({408, 425, 429})
SECRETS = re.compile(
    r"signature|token|credential|secret|password|apikey|api_key|policy|^sig$|^key$",
    re.IGNORECASE,
)
ADVICE = {
    401: "it wants a login: download it yourself and give the file",
    403: "access is denied: check the address, or download the file yourself and give that",
    404: "there is no such file: check data.source",
    410: "the file is gone: check data.source",
}


def opener(url: str, timeout: tuple[float, float] = TIMEOUT) -> Opener:
    """Ask an http(s) server for a file, or for the rest of it."""
    session = requests.Session()

    def ask(offset: int, version: str | None, whole: bool) -> Body:
        headers = {"Accept-Encoding": "identity"}  # offsets count the bytes that are sent
        if whole and version:
            headers["If-None-Match" if '"' in version else "If-Modified-Since"] = version
        elif offset:
            headers["Range"] = f"bytes={offset}-"
            if version:
                headers["If-Range"] = version
        try:
            response = session.get(url, headers=headers, stream=True, timeout=timeout)
        except requests.RequestException as error:
            raise _trouble(url, error) from None
        return _body(response, url, offset)

    return ask


def shown(url: str) -> str:
    """Return the address without passwords and signatures, as it is printed and recorded."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    query = [(k, v) for k, v in parse_qsl(parts.query, keep_blank_values=True) if not SECRETS.search(k)]
    return urlunsplit((parts.scheme, host, parts.path, urlencode(query), ""))


def _body(response: requests.Response, url: str, offset: int) -> Body:
    status = response.status_code
    if status == 304:
        raise NotModifiedError
    if status == 416 or status == 412:
        raise OtherVersionError
    if status in BUSY or status >= 500:
        raise LineError(f"the server answers {status} {response.reason}", _retry_after(response))
    if status not in (200, 206):
        raise StepError(f"{shown(url)}: the server answers {status} {response.reason}; {_advice(status)}")
    start, total = _range(response) if status == 206 else (0, _length(response))
    return Body(start, total, _version(response), _chunks(response, url))


def _chunks(response: requests.Response, url: str) -> Iterator[bytes]:
    with response:
        try:
            yield from response.iter_content(CHUNK)
        except requests.RequestException as error:
            raise _trouble(url, error) from None


def _trouble(url: str, error: requests.RequestException) -> LineError | StepError:
    if isinstance(error, requests.exceptions.SSLError):
        return StepError(f"{shown(url)}: its certificate is not trusted ({_reason(error)}); check the address")
    if isinstance(error, requests.Timeout):
        return LineError("no answer in time")
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return LineError(_reason(error))
    return StepError(f"{shown(url)}: is no address to download from ({_reason(error)}); check data.source")


def _reason(error: BaseException) -> str:
    """Return the innermost cause, without addresses in memory and the like."""
    text = str(error)
    for known, plain in (
        ("NameResolutionError", "the name cannot be resolved: no network?"),
        ("Name or service not known", "the name cannot be resolved: no network?"),
        ("Connection refused", "the connection is refused"),
        ("Network is unreachable", "the network is unreachable"),
        ("IncompleteRead", "the connection was cut"),
        ("Connection aborted", "the connection was cut"),
        ("Connection reset", "the connection was cut"),
        ("Connection broken", "the connection was cut"),
        ("Read timed out", "no answer in time"),
        ("ProxyError", "the proxy does not answer"),
    ):
        if known in text:
            return plain
    return re.sub(r"<[^>]*>:? ?|\(Caused by |[()']", "", text).strip()


def _advice(status: int) -> str:
    return ADVICE.get(status, "check data.source")


def _range(response: requests.Response) -> tuple[int, int | None]:
    match = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if match is None:
        raise OtherVersionError
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() and not response.headers.get("Content-Encoding") else None


def _version(response: requests.Response) -> str | None:
    """Return a strong ETag, else the date; a weak ETag does not promise equal bytes."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _retry_after(response: requests.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None
