"""The manifests and docs/deploy.md, held to schemas and to the code that they deploy.

In: the YAML of deploy/kubernetes, the JSON and the commands of the document. Kubernetes'
schemas come with kubernetes-validate, KEDA's are in tests/schemas. Needs no cluster.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from django.urls import resolve, reverse

from patientsite import __version__
from patientsite import settings as defaults
from profiles.api import bodies

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy/kubernetes"
FILES = sorted(FOLDER.glob("**/*.yaml"))
DOCUMENT = (ROOT / "docs/deploy.md").read_text()
KUBERNETES = "1.37"
KEDA = json.loads((ROOT / "tests/schemas/keda.json").read_text())
ENVIRONMENT = {"AWS_DEFAULT_REGION"}
"""What the manifests set besides our settings: the libraries read it themselves."""


def manifests(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


MANIFESTS = {
    (str(path.relative_to(FOLDER)), manifest["kind"], manifest["metadata"]["name"]): (
        manifest
    )
    for path in FILES
    if path.name != "kustomization.yaml"
    for manifest in manifests(path)
}


def the(kind: str, name: str) -> dict[str, Any]:
    [found] = [m for (_, k, n), m in MANIFESTS.items() if (k, n) == (kind, name)]
    return found


def of(*kinds: str) -> list[dict[str, Any]]:
    return [m for (_, kind, _), m in MANIFESTS.items() if kind in kinds]


WORKLOADS = of("Deployment", "StatefulSet", "Job")
PODS = {m["metadata"]["name"]: m["spec"]["template"]["spec"] for m in WORKLOADS}
CONTAINERS = [
    container
    for pod in PODS.values()
    for container in [*pod.get("initContainers", []), *pod["containers"]]
]
every_pod = pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
every_container = pytest.mark.parametrize(
    "container", CONTAINERS, ids=lambda container: container["name"]
)


# Shape


@pytest.mark.parametrize("place", MANIFESTS, ids="-".join)
def test_a_manifest_is_what_its_schema_allows_and_nothing_else(place):
    manifest = MANIFESTS[place]
    if manifest["apiVersion"].startswith("keda.sh/"):
        jsonschema.validate(manifest, KEDA[manifest["kind"]])
    else:
        schemas = pytest.importorskip("kubernetes_validate", reason="no schemas here")
        assert schemas.validate(manifest, KUBERNETES, strict=True) == KUBERNETES


@pytest.mark.parametrize(
    "folder", [FOLDER, FOLDER / "keda"], ids=lambda path: path.name
)
def test_kustomize_includes_every_file_but_the_form_of_the_secrets(folder):
    [kustomization] = manifests(folder / "kustomization.yaml")
    there = {path.name for path in folder.glob("*.yaml")}
    assert set(kustomization["resources"]) == there - {
        "kustomization.yaml",
        "secret.yaml",
    }


def test_the_form_holds_no_secret():
    for secret in of("Secret"):
        assert set(secret["stringData"].values()) == {""}
        assert "data" not in secret


# Pods


@every_container
def test_the_image_is_pinned_to_this_version(container):
    [kustomization] = manifests(FOLDER / "kustomization.yaml")
    assert kustomization["images"] == [
        {"name": "patient-profile", "newTag": __version__}
    ]
    assert container["image"] == f"patient-profile:{__version__}"
    assert f"FROM patient-profile:{__version__}\n" in DOCUMENT


@every_pod
def test_a_pod_runs_as_the_image_s_user_who_is_not_root(pod):
    [uid, gid] = re.findall(
        r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.M
    )[0]
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert (security["runAsUser"], security["runAsGroup"]) == (int(uid), int(gid))
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False


@every_container
def test_a_container_writes_to_its_volumes_alone(container):
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert the("ConfigMap", "patient-profile")["data"]["VAR_DIR"] in mounted


@every_container
def test_a_container_has_requests_and_a_memory_limit(container):
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert "memory" in container["resources"]["limits"]


@every_container
def test_a_container_s_command_is_one_of_ours(container):
    command = container["command"]
    assert command[:2] == ["python", "manage.py"]
    ours = {path.stem for path in ROOT.glob("profiles/management/commands/*.py")}
    assert command[2] in ours | {"migrate"}


@pytest.mark.parametrize("name", ["web", "pages", "consumer"])
def test_a_pod_has_time_to_finish_its_work(name):
    pod = PODS[name]
    pause = sum(
        container.get("lifecycle", {})
        .get("preStop", {})
        .get("sleep", {})
        .get("seconds", 0)
        for container in pod["containers"]
    )
    assert pod["terminationGracePeriodSeconds"] - pause >= 15


@every_container
def test_a_probe_asks_where_the_process_answers(container):
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        if probe := container.get(kind, {}).get("httpGet"):
            assert resolve(probe["path"]).view_name
            assert probe["port"] in ports
            assert ports[probe["port"]] in (defaults.PORT, 9100)


def test_only_readiness_depends_on_kafka():
    [web] = PODS["web"]["containers"]
    assert web["readinessProbe"]["httpGet"]["path"] == "/readyz"
    for container in CONTAINERS:
        assert "/readyz" not in str(container.get("livenessProbe"))


def test_prometheus_reads_an_open_port():
    for workload in of("Deployment", "StatefulSet"):
        template = workload["spec"]["template"]
        [container] = template["spec"]["containers"]
        [port] = container["ports"]
        told = template["metadata"]["annotations"]
        assert told["prometheus.io/port"] == str(port["containerPort"])
    [consumer] = PODS["consumer"]["containers"]
    assert {"name": "METRICS_PORT", "value": "9100"} in consumer["env"]


# Settings


def test_every_variable_is_a_setting():
    known = set(re.findall(r'"([A-Z]+_[A-Z_]+|PORT)"', settings_text())) | ENVIRONMENT
    given = [*the("ConfigMap", "patient-profile")["data"]]
    given += [name for secret in of("Secret") for name in secret["stringData"]]
    given += [e["name"] for c in CONTAINERS for e in c.get("env", [])]
    assert {name for name in given if name.isupper()} <= known


def settings_text() -> str:
    return (ROOT / "patientsite/settings.py").read_text()


def test_every_source_of_variables_exists():
    there = {(m["kind"], m["metadata"]["name"]) for m in of("ConfigMap", "Secret")}
    for container in CONTAINERS:
        for source in container["envFrom"]:
            [(kind, reference)] = source.items()
            named = kind.removesuffix("Ref")
            assert (named[0].upper() + named[1:], reference["name"]) in there


def test_the_numbers_and_names_are_the_settings_defaults():
    data = the("ConfigMap", "patient-profile")["data"]
    assert data["KAFKA_PARTITIONS"] == str(defaults.KAFKA_PARTITIONS)
    assert data["KAFKA_TOPIC"] == defaults.KAFKA_TOPIC
    assert data["DYNAMODB_TABLE"] == defaults.DYNAMODB_TABLE


def test_production_can_start_with_these_settings_once_the_secrets_are_filled_in(
    monkeypatch, tmp_path
):
    data = the("ConfigMap", "patient-profile")["data"]
    for name, value in {**data, "VAR_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DJANGO_SECRET_KEY", "0123456789" * 5)
    loaded: dict[str, Any] = {"__file__": str(ROOT / "patientsite/settings.py")}
    exec(settings_text(), loaded)  # noqa: S102
    assert loaded["DEVELOPMENT"] is False
    assert loaded["DYNAMODB_ENDPOINT_URL"] == ""
    assert loaded["TRUST_PROXY"] is True


# Scale


def test_no_more_consumers_than_partitions():
    scaled = the("ScaledObject", "consumer")["spec"]
    assert scaled["maxReplicaCount"] == defaults.KAFKA_PARTITIONS
    assert scaled["minReplicaCount"] >= 1


def test_lag_is_that_of_the_consumer_s_group():
    [trigger] = the("ScaledObject", "consumer")["spec"]["triggers"]
    data = the("ConfigMap", "patient-profile")["data"]
    asked = trigger["metadata"]
    assert asked["topic"] == data["KAFKA_TOPIC"]
    assert asked["consumerGroup"] == f"profiles-{data['DYNAMODB_TABLE']}"
    assert asked["bootstrapServers"] == data["KAFKA_BOOTSTRAP_SERVERS"]
    assert asked["offsetResetPolicy"] == "earliest"


@pytest.mark.parametrize("name", ["web", "consumer"])
def test_no_manifest_sets_the_replicas_of_an_autoscaler(name):
    assert "replicas" not in the("Deployment", name)["spec"]


@pytest.mark.parametrize("name", ["web", "consumer"])
def test_a_drained_node_stops_one_pod_at_a_time(name):
    workload, budget = the("Deployment", name), the("PodDisruptionBudget", name)
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["selector"] == workload["spec"]["selector"]


def test_the_sign_in_database_is_on_one_pod_s_volume():
    pages = the("StatefulSet", "pages")["spec"]
    [claim] = pages["volumeClaimTemplates"]
    assert pages["replicas"] == 1
    assert claim["metadata"]["name"] == "var"


# Network


def test_the_ingress_leads_to_every_address_but_probes_and_metrics():
    [rule] = the("Ingress", "patient-profile")["spec"]["rules"]
    data = the("ConfigMap", "patient-profile")["data"]
    assert rule["host"] in data["DJANGO_ALLOWED_HOSTS"].split(",")
    leads = {path["path"] for path in rule["http"]["paths"]}
    urls = (ROOT / "profiles/urls.py").read_text()
    ours = {"/" + found for found in re.findall(r'\bpath\("(\w*)', urls)}
    assert leads - {"/static"} == ours - {"/livez", "/readyz", "/metrics"}


def test_the_proxy_accepts_every_body_that_the_service_accepts():
    size = annotation("patient-profile", "proxy-body-size")
    assert int(size.removesuffix("m")) * 1024 * 1024 == bodies.MANY_BYTES


def test_the_ingress_limits_sign_in_requests():
    [rule] = the("Ingress", "sign-in")["spec"]["rules"]
    [path] = rule["http"]["paths"]
    assert reverse("admin:login").startswith(path["path"])
    assert path["backend"]["service"]["name"] == "pages"
    assert int(annotation("sign-in", "limit-rpm")) > 0


def annotation(ingress: str, name: str) -> str:
    """The annotations of an ingress for the one controller that the policy admits."""
    manifest = the("Ingress", ingress)
    assert manifest["spec"]["ingressClassName"] == "nginx"
    assert "ingress-nginx" in str(the("NetworkPolicy", "visitors"))
    return str(
        manifest["metadata"]["annotations"][f"nginx.ingress.kubernetes.io/{name}"]
    )


def test_the_proxy_logs_no_query():
    [told] = [block for block in blocks("yaml") if "log-format-upstream" in block]
    logged = set(re.findall(r"\$\w+", yaml.safe_load(told)["log-format-upstream"]))
    assert "$uri" in logged
    assert not logged & {"$request", "$request_uri", "$args", "$http_referer"}


def test_every_service_has_pods():
    for service in of("Service"):
        pods = [
            workload["spec"]["template"]
            for workload in WORKLOADS
            if workload["spec"]["template"]["metadata"]["labels"]
            == service["spec"]["selector"]
        ]
        [template] = pods
        [port] = service["spec"]["ports"]
        ports = template["spec"]["containers"][0]["ports"]
        assert port["targetPort"] in {p["name"] for p in ports}


def test_the_network_policy_allows_kafka():
    [out] = [m for m in of("NetworkPolicy") if "Egress" in m["spec"]["policyTypes"]]
    open_ports = {p["port"] for rule in out["spec"]["egress"] for p in rule["ports"]}
    servers = the("ConfigMap", "patient-profile")["data"]["KAFKA_BOOTSTRAP_SERVERS"]
    assert {
        int(server.rpartition(":")[2]) for server in servers.split(",")
    } < open_ports


# Rights

ACTIONS = {
    "get_item": {"GetItem"},
    "scan": {"Scan"},
    "describe_table": {"DescribeTable"},
    "create_table": {"CreateTable"},
    "table_exists": {"DescribeTable"},
    "update_item": {"UpdateItem"},
    "delete_item": {"DeleteItem"},
    "batch_execute_statement": {"PartiQLUpdate", "PartiQLInsert"},
}


def calls(module: str) -> set[str]:
    """What a module uses of its DynamoDB client: operations, waiters, paginators."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / "profiles" / module).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if not re.fullmatch(r"(self\._)?client", ast.unparse(node.func.value)):
                continue
            name = node.func.attr
            if name == "connect":  # of the module `client`
                continue
            if name in ("get_waiter", "get_paginator"):
                name = ast.literal_eval(node.args[0])
            found.add(name)
    return found


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.M | re.S)


