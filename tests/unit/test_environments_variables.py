"""What of the environment reaches workers and servers, and what a result depends on."""

from optikit_assets.engines import engine_variables
from optikit_assets.engines.environment import server_environment
from optikit_assets.environments.variables import (
    effective_variables,
    server_variables,
    worker_variables,
)

ENGINES = engine_variables()
ENVIRON = {
    "PATH": "/bin",
    "HOME": "/root",
    "LC_ALL": "C",
    "HF_HOME": "/models",
    "HF_TOKEN": "hub-secret",
    "OPENAI_API_KEY": "endpoint-secret",
    "VLLM_ATTENTION_BACKEND": "X",
    "VLLM_API_KEY": "server-secret",
    "VLLM_CPU_KVCACHE_SPACE": "40",
    "VLLM_CACHE_ROOT": "/elsewhere",
    "LD_PRELOAD": "/lib/libtcmalloc.so",
    "NCCL_P2P_DISABLE": "1",
    "NCCL_SECRET_KEY": "nccl-secret",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "3",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "CUDA_LAUNCH_BLOCKING": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": "/home/someone",
    "AWS_SECRET_ACCESS_KEY": "cloud-secret",
    "OPTIKIT_STORE": "s3://bucket",
    "OPTIKIT_POSTGRES_URL": "postgresql+psycopg2://optikit:database-secret@db/optikit",
    "OPTIKIT_POSTGRES_PASSWORD": "database-secret",
    "SOME_PROGRAM": "1",
}
EFFECTIVE = {
    "VLLM_ATTENTION_BACKEND",
    "LD_PRELOAD",
    "NCCL_P2P_DISABLE",
    "CUDA_LAUNCH_BLOCKING",
    "TOKENIZERS_PARALLELISM",
}
PLUMBING = {
    "PATH",
    "HOME",
    "LC_ALL",
    "HF_HOME",
    "CUDA_DEVICE_ORDER",
    "CUDA_VISIBLE_DEVICES",
    "OPTIKIT_STORE",
}


def test_only_what_may_change_the_outcome_is_effective():
    assert set(effective_variables(ENVIRON, ENGINES)) == EFFECTIVE
    assert list(effective_variables(ENVIRON, ENGINES)) == sorted(EFFECTIVE)


def test_a_worker_gets_its_credentials_and_nothing_of_other_programs():
    assert set(worker_variables(ENVIRON, ENGINES)) == {
        *EFFECTIVE,
        *PLUMBING,
        "HF_TOKEN",
        "OPENAI_API_KEY",
    }


def test_what_a_store_reads_reaches_a_worker_that_uses_it_and_no_server():
    clouds = {"AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "ARCHIVE_TOKEN", "ARCHIVE_USER"}
    own = {**ENVIRON, **dict.fromkeys(clouds, "secret")}
    for store, reached in (
        ((), set()),
        (("AWS_*",), {"AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"}),
        (("ARCHIVE_TOKEN",), {"ARCHIVE_TOKEN"}),
    ):
        assert clouds & worker_variables(own, ENGINES, store).keys() == reached
        assert not clouds & server_variables(own, ENGINES).keys()


def test_a_server_gets_no_secret_at_all():
    reached = server_environment(ENGINES, base=ENVIRON)
    assert set(server_variables(ENVIRON, ENGINES)) == EFFECTIVE | PLUMBING
    assert not any("secret" in value for value in reached.values())
    assert "SOME_PROGRAM" not in reached
    # A worker's own path, by which vLLM finds a scheduler of ours.
    assert reached["PYTHONPATH"] == "/home/someone"


def test_what_optikit_sets_itself_does_not_come_from_outside():
    reached = server_environment(ENGINES, base=ENVIRON)
    assert not {"VLLM_CPU_KVCACHE_SPACE", "VLLM_API_KEY", "OMP_NUM_THREADS"} & set(reached)


def test_a_variable_of_ones_own_is_passed_on_and_counts():
    own = {**ENVIRON, "MY_PLUGIN_MODE": "fast", "MY_PLUGIN_TOKEN": "plugin-secret"}
    assert "MY_PLUGIN_MODE" not in effective_variables(own, ENGINES)
    own["OPTIKIT_PASS_ENVIRONMENT"] = "SOME_PROGRAM, MY_PLUGIN_*"
    assert set(effective_variables(own, ENGINES)) == {*EFFECTIVE, "SOME_PROGRAM", "MY_PLUGIN_MODE"}
