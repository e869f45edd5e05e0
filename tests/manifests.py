"""Renders the Kustomize folders of deploy/, so that tests need no cluster and no binary.

Only what those folders use: resources, components, namespace, images and JSON 6902 patches. A test compares the outcome
with `kubectl kustomize` where there is one.
"""

from pathlib import Path
from typing import Any

import jsonpatch
import yaml

Manifest = dict[str, Any]

_KNOWN = {"apiVersion", "kind", "namespace", "resources", "components", "images", "patches"}
_WITHOUT_NAMESPACE = {"Namespace", "PersistentVolume", "ClusterRole"}


def render(folder: Path) -> list[Manifest]:
    """Every manifest of this folder, in no particular order."""
    return _render(folder, [])


def load(path: Path) -> list[Manifest]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one is not None]


def _render(folder: Path, given: list[Manifest]) -> list[Manifest]:
    (wanted,) = load(folder / "kustomization.yaml")
    unknown = set(wanted) - _KNOWN
    assert not unknown, f"{folder} uses {unknown}: teach it to this module first"
    manifests = list(given)
    for name in wanted.get("resources", []):
        path = folder / name
        manifests += _render(path, []) if path.is_dir() else load(path)
    for name in wanted.get("components", []):
        manifests = _render(folder / name, manifests)
    for patch in wanted.get("patches", []):
        manifests = _patched(manifests, patch["target"], yaml.safe_load(patch["patch"]))
    for manifest in manifests:
        if "namespace" in wanted and manifest["kind"] not in _WITHOUT_NAMESPACE:
            manifest["metadata"]["namespace"] = wanted["namespace"]
        for container in containers_of(manifest):
            for image in wanted.get("images", []):
                if container["image"] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"
    return manifests


def _patched(manifests: list[Manifest], target: Manifest, operations: list[Manifest]) -> list[Manifest]:
    meant = [m for m in manifests if (m["kind"], m["metadata"]["name"]) == (target["kind"], target["name"])]
    assert len(meant) == 1, f"a patch is meant for {target}, and {len(meant)} fit"
    return [jsonpatch.apply_patch(m, operations) if m is meant[0] else m for m in manifests]


def pod_of(manifest: Manifest) -> Manifest | None:
    """The pod's specification in a Deployment, Job or CronJob."""
    template = template_of(manifest)
    return None if template is None else template["spec"]


def template_of(manifest: Manifest) -> Manifest | None:
    match manifest["kind"]:
        case "Deployment" | "Job":
            return manifest["spec"]["template"]
        case "CronJob":
            return manifest["spec"]["jobTemplate"]["spec"]["template"]
        case _:
            return None


def containers_of(manifest: Manifest) -> list[Manifest]:
    pod = pod_of(manifest)
    return [] if pod is None else [*pod.get("initContainers", []), *pod["containers"]]
