"""What `make deploy-check` refuses: every kind of fault once, put into the chart's own objects."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from deploy import consistency, gateway, images, rendering, schemas, scripts
from deploy.check import CheckConfig, check, exported_names, metrics_of, render_for_here
from reward_service.cluster import app

PROFILE = rendering.CHART / "profiles" / "gpu-pool.yaml"


@pytest.fixture(scope="module")
def rendered() -> list[rendering.Manifest]:
    return rendering.render(PROFILE)


@pytest.fixture
def manifests(rendered) -> list[rendering.Manifest]:
    return copy.deepcopy(rendered)


def one(manifests: list[rendering.Manifest], kind: str, end: str = "") -> rendering.Manifest:
    return next(m for m in rendering.of_kind(manifests, kind) if m["metadata"]["name"].endswith(end))


def serve_config(manifests: list[rendering.Manifest]) -> dict:
    return yaml.safe_load(one(manifests, "RayService")["spec"]["serveConfigV2"])


def test_a_misspelled_key_is_found_where_ray_and_kubernetes_would_drop_it(manifests, tmp_path: Path) -> None:
    config = serve_config(manifests)
    config["applications"][0]["deployments"][0]["max_ongoing_request"] = 3
    with pytest.raises(ValueError, match="Ingress: unknown keys max_ongoing_request"):
        schemas.check_serve_config(yaml.safe_dump(config))
    for name, value in (("min_replicas", 100), ("downscale_delay_s", -1)):
        config = serve_config(manifests)
        config["applications"][0]["deployments"][1]["autoscaling_config"][name] = value
        with pytest.raises(ValueError, match="Scorer, autoscaling_config: "):
            schemas.check_serve_config(yaml.safe_dump(config))
    one(manifests, "Deployment")["spec"]["replica"] = 3
    with pytest.raises(ValueError, match="Deployment/check-phys4d-gateway"):
        schemas.check_core(manifests)
    # A CRD of one field stands for KubeRay's, whose fields are closed in the same way.
    for plural, kind in (("rayservices", "RayService"), ("rayjobs", "RayJob")):
        spec = {"type": "object", "properties": {"suspend": {"type": "boolean"}}}
        schema = {"type": "object", "properties": {"spec": spec, "metadata": {"type": "object"}}}
        schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
        versions = [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]
        definition = {"spec": {"names": {"kind": kind}, "versions": versions}}
        (tmp_path / f"ray.io_{plural}.v1.7.0.yaml").write_text(yaml.safe_dump(definition))
    crds = schemas.ray_schemas(tmp_path)
    fine = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "a"}, "spec": {"suspend": True}}
    assert schemas.check_ray([fine], crds) == 1
    with pytest.raises(ValueError, match="RayJob/a: spec: Additional properties"):
        schemas.check_ray([{**fine, "spec": {"suspended": True}}], crds)
    with pytest.raises(ValueError, match="no .*nonexistent.*; give the folder of KubeRay"):
        check(CheckConfig(crds=tmp_path / "nonexistent"))


def break_port(manifests):
    head = one(manifests, "RayService")["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    head["containers"][0]["ports"][-2]["containerPort"] = 9001


def break_length(manifests):
    one(manifests, "RayJob")["metadata"]["name"] = "d" * 48


def break_secret(manifests):
    one(manifests, "Secret", "-token")["metadata"]["name"] = "check-phys4d-toke"


def break_selector(manifests):
    one(manifests, "PodDisruptionBudget", "scorers")["spec"]["selector"]["matchLabels"][
        "app.kubernetes.io/component"
    ] = "x"


def break_policy(manifests):
    one(manifests, "NetworkPolicy", "gateway")["spec"]["ingress"][0]["ports"][0]["port"] = 443


def break_user(manifests):
    one(manifests, "Job")["spec"]["template"]["spec"]["containers"][0]["securityContext"] = {}


def break_envoy(manifests):
    for made in rendering.of_kind(manifests, "ConfigMap"):
        if "envoy.yaml" in made["data"]:
            made["data"]["envoy.yaml"] = made["data"]["envoy.yaml"].replace("-serve-svc", "-svc")


def break_trainer(manifests):
    for made in rendering.of_kind(manifests, "ConfigMap"):
        if "trainer.sh" in made["data"]:
            made["data"]["trainer.sh"] = made["data"]["trainer.sh"].replace("gateway:9443", "gateway:443")


def break_gpus(manifests):
    groups = one(manifests, "RayService")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    groups[1]["rayStartParams"]["num-gpus"] = "2"


def break_room(manifests):
    groups = one(manifests, "RayService")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    groups[1]["rayStartParams"]["resources"] = """'{"phys4d_scorer": 2}'"""


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (break_port, "group head: port serve-grpc is 9001"),
        (break_length, "RayJob/d{48} is longer than 47 characters"),
        (break_secret, "mounts Secret check-phys4d-token, which nothing makes"),
        (break_selector, "PodDisruptionBudget/check-phys4d-scorers selects no pod"),
        (break_policy, "opens 443, where nobody listens"),
        (break_user, "can write its root file system"),
        (break_envoy, "KubeRay makes check-phys4d-serve-svc:9000"),
        (break_trainer, "a port that service has not"),
        (break_gpus, "another number of GPUs"),
        (break_room, "Scorer: 64 replicas do not fit into 16 pods"),
    ],
)
def test_objects_that_do_not_fit_one_another_are_told(manifests, fault, told: str) -> None:
    fault(manifests)
    with pytest.raises(ValueError, match=told):
        consistency.check(manifests, serve_config(manifests))


def test_envoy_itself_loads_its_configuration_with_mtls_too(manifests, monkeypatch) -> None:
    asking = rendering.render(rendering.CHART / "profiles" / "custom-rewards.yaml")
    assert gateway.validate(manifests) == "Envoy's TLS configuration"
    assert gateway.validate(asking) == "Envoy's mTLS configuration"
    (made,) = [m for m in rendering.of_kind(asking, "ConfigMap") if "envoy.yaml" in m["data"]]
    text = made["data"]["envoy.yaml"]
    for right, wrong, told in (
        ("trusted_ca", "trusted_cas", "no such field: 'trusted_cas'"),
        ("refuse(handle, status", "refuse(handle status", "script load error"),
    ):
        made["data"]["envoy.yaml"] = text.replace(right, wrong)
        with pytest.raises(ValueError, match=f"Envoy refuses envoy.yaml: .*{told}"):
            gateway.validate(asking)
    monkeypatch.setattr(gateway, "envoy", lambda: None)
    assert gateway.validate(asking).endswith("no envoy here; run make setup on Linux x86-64")


def test_what_is_started_here_takes_shares_of_a_gpu_as_on_a_pool(manifests) -> None:
    shares = [
        serve_config(objects)["applications"][0]["deployments"][1]["ray_actor_options"]["num_gpus"]
        for objects in (render_for_here(), manifests)
    ]
    assert shares == [0.25, 0.25]


def test_rewards_that_do_not_exist_are_told_where_their_package_is_here(manifests) -> None:
    config = serve_config(manifests)
    arguments = config["applications"][0]["args"]
    arguments["rewards"] = [
        "examples.motion_smoothness:MotionSmoothness(scale_px=2)",
        "elsewhere.judge:Judge()",
    ]
    assert consistency.check_rewards(config) == ["elsewhere.judge:Judge"]
    for target in ("examples.motion_smoothness:Roughness", "examples.roughness:Roughness"):
        arguments["rewards"] = [f"reward_service.combined:NamedReward(name='a', target='{target}()')"]
        with pytest.raises(ValueError, match=f"importPath {target}"):
            consistency.check_rewards(config)


def test_settings_and_flags_are_read_by_the_programs_that_get_them(manifests) -> None:
    assert scripts.check(manifests)[-4:] == ["phys4d.scenes.render"] * 4
    with pytest.raises(ValueError, match="unknown key 'max_queue'.*did you mean 'max_queued'"):
        app({"max_queue": 3})
    with pytest.raises(ValueError, match="put a gateway in front"):
        app({"tls": {"cert_file": "a", "key_file": "b"}})
    job = one(manifests, "RayJob")
    job["spec"]["entrypoint"] = job["spec"]["entrypoint"].replace("--num-samples", "--num-sample")
    with pytest.raises(ValueError, match="unknown option '--num-sample'"):
        scripts.check(manifests)


def test_a_dockerfile_that_runs_as_root_or_copies_what_is_not_there_is_refused(
    tmp_path: Path, monkeypatch
) -> None:
    text = (images.ROOT / "deploy" / "reward.Dockerfile").read_text()
    (tmp_path / "deploy").mkdir()
    for path in ("constraints.txt", "pyproject.toml", "README.md", "LICENSE", "phys4d", "reward_service"):
        (tmp_path / path).touch()
    (tmp_path / "deploy" / "reward.Dockerfile").write_text(
        text.replace("USER 10001:10001", "USER root")
        .replace("pip install -c constraints.txt setup", "pip install setup")
        .replace("HEALTHCHECK --", "HEALTHCHECK NONE\n# --")
    )
    monkeypatch.setattr(images, "ROOT", tmp_path)
    with pytest.raises(ValueError) as told:
        images.check("reward-cpu")
    for fault in (
        "USER root",
        "COPY examples: there is no such file",
        "pip without -c constraints.txt",
        "no HEALTHCHECK",
    ):
        assert fault in str(told.value)


def test_metrics_are_found_in_queries_and_in_what_prometheus_reads() -> None:
    named = metrics_of(rendering.CHART / "dashboards" / "reward-service.json")
    assert {"phys4d_outcomes_total", "ray_serve_deployment_queued_queries"} <= named
    text = '# HELP a b\nphys4d_calls_total{code="OK"} 3\nray_node_cpu_utilization 4\n'
    assert exported_names(text) == {"phys4d_calls_total", "ray_node_cpu_utilization"}


def test_settings_that_chart_and_service_do_not_share_are_told() -> None:
    path = rendering.CHART / "values.schema.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    config = schema["properties"]["config"]["properties"]
    assert consistency.check_value_schema(schema) == len(config)
    for name in ("chamfer", "surface", "limits"):
        table = config.pop(name)
        with pytest.raises(ValueError, match=f"config.{name} differs from the service"):
            consistency.check_value_schema(schema)
        config[name] = table
    config["chamfers"] = {}
    with pytest.raises(ValueError, match="config has .'chamfers'., the service has not"):
        consistency.check_value_schema(schema)
