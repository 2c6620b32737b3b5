"""What `deploy/` says of this project is so: versions, variables, flags, commands and secrets."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from optikit_assets.bucket import Bucket
from optikit_assets.engines import engine_variables
from optikit_assets.environments.variables import worker_variables
from optikit_assets.headless.driver import STOP_LIMIT_S
from optikit_assets.locations import REPOSITORY
from optikit_assets.specs import Catalog

FOLDER = REPOSITORY / "deploy" / "kubernetes"
DOCUMENTS: list[dict[str, Any]] = [
    document
    for file in sorted(FOLDER.glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))
]
SECRETS = {d["metadata"]["name"]: d["stringData"] for d in DOCUMENTS if d["kind"] == "Secret"}


def the(kind: str) -> dict[str, Any]:
    (found,) = [document for document in DOCUMENTS if document["kind"] == kind]
    return found


def groups() -> list[dict[str, Any]]:
    spec = the("RayCluster")["spec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def pods() -> list[dict[str, Any]]:
    templates = [*groups(), the("Job")["spec"]]
    return [template["template"]["spec"] for template in templates]


def containers() -> Iterator[dict[str, Any]]:
    for pod in pods():
        yield from pod["containers"]


def control() -> dict[str, Any]:
    return the("Job")["spec"]["template"]["spec"]["containers"][0]


def test_the_cluster_has_the_ray_that_is_pinned():
    pins = (REPOSITORY / "requirements" / "control-ray.txt").read_text()
    assert f"\nray=={the('RayCluster')['spec']['rayVersion']}\n" in pins


def test_every_variable_is_one_that_the_code_reads():
    code = "".join(
        file.read_text(encoding="utf-8")
        for file in [
            *(REPOSITORY / "optikit_assets").rglob("*.py"),
            *(REPOSITORY / "deploy" / "postgres").glob("*.yaml"),
        ]
    )
    text = "".join(file.read_text(encoding="utf-8") for file in FOLDER.iterdir())
    fields = (REPOSITORY / "optikit_assets" / "settings.py").read_text(encoding="utf-8")
    for name in sorted(set(re.findall(r"OPTIKIT_[A-Z_]+", text))):
        field = name.removeprefix("OPTIKIT_").lower()
        assert name in code or f"\n    {field}: " in fields, name


def test_credentials_come_from_secrets_and_reach_the_workers_of_the_store():
    for container in containers():
        for source in container.get("envFrom", []):
            assert source["secretRef"]["name"] in SECRETS
        for variable in container["env"]:
            if "valueFrom" in variable:
                chosen = variable["valueFrom"]["secretKeyRef"]
                assert chosen["key"] in SECRETS[chosen["name"]]
            else:
                assert not re.search("KEY|SECRET|PASSWORD|TOKEN|URL", variable["name"])
    environ = dict.fromkeys(SECRETS["optikit-store"], "x")
    store = next(v["value"] for v in control()["env"] if v["name"] == "OPTIKIT_STORE")
    asked = Bucket(store).variables
    assert worker_variables(environ, engine_variables(), asked).keys() == environ.keys()
    told = {source["secretRef"]["name"] for c in containers() for source in c.get("envFrom", [])}
    token = the("RayCluster")["spec"]["authOptions"]["secretName"]
    assert told | {token} == SECRETS.keys()
    assert {text for data in SECRETS.values() for text in data.values()} <= {
        "REPLACE",
        "postgresql+psycopg2://optikit:REPLACE@postgres:5432/optikit",
    }


def test_only_nodes_of_a_pool_have_cards_and_a_node_has_as_many_as_it_asks_for():
    head, *nodes = groups()
    no_cards = {"num-cpus": "0", "num-gpus": "0"}
    assert no_cards.items() <= head["rayStartParams"].items()
    for flag in no_cards:
        assert f" --{flag}=0" in control()["args"][0]
    for group in nodes:
        (container,) = group["template"]["spec"]["containers"]
        asked = container["resources"]
        assert asked["limits"] == asked["requests"]
        assert asked["limits"]["nvidia.com/gpu"] == "8"
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    assert len({group["groupName"] for group in nodes}) == len(nodes)


def test_pods_have_one_image_no_rights_and_a_limit():
    assert len({container["image"] for container in containers()}) == 1
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["automountServiceAccountToken"] is False
    for container in containers():
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
    # The driver ends its stages before it is killed.
    job = the("Job")["spec"]["template"]["spec"]
    assert job["terminationGracePeriodSeconds"] > STOP_LIMIT_S
    rules = the("NetworkPolicy")["spec"]["ingress"][0]["from"]
    assert {
        "podSelector": {"matchLabels": the("Job")["spec"]["template"]["metadata"]["labels"]}
    } in rules


def test_what_pods_start_is_there():
    job = next(v["value"] for v in control()["env"] if v["name"] == "JOB")
    assert job in Catalog.load(REPOSITORY / "recipes").jobs
    instance = next(v["value"] for v in control()["env"] if v["name"] == "OPTIKIT_INSTANCE")
    image = (FOLDER / "Containerfile").read_text(encoding="utf-8")
    (root,) = re.findall(r"^WORKDIR (\S+)$", image, re.M)
    assert (REPOSITORY / instance.removeprefix(f"{root}/")).is_file()
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^RUN make (\S+)$", image, re.M):
        assert re.search(rf"^{target}:", makefile, re.M)


@pytest.mark.parametrize("probe", ["readinessProbe", "livenessProbe"])
def test_probes_ask_ray_itself_for_the_dashboard_is_not_installed(probe: str):
    for group in groups():
        (container,) = group["template"]["spec"]["containers"]
        assert "ray health-check" in " ".join(container[probe]["exec"]["command"])
