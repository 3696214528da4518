"""`make cluster-check`: renders every overlay, validates it strictly and holds it to our policy. Needs no cluster.

Rendering takes `kustomize` or `kubectl`; where neither is installed but Go is, kustomize is built from its module.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import yaml

from infra.k8s import policy

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COMPOSE = HERE.parent / "compose.yaml"
KUSTOMIZE = "v5.8.1"
KSERVE = ("serving.kserve.io/v1beta1", "InferenceService")
# The oldest and the newest Kubernetes that the manifests are for.
KUBERNETES = ("1.32", "1.35")


class CheckError(Exception):
    """Something is missing, or does not render; the message says what to do."""


def overlays() -> list[Path]:
    """All overlays, by name."""
    return sorted(path.parent for path in (HERE / "overlays").glob("*/kustomization.yaml"))


def renderer() -> list[str]:
    """The command that renders a folder."""
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            return command
    built = ROOT / ".cache/bin/kustomize"
    if not built.is_file():
        if not shutil.which("go"):
            raise CheckError("neither kustomize nor kubectl is installed, nor Go to build the former")
        print(f"building kustomize {KUSTOMIZE}", file=sys.stderr)
        module = f"sigs.k8s.io/kustomize/kustomize/v5@{KUSTOMIZE}"
        subprocess.run(["go", "install", module], check=True, env=os.environ | {"GOBIN": str(built.parent)})
    return [str(built), "build"]


def render(folder: Path) -> list[dict[str, Any]]:
    """The resources of a folder with a kustomization.

    Raises:
        CheckError: It does not render.
    """
    done = subprocess.run([*renderer(), str(folder)], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise CheckError(f"{folder.name}: does not render: {done.stderr.strip()}")
    if done.stderr.strip():  # something that the next release will refuse
        raise CheckError(f"{folder.name}: renders with a warning: {done.stderr.strip()}")
    return [resource for resource in yaml.safe_load_all(done.stdout) if resource]


def invalid(resource: dict[str, Any], version: str) -> str | None:
    """What this version of Kubernetes would refuse; an unknown field, kind or API version is refused too."""
    if (resource["apiVersion"], resource["kind"]) == KSERVE:
        # Kubernetes has no schema of KServe's own; its predictor is a pod's specification with a few more fields.
        if set(resource["spec"]) != {"predictor"}:
            return f"{policy.name(resource)}: spec has a predictor, and nothing else that could be checked"
        meta = {key: resource["metadata"][key] for key in ("name", "namespace")}
        made = policy.template(resource)
        sentence = invalid(
            {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": made and made["spec"]}, version
        )
        return sentence and sentence.replace("Pod ", "InferenceService ", 1)
    try:
        kubernetes_validate.validate(resource, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        path = ".".join(str(part) for part in error.path)
        return f"{policy.name(resource)}: {path or 'resource'}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        return f"{policy.name(resource)}: Kubernetes {version} has no {resource['kind']} of {resource['apiVersion']}"
    return None


def troubles(resources: list[dict[str, Any]], *, digests: bool = False) -> Iterator[str]:
    """All that is wrong with the resources of an overlay.

    Args:
        resources: As rendered.
        digests: Whether every image must be named by its digest.
    """
    wrong: dict[str, list[str]] = {}  # the same sentence for every version is said once
    for version in KUBERNETES:
        for resource in resources:
            if sentence := invalid(resource, version):
                wrong.setdefault(sentence, []).append(version)
    if wrong:
        yield from wrong
        return  # the rules rely on the structure
    seen: set[tuple[str, str]] = set()
    for resource in resources:
        key = (resource["apiVersion"].partition("/")[0], policy.name(resource))
        if key in seen:
            yield f"{policy.name(resource)}: is there twice"
        seen.add(key)
    for rule in (*policy.RULES, *((policy.digests,) if digests else ())):
        yield from rule(resources)


def pinned_releases() -> Iterator[str]:
    """What is wrong with references to other people's manifests: they need a release, not a branch."""
    for path in sorted(HERE.rglob("kustomization.yaml")):
        for resource in yaml.safe_load(path.read_text()).get("resources", ()):
            if "://" in resource and policy.moving(f"x:{resource.partition('?ref=')[2]}"):
                yield f"{path.relative_to(HERE)}: {resource}: names no release; end it with ?ref=VERSION"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Checks the manifests of infra/k8s without a cluster.")
    parser.add_argument("--digests", action="store_true", help="every image must be named by its digest")
    args = parser.parse_args(argv)
    count = 0
    try:
        for folder in overlays():
            resources = render(folder)
            found = list(troubles(resources, digests=args.digests))
            for sentence in found:
                print(f"error: {folder.name}: {sentence}", file=sys.stderr)
            count += len(found)
            print(f"{folder.name}: {len(resources)} resources, {len(found)} errors")
    except CheckError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for sentence in (*pinned_releases(), *policy.compose(yaml.safe_load(COMPOSE.read_text()))):
        print(f"error: {sentence}", file=sys.stderr)
        count += 1
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
