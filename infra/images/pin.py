"""`make pin-images`: writes the digest of every image that the manifests name by a version into the manifests.

    python infra/images/pin.py            resolves the versions and writes
    python infra/images/pin.py --check    writes nothing; exit status 1 where a digest is missing or another

Asks the registries themselves, anonymously or with the credentials that `docker login` or `podman login` have kept.
Our own images (`images:` of the overlays) are asked for where their registry is known: `newName` is set, and to no
example.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

INFRA = Path(__file__).resolve().parents[1]
# Images of others, with their registry, version and perhaps digest: `docker.io/library/postgres:17.9@sha256:…`.
REFERENCE = re.compile(
    r"(?P<name>(?:docker\.io|ghcr\.io|quay\.io|localhost:\d+)/[\w./-]+):(?P<tag>[\w][\w.-]*)(?P<digest>@sha256:[0-9a-f]{64})?"
)
# An entry of `images:` in a kustomization.
ENTRY = re.compile(
    r"(?P<head>newName: (?P<name>\S+)\n(?P<pad> +)newTag: (?P<tag>\S+)\n)(?P<digest> +digest: sha256:[0-9a-f]{64}\n)?"
)
# Any of them: an image for several platforms is an index, one for a single platform a manifest.
ACCEPT = ", ".join(
    f"application/vnd.{kind}"
    for kind in (
        "oci.image.index.v1+json",
        "docker.distribution.manifest.list.v2+json",
        "oci.image.manifest.v1+json",
        "docker.distribution.manifest.v2+json",
    )
)

Resolve = Callable[[str, str], str]


class PinError(Exception):
    """A registry does not tell; the message says which and why."""


def files() -> list[Path]:
    """The files that name images."""
    return [INFRA / "images/Dockerfile", INFRA / "compose.yaml", *sorted((INFRA / "k8s/overlays").glob("*/*.yaml"))]


def pin(text: str, resolve: Resolve) -> str:
    """The text with the digest of every version; what is an example stays as it is."""

    def reference(found: re.Match[str]) -> str:
        return f"{found['name']}:{found['tag']}@{resolve(found['name'], found['tag'])}"

    def entry(found: re.Match[str]) -> str:
        if found["name"].partition("/")[0].endswith("example.com"):
            return found[0]
        return f"{found['head']}{found['pad']}digest: {resolve(found['name'], found['tag'])}\n"

    return ENTRY.sub(entry, REFERENCE.sub(reference, text))


def digest(name: str, tag: str) -> str:
    """What a registry has under this version.

    Args:
        name: With the registry: `docker.io/library/postgres`.
        tag: The version.

    Raises:
        PinError: The registry does not answer, or has no such image.
    """
    host, _, path = name.partition("/")
    address = {"docker.io": "registry-1.docker.io"}.get(host, host)
    scheme = "http" if host.startswith("localhost:") else "https"
    request = urllib.request.Request(f"{scheme}://{address}/v2/{path}/manifests/{tag}", method="HEAD")
    request.add_header("Accept", ACCEPT)
    try:
        try:
            answer = urllib.request.urlopen(request, timeout=30)
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
            request.add_header("Authorization", authorization(host, error.headers["WWW-Authenticate"]))
            answer = urllib.request.urlopen(request, timeout=30)
        with answer:
            found = answer.headers.get("Docker-Content-Digest", "")
    except urllib.error.HTTPError as error:
        raise PinError(f"{name}:{tag}: {host} answers {error.code} {error.reason}") from None
    except OSError as error:
        raise PinError(f"{name}:{tag}: {host} does not answer ({getattr(error, 'reason', error)})") from None
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", found):
        raise PinError(f"{name}:{tag}: {host} tells no digest")
    return found


def authorization(host: str, challenge: str) -> str:
    """The header that a registry asks for: `Basic …`, or `Bearer …` with a token from where it says."""
    login = credentials(host)
    kind, _, rest = challenge.partition(" ")
    if kind.lower() == "basic":
        if not login:
            raise PinError(f"{host}: wants a login; run `docker login {host}`")
        return f"Basic {login}"
    wanted = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    query = urllib.parse.urlencode({key: wanted[key] for key in ("service", "scope") if key in wanted})
    request = urllib.request.Request(f"{wanted['realm']}?{query}")
    if login:
        request.add_header("Authorization", f"Basic {login}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        told = json.load(answer)
    return f"Bearer {told.get('token') or told['access_token']}"


def credentials(host: str) -> str | None:
    """What `docker login` or `podman login` kept for a registry: `user:password` in base64."""
    names = {"docker.io": ("docker.io", "https://index.docker.io/v1/")}.get(host, (host,))
    config = Path(os.environ.get("DOCKER_CONFIG", Path.home() / ".docker")) / "config.json"
    podman = Path(os.environ.get("XDG_RUNTIME_DIR", "/run/user/0")) / "containers/auth.json"
    for path in (config, podman):
        if path.is_file():
            kept = json.loads(path.read_text()).get("auths", {})
            for name in names:
                if given := kept.get(name, {}).get("auth"):
                    base64.b64decode(given, validate=True)
                    return str(given)
    return None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Pins the images of infra/ by digest.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a digest is missing or another")
    args = parser.parse_args(argv)
    known: dict[tuple[str, str], str] = {}

    def resolve(name: str, tag: str) -> str:
        if (name, tag) not in known:
            known[name, tag] = digest(name, tag)
            print(f"{name}:{tag}@{known[name, tag]}")
        return known[name, tag]

    failed = False
    for path in files():
        before = path.read_text()
        try:
            after = pin(before, resolve)
        except PinError as error:
            print(f"error: {path.relative_to(INFRA.parent)}: {error}", file=sys.stderr)
            failed = True
            continue
        if after != before and args.check:
            print(f"error: {path.relative_to(INFRA.parent)}: is not pinned to that", file=sys.stderr)
            failed = True
        elif after != before:
            path.write_text(after)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
