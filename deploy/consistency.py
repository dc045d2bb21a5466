"""What no schema sees: that the objects of a release fit one another."""

import re
from dataclasses import fields, is_dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import yaml

from deploy.rendering import Manifest, of_kind, pods
from reward_service.config import ServiceConfig

GRPC_PORT, HTTP_PORT, METRICS_PORT = 9000, 8000, 9464


def check(manifests: list[Manifest], config: dict[str, Any]) -> int:
    """Every rule on the objects of one release and its Serve configuration. Returns the number of rules.

    Raises:
        ValueError: a rule is broken; with all faults, one a line.
    """
    rules = [
        _names_are_unique,
        _references_resolve,
        _containers_are_confined,
        _ports_fit,
        _selectors_select,
        _rollouts_fit_into_pods,
        _settings_are_those_of_the_service,
        _budgets_leave_room,
        _trainer_reaches_the_service,
    ]
    faults = [fault for rule in rules for fault in rule(manifests, config)]
    if faults:
        raise ValueError("; ".join(faults))
    return len(rules)


def _names_are_unique(manifests: list[Manifest], _: Any) -> list[str]:
    names = [(m["kind"], m["metadata"]["name"]) for m in manifests]
    faults = [f"{kind}/{name} is there twice" for kind, name in set(names) if names.count((kind, name)) > 1]
    # KubeRay makes DNS labels of its objects' names by suffixes of its own.
    most = {"RayService": 47, "RayJob": 47}
    for kind, name in names:
        if len(name) > most.get(kind, 63):
            faults.append(f"{kind}/{name} is longer than {most.get(kind, 63)} characters")
        if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
            faults.append(f"{kind}/{name} is no DNS label that begins with a letter")
    return faults


def _references_resolve(manifests: list[Manifest], _: Any) -> list[str]:
    """Secrets, config maps and claims that a pod mounts are in the release, unless the values name them."""
    made = {(m["kind"], m["metadata"]["name"]) for m in manifests}
    ours = {m["metadata"]["labels"]["app.kubernetes.io/instance"] for m in manifests}
    faults = []
    for where, pod in pods(manifests).items():
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        for volume in volumes.values():
            for kind, name in (
                ("Secret", volume.get("secret", {}).get("secretName")),
                ("ConfigMap", volume.get("configMap", {}).get("name")),
                ("PersistentVolumeClaim", volume.get("persistentVolumeClaim", {}).get("claimName")),
            ):
                if name and (kind, name) not in made and any(name.startswith(f"{o}-phys4d") for o in ours):
                    faults.append(f"{where} mounts {kind} {name}, which nothing makes")
        for container in pod["spec"]["containers"]:
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            faults += [f"{where} mounts {name}, which is no volume of its" for name in mounted - set(volumes)]
            faults += [f"{where} has volume {name}, which is not mounted" for name in set(volumes) - mounted]
    return faults


def _containers_are_confined(manifests: list[Manifest], _: Any) -> list[str]:
    faults = []
    for where, pod in pods(manifests).items():
        if not pod["spec"].get("securityContext", {}).get("runAsNonRoot"):
            faults.append(f"{where} may run as root")
        for container in pod["spec"]["containers"]:
            security = container.get("securityContext", {})
            image = container["image"]
            told = f"{where}/{container['name']}"
            if not security.get("readOnlyRootFilesystem") or security.get("allowPrivilegeEscalation", True):
                faults.append(f"{told} can write its root file system or gain privileges")
            if security.get("capabilities", {}).get("drop") != ["ALL"]:
                faults.append(f"{told} keeps capabilities")
            if re.search(r":(latest)?$", image) or ":" not in image.rpartition("/")[2]:
                faults.append(f"{told} takes {image}; name a version")
            limits = container.get("resources", {}).get("limits", {})
            if "memory" not in limits:
                faults.append(f"{told} has no memory limit")
    return faults


def _ports_fit(manifests: list[Manifest], config: dict[str, Any]) -> list[str]:
    """Ports of Serve, of pods, of the network policies, of the gateway and of probes."""
    faults = []
    (application,) = config["applications"]
    told = {
        "grpc_options.port": (config["grpc_options"]["port"], GRPC_PORT),
        "http_options.port": (config["http_options"]["port"], HTTP_PORT),
        "metrics_port": (application["args"]["metrics_port"], METRICS_PORT),
    }
    faults += [f"serveConfigV2: {n} is {a}, pods have {e}" for n, (a, e) in told.items() if a != e]
    (service,) = of_kind(manifests, "RayService")
    cluster = service["spec"]["rayClusterConfig"]
    groups = {"head": cluster["headGroupSpec"], **{g["groupName"]: g for g in cluster["workerGroupSpecs"]}}
    for name, group in groups.items():
        (container,) = group["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        expected = {"serve": HTTP_PORT, "serve-grpc": GRPC_PORT, "metrics": 8080}
        if name == "ingress":
            expected["reward-metrics"] = METRICS_PORT
        for port, number in expected.items():
            if ports.get(port) != number:
                faults.append(f"group {name}: port {port} is {ports.get(port)}, must be {number}")
        environment = {e["name"]: e["value"] for e in container["env"]}
        if environment["RAY_SERVE_ENABLE_HA_PROXY"] != _environment(cluster)["RAY_SERVE_ENABLE_HA_PROXY"]:
            faults.append(f"group {name}: another data path than the head")
    for where, pod in pods(manifests).items():
        for container in pod["spec"]["containers"]:
            names = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                if port is not None and port not in names:
                    faults.append(f"{where}: {probe} asks port {port}, which the container has not")
    faults += _gateway_ports(manifests, service["metadata"]["name"])
    named = {
        p["name"]
        for t in pods(manifests).values()
        for c in t["spec"]["containers"]
        for p in c.get("ports", [])
    }
    for monitor in of_kind(manifests, "PodMonitor"):
        ports = [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]]
        faults += [f"PodMonitor: no pod has port {port}" for port in ports if port not in named]
    return faults