POLICIES = {
    statement["Sid"]: statement
    for block in blocks("json")
    if '"Statement"' in block
    for statement in json.loads(block)["Statement"]
}


@pytest.mark.parametrize(
    ("sid", "modules"),
    [
        ("Web", ["dynamodb/reader.py"]),
        ("Consumer", [f"dynamodb/{name}.py" for name in ("writer", "attempt", "wire")]),
        ("Provision", ["operate/provision.py"]),
    ],
)
def test_a_policy_allows_what_the_process_calls_and_nothing_else(sid, modules):
    called = set().union(*map(calls, modules))
    needed: set[str] = set().union(*(ACTIONS[call] for call in called))
    allowed = POLICIES[sid]["Action"]
    assert needed
    assert set(allowed) == {f"dynamodb:{action}" for action in needed}
    assert POLICIES[sid]["Effect"] == "Allow"
    assert POLICIES[sid]["Resource"].endswith(":table/patient-profile")


def test_partiql_is_used_for_no_more_than_the_policy_allows():
    text = (ROOT / "profiles/core/items.py").read_text()
    verbs = re.findall(r"f'(UPDATE|INSERT|DELETE|SELECT) ", text)
    allowed = ACTIONS["batch_execute_statement"]
    assert {f"PartiQL{verb.title()}" for verb in verbs} == allowed


