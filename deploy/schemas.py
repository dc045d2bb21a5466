"""Objects against the schemas of their kinds."""

import json
from pathlib import Path
from typing import Any

import yaml

from deploy.rendering import Manifest

KUBERNETES_VERSION = "1.33"
KUBERAY_VERSION = "1.7.0"


def check_core(manifests: list[Manifest]) -> int:
    """Kubernetes' own kinds, strictly: unknown fields are refused. Returns how many there were.

    Raises:
        ValueError: an object does not fit.
    """
    import kubernetes_validate

    core = [
        m for m in manifests if "." not in m["apiVersion"].partition("/")[0] or "k8s.io" in m["apiVersion"]
    ]
    for manifest in core:
        try:
            kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise ValueError(
                f"{_name(manifest)}: {'.'.join(map(str, error.path))}: {error.message}"
            ) from None
    return len(core)


def ray_schemas(folder: Path) -> dict[str, Any]:
    """JSON schemas of RayService and RayJob from KubeRay's CRDs, by kind; unknown fields are refused.

    Raises:
        ValueError: a CRD is not there.
    """
    from jsonschema import Draft202012Validator

    found = {}
    for plural in ("rayservices", "rayjobs"):
        path = folder / f"ray.io_{plural}.v{KUBERAY_VERSION}.yaml"
        if not path.is_file():
            raise ValueError(
                f"no {path}; give the folder of KubeRay {KUBERAY_VERSION}'s CRDs, or leave --crds out"
            )
        definition = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)["spec"]
        (version,) = [v for v in definition["versions"] if v["name"] == "v1"]
        schema = version["schema"]["openAPIV3Schema"]
        found[definition["names"]["kind"]] = Draft202012Validator(_closed(schema))
    return found


def check_ray(manifests: list[Manifest], schemas: dict[str, Any]) -> int:
    """Ray's kinds against KubeRay's CRDs. Returns how many there were.

    Raises:
        ValueError: an object does not fit.
    """
    ray = [manifest for manifest in manifests if manifest["apiVersion"].startswith("ray.io/")]
    for manifest in ray:
        for error in schemas[manifest["kind"]].iter_errors(manifest):
            raise ValueError(f"{_name(manifest)}: {'.'.join(map(str, error.path))}: {error.message[:300]}")
    return len(ray)


def check_serve_config(text: str) -> dict[str, Any]:
    """A Serve configuration against Ray's schema, and for keys that Ray ignores. Returns it.

    Raises:
        ValueError: it does not fit.
    """
    from ray.serve import schema
    from ray.serve.config import AutoscalingConfig

    config = yaml.safe_load(text)
    try:
        parsed = schema.ServeDeploySchema.model_validate(config)
    except ValueError as error:
        raise ValueError(f"serveConfigV2: {error}") from None
    # Ray drops a misspelled key without a word.
    parts: list[tuple[str, Any, Any]] = [
        ("serveConfigV2", config, schema.ServeDeploySchema),
        ("http_options", config["http_options"], schema.HTTPOptionsSchema),
        ("grpc_options", config["grpc_options"], schema.gRPCOptionsSchema),
        ("logging_config", config["logging_config"], schema.LoggingConfig),
    ]
    for application in config["applications"]:
        parts.append((application["name"], application, schema.ServeApplicationSchema))
        for deployment in application["deployments"]:
            name = deployment["name"]
            try:
                AutoscalingConfig(**deployment["autoscaling_config"])
            except ValueError as error:
                raise ValueError(f"serveConfigV2, {name}, autoscaling_config: {error}") from None
            parts += [
                (name, deployment, schema.DeploymentSchema),
                (name, deployment["ray_actor_options"], schema.RayActorOptionsSchema),
                (name, deployment["autoscaling_config"], AutoscalingConfig),
            ]
    for where, values, model in parts:
        unknown = sorted(set(values) - set(model.model_fields))
        if unknown:
            raise ValueError(f"serveConfigV2, {where}: unknown keys {', '.join(unknown)}")
    assert len(parsed.applications) == len(config["applications"])
    return config


def check_dashboard(path: Path) -> list[str]:
    """The queries of a Grafana dashboard, after a look at its shape.

    Raises:
        ValueError: a panel has no query, or two share an id or a place.
    """
    board = json.loads(path.read_text(encoding="utf-8"))
    panels = board["panels"]
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    for what, values in {"id": [p["id"] for p in panels], "place": places}.items():
        if len(set(values)) != len(values):
            raise ValueError(f"{path.name}: two panels share one {what}: {values}")
    queries = []
    for panel in panels:
        if panel["type"] == "row":
            continue
        if not panel.get("targets"):
            raise ValueError(f"{path.name}: panel {panel['title']!r} has no query")
        queries += [target["expr"] for target in panel["targets"]]
    return queries


def _closed(schema: Any) -> Any:
    """The schema with unknown fields refused wherever fields are listed, as Kubernetes does on request."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # A CRD's metadata is any object: Kubernetes itself checks it.
    closed = {key: _closed(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    properties = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if properties and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


def _name(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"