def _gateway_ports(manifests: list[Manifest], service: str) -> list[str]:
    gateways = of_kind(manifests, "Deployment")
    if not gateways:
        return []
    faults = []
    (maps,) = [m for m in of_kind(manifests, "ConfigMap") if "envoy.yaml" in m["data"]]
    envoy = yaml.safe_load(maps["data"]["envoy.yaml"])["static_resources"]
    listened = {ear["name"]: ear["address"]["socket_address"]["port_value"] for ear in envoy["listeners"]}
    ports = {
        p["name"]: p["containerPort"]
        for p in gateways[0]["spec"]["template"]["spec"]["containers"][0]["ports"]
    }
    if ports != listened:
        faults.append(f"gateway: the pod has ports {ports}, Envoy listens on {listened}")
    (endpoint,) = envoy["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    upstream = endpoint["endpoint"]["address"]["socket_address"]
    # KubeRay names the Kubernetes service of a RayService after it.
    if (upstream["address"], upstream["port_value"]) != (f"{service}-serve-svc", GRPC_PORT):
        faults.append(f"gateway: Envoy calls {upstream}, KubeRay makes {service}-serve-svc:{GRPC_PORT}")
    for front in of_kind(manifests, "Service"):
        for port in front["spec"]["ports"]:
            if port["targetPort"] not in ports:
                faults.append(f"Service/{front['metadata']['name']} targets {port['targetPort']}")
    return faults


def _selectors_select(manifests: list[Manifest], _: Any) -> list[str]:
    """Every selector finds a pod of the release, and opens only ports that it has."""
    templates = pods(manifests)

    def found(selector: dict[str, str]) -> list[Manifest]:
        labels = [(t["metadata"].get("labels", {}), t) for t in templates.values()]
        return [pod for label, pod in labels if selector.items() <= label.items()]

    faults = []
    for manifest in manifests:
        kind, name, spec = manifest["kind"], manifest["metadata"]["name"], manifest.get("spec", {})
        selectors = {
            "Service": spec.get("selector"),
            "Deployment": (spec.get("selector") or {}).get("matchLabels"),
            "PodDisruptionBudget": (spec.get("selector") or {}).get("matchLabels"),
            "PodMonitor": (spec.get("selector") or {}).get("matchLabels"),
            "NetworkPolicy": spec.get("podSelector", {}).get("matchLabels"),
        }
        selector = selectors.get(kind)
        if kind in selectors and not (selector and found(selector)):
            faults.append(f"{kind}/{name} selects no pod: {selector}")
        if kind != "NetworkPolicy" or not selector:
            continue
        numbers = {
            port["containerPort"]
            for pod in found(selector)
            for container in pod["spec"]["containers"]
            for port in container["ports"]
        } | {52365}  # The agent that Ray starts on every node.
        for rule in spec["ingress"]:
            opened = {port["port"] for port in rule.get("ports", [])}
            faults += [
                f"NetworkPolicy/{name} opens {port}, where nobody listens" for port in opened - numbers
            ]
    return faults


def _rollouts_fit_into_pods(manifests: list[Manifest], config: dict[str, Any]) -> list[str]:
    """The pods that autoscaling may reach hold the replicas that it may reach."""
    (service,) = of_kind(manifests, "RayService")
    groups = {g["groupName"]: g for g in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]}
    deployments = {d["name"]: d for d in config["applications"][0]["deployments"]}
    nodes = what_the_autoscaler_reads(service)
    faults = []
    for group_name, deployment_name in (("ingress", "Ingress"), ("scorers", "Scorer")):
        group, deployment = groups[group_name], deployments[deployment_name]
        (container,) = group["template"]["spec"]["containers"]
        limits, asked = container["resources"]["limits"], deployment["ray_actor_options"]
        offered = nodes[group_name]["resources"]
        if not {"CPU": int(limits["cpu"])}.items() <= offered.items():
            faults.append(f"group {group_name}: Ray reads {offered}, the pod has {limits['cpu']} CPUs")
        room = [offered["CPU"] / asked["num_cpus"]]
        gpus = sum(float(v) for k, v in limits.items() if "gpu" in k)
        if asked.get("num_gpus"):
            room.append(gpus / asked["num_gpus"])
        room += [offered.get(name, 0) / amount for name, amount in asked["resources"].items()]
        most = deployment["autoscaling_config"]["max_replicas"]
        if int(min(room)) * group["maxReplicas"] < most:
            faults.append(f"{deployment_name}: {most} replicas do not fit into {group['maxReplicas']} pods")
        if offered.get("GPU", 0) != gpus:
            faults.append(f"group {group_name}: Ray is told another number of GPUs than the pod has")
        drain = deployment["graceful_shutdown_timeout_s"]
        if group["template"]["spec"]["terminationGracePeriodSeconds"] <= drain:
            faults.append(f"group {group_name}: pods end before {deployment_name} has drained ({drain} s)")
    return faults