def test_no_other_module_calls_dynamodb():
    """But the self-test, for engines that are not AWS."""
    speaking = {
        path.name for path in ROOT.glob("profiles/**/*.py") if calls_dynamodb(path)
    }
    consumer = {"writer.py", "attempt.py", "wire.py"}
    assert speaking == {"reader.py", *consumer, "provision.py", "self_test.py"}


def calls_dynamodb(path: Path) -> bool:
    text = path.read_text()
    return any(f"client.{call}(" in text for call in ACTIONS)


@pytest.mark.parametrize(
    "properties",
    [block for block in blocks("json") if '"security.protocol"' in block],
)
def test_a_worked_example_is_accepted_by_settings_and_librdkafka(
    properties, settings, certificate
):
    from profiles.kafka import clients

    taken = defaults.properties(properties)
    settings.KAFKA_BOOTSTRAP_SERVERS = "127.0.0.1:1"
    settings.KAFKA_CONFIG = {
        name: certificate.get(name, value) for name, value in taken.items()
    }
    assert clients.admin() is not None
    assert clients.consumer(lambda error, places: None) is not None


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Files that the examples name: a certificate that signed itself, and its key."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "web")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number()
        )
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("certificate")
    pem = serialization.Encoding.PEM
    (folder / "tls.crt").write_bytes(signed.public_bytes(pem))
    (folder / "tls.key").write_bytes(
        key.private_bytes(
            pem,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return {
        "ssl.ca.location": str(folder / "tls.crt"),
        "ssl.certificate.location": str(folder / "tls.crt"),
        "ssl.key.location": str(folder / "tls.key"),
    }


def test_every_metric_to_watch_exists():
    counted = set(
        re.findall(
            r'"(profile_\w+)"', (ROOT / "profiles/runtime/metrics.py").read_text()
        )
    )
    named = set(re.findall(r"`(profile_\w+)", DOCUMENT))
    assert named
    assert {
        re.sub(r"_(total|bucket|count|sum)$", "", name) for name in named
    } <= counted