def what_the_autoscaler_reads(service: Manifest) -> dict[str, Any]:
    """Groups of a RayService's cluster with their resources, as Ray's own autoscaler understands them.

    Raises:
        ValueError: it does not.
    """
    from ray.autoscaler._private.kuberay import autoscaling_config

    metadata = {"name": "check", "namespace": "check"}
    cluster = {"metadata": metadata, "spec": service["spec"]["rayClusterConfig"]}
    read = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)
    return read["available_node_types"]


def _settings_are_those_of_the_service(_: list[Manifest], config: dict[str, Any]) -> list[str]:
    from phys4d.runtime.config import from_mapping

    arguments = config["applications"][0]["args"]
    try:
        from_mapping(ServiceConfig, arguments, "serveConfigV2 args")
    except ValueError as error:
        return [str(error)]
    return []


def _budgets_leave_room(manifests: list[Manifest], _: Any) -> list[str]:
    """A disruption budget of one replica with `maxUnavailable: 0` would block every drain of a node."""
    budgets = of_kind(manifests, "PodDisruptionBudget")
    return [
        f"PodDisruptionBudget/{b['metadata']['name']} lets no pod go"
        for b in budgets
        if not b["spec"].get("maxUnavailable")
    ]


def _trainer_reaches_the_service(manifests: list[Manifest], _: Any) -> list[str]:
    """The trainer's endpoint is a service of the release, and its pods may call it."""
    faults = []
    services = {s["metadata"]["name"]: s for s in of_kind(manifests, "Service")}
    (ray,) = of_kind(manifests, "RayService")
    for job in of_kind(manifests, "Job"):
        labels = job["spec"]["template"]["metadata"]["labels"]
        if labels.get("phys4d.dev/reward-client") != "true":
            faults.append(f"Job/{job['metadata']['name']} lacks the label that the network policy asks for")
    for script in [
        m["data"]["trainer.sh"] for m in of_kind(manifests, "ConfigMap") if "trainer.sh" in m["data"]
    ]:
        called = re.search(r"--reward.endpoint (\S+):(\d+)", script)
        if called is None:
            faults.append("trainer.sh names no endpoint")
            continue
        host, port = called.group(1), int(called.group(2))
        if host in services:
            if port not in [p["port"] for p in services[host]["spec"]["ports"]]:
                faults.append(f"trainer.sh calls {host}:{port}, a port that service has not")
        elif (host, port) != (f"{ray['metadata']['name']}-serve-svc", GRPC_PORT):
            faults.append(f"trainer.sh calls {host}:{port}, which is no service of the release")
    return faults


def check_rewards(config: dict[str, Any]) -> list[str]:
    """Every class that the service loads as a reward exists. Returns those whose package is not here.

    Raises:
        ValueError: the package is here, and has no such module or class.
    """
    targets = " ".join(config["applications"][0]["args"]["rewards"])
    absent = []
    for module, name in sorted(set(re.findall(r"\b([A-Za-z_][\w.]*):([A-Za-z_]\w*)\(", targets))):
        if find_spec(module.partition(".")[0]) is None:
            absent.append(f"{module}:{name}")
            continue
        try:
            found = hasattr(import_module(module), name)
        except ImportError as error:
            raise ValueError(f"rewards: importPath {module}:{name} cannot be imported: {error}") from None
        if not found:
            raise ValueError(f"rewards: importPath {module}:{name}: the module has no {name}")
    return absent


def check_value_schema(schema: dict[str, Any]) -> int:
    """The chart takes the settings that the service has, and no others. Returns how many.

    Raises:
        ValueError: the chart knows a setting that the service has not, or lacks one of a nested table.
    """
    config = schema["properties"]["config"]["properties"]
    for table in fields(ServiceConfig):
        name, settings = table.name, table.default_factory
        # TLS is the gateway's.
        if not is_dataclass(settings) or name == "tls":
            continue
        here = set(config.get(name, {}).get("properties", ()))
        there = {field.name for field in fields(settings)}
        if here != there:
            raise ValueError(
                f"values.schema.json: config.{name} differs from the service: {sorted(here ^ there)}"
            )
    unknown = set(config) - {field.name for field in fields(ServiceConfig)}
    if unknown:
        raise ValueError(f"values.schema.json: config has {sorted(unknown)}, the service has not")
    return len(config)


def _environment(cluster: dict[str, Any]) -> dict[str, str]:
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry["value"] for entry in head["env"]}
