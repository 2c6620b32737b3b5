"""The server's lifecycle with a stand-in for ``python -m vllm.entrypoints.openai.api_server``."""

import http.client
import os
import socket
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from optikit_assets.engines import EngineServer, detect, get_engine
from optikit_assets.engines import server as server_module
from optikit_assets.engines.scheduling import sched_batch
from optikit_assets.engines.server import HOST, free_port
from optikit_assets.engines.start_failures import classify, root_cause
from optikit_assets.errors import (
    AcceleratorError,
    EndpointError,
    ServerStartError,
    StorageError,
)

pytestmark = pytest.mark.serial
VLLM = get_engine("vllm")
PRELUDE = """
import http.server, os, signal, subprocess, sys, time
arguments = dict(a.lstrip("-").partition("=")[::2] for a in sys.argv[1:])
print("arguments", sys.argv[1:], flush=True)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *unused): pass

def serve():
    http.server.HTTPServer((arguments["host"], int(arguments["port"])), Handler).serve_forever()
"""

OUT_OF_MEMORY = """
print("ValueError: No available memory for the cache blocks. Try increasing it.", flush=True)
print("RuntimeError: Engine core initialization failed. See root cause above.", flush=True)
sys.exit(1)
"""


# Of vLLM 0.32: v1/worker/utils.py (request_memory) and v1/worker/gpu_worker.py.
_PREFIX = "(EngineCore pid=7) ERROR 11-21 10:00:00 [core.py:1136] "
TAKEN = (
    f"{_PREFIX}ValueError: Free memory on device cuda:0 (3.22/79.11 GiB) on startup is less than "
    "desired GPU memory utilization (0.95, 75.15 GiB). Decrease GPU memory utilization or reduce "
    "GPU memory used by other processes."
)
TOO_HIGH = TAKEN.replace("3.22", "78.6").replace("(0.95, 75.15", "(0.995, 78.71")
FREED = (
    f"{_PREFIX}AssertionError: Error in memory profiling. Initial free memory 60.2 GiB, current "
    "free memory 70.51 GiB. This happens when other processes sharing the same container release "
    "GPU memory while vLLM is profiling during initialization. To fix this, ensure consistent GPU "
    "memory allocation or isolate vLLM in its own container."
)


@pytest.fixture
def stand_in(tmp_path):
    """Return a function that makes a stand-in engine and the environment that runs it."""
    package = tmp_path / "engine" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)

    def make(body: str) -> dict[str, str]:
        (package / "api_server.py").write_text(PRELUDE + textwrap.dedent(body))
        return {"PYTHONPATH": str(tmp_path / "engine")}

    return make


@pytest.fixture
def server_of(stand_in, tmp_path):
    def make(body: str, **options) -> EngineServer:
        options.setdefault("timeout_s", 60)
        return EngineServer(
            VLLM,
            tmp_path / "vllm.yaml",
            log_file=tmp_path / "server.log",
            env=stand_in(body),
            **options,
        )

    return make


def processes_below(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["pid"]):
        try:
            if process.environ().get("PYTHONPATH") == str(folder / "engine"):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return [p for p in found if p.pid != os.getpid() and p.status() != psutil.STATUS_ZOMBIE]


def test_it_serves_until_the_block_ends_and_leaves_nothing(server_of, tmp_path):
    with server_of("serve()") as server:
        assert server.base_url == f"http://{HOST}:{server.port}/v1"
        assert server.start_s > 0
        server.check_alive()
        assert f"'--config', '{tmp_path}/vllm.yaml'" in server.log_tail()
    assert processes_below(tmp_path) == []


@pytest.mark.parametrize(("kind", "policy"), [("cpu", os.SCHED_BATCH), ("cuda", os.SCHED_OTHER)])
def test_on_a_processor_it_and_its_children_take_a_core_from_none(
    server_of, tmp_path, monkeypatch, kind, policy
):
    body = """
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    serve()
    """
    monkeypatch.setattr(server_module, "detect", lambda: replace(detect(), kind=kind))
    with server_of(body) as server:
        server._running.grace_s = 1.0
        family = processes_below(tmp_path)
        assert {os.sched_getscheduler(process.pid) for process in family} == {policy}
        assert len(family) == 2
        assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_policy_that_somebody_chose_stays():
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        with sched_batch():
            assert os.sched_getscheduler(0) == os.SCHED_BATCH
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def test_a_server_that_ignores_signals_is_killed_with_its_children(server_of, tmp_path):
    body = """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A grandchild in a session of its own, as engine cores are.
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    serve()
    """
    server = server_of(body)
    # Only the order of signals is under test, not the seconds between them.
    with server:
        server._running.grace_s = 1.0
        assert len(processes_below(tmp_path)) == 2
    assert processes_below(tmp_path) == []


def test_the_server_ends_when_the_block_raises(server_of, tmp_path):
    with pytest.raises(ZeroDivisionError), server_of("serve()"):
        raise ZeroDivisionError
    assert processes_below(tmp_path) == []


def test_out_of_memory_is_recognized_and_its_cause_named(server_of, tmp_path):
    started = time.monotonic()
    with pytest.raises(ServerStartError) as caught, server_of(OUT_OF_MEMORY):
        pass
    assert caught.value.reason == "out_of_memory"
    assert "ValueError: No available memory for the cache blocks" in str(caught.value)
    assert "See root cause above" in caught.value.log_tail
    # It did not wait for the limit.
    assert time.monotonic() - started < 50
    assert processes_below(tmp_path) == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("OSError: [Errno 28] No space left on device: '/root/.cache/vllm'", StorageError),
        ("fatal error: error writing to /tmp/cc.s: No space left on device", StorageError),
        ("RuntimeError: No CUDA GPUs are available", AcceleratorError),
        (TAKEN, AcceleratorError),
        (FREED, AcceleratorError),
    ],
)
def test_what_the_machine_did_to_a_start_is_not_its_flags_fault(server_of, line, fault):
    with (
        pytest.raises(fault, match="ended with exit code 1 before it was ready") as caught,
        server_of(f"print({line!r}, flush=True)\nsys.exit(1)"),
    ):
        pass
    assert str(caught.value.args[0]).endswith("server.log")


def test_a_share_that_an_empty_card_cannot_give_is_the_configurations_fault(server_of):
    with (
        pytest.raises(ServerStartError, match="utilization") as caught,
        server_of(f"print({TOO_HIGH!r}, flush=True)\nsys.exit(1)"),
    ):
        pass
    assert caught.value.reason == "out_of_memory"


def test_a_full_disk_under_load_is_not_the_flags_fault(server_of):
    body = """
    print("OSError: [Errno 28] No space left on device", flush=True)
    signal.alarm(1)
    serve()
    """
    with server_of(body) as server:
        while server._running.poll() is None:
            time.sleep(0.05)
        with pytest.raises(StorageError, match="died while in use"):
            server.check_alive()


def test_an_engine_that_says_in_passing_that_it_has_no_accelerator_has_not_failed_for_it(server_of):
    body = """
    print("WARNING Found no NVIDIA driver on your system, running on the CPU", flush=True)
    print("ValueError: max_num_seqs must be positive", flush=True)
    sys.exit(1)
    """
    with pytest.raises(ServerStartError, match="max_num_seqs"), server_of(body):
        pass


def test_an_exit_before_health_carries_code_and_log(server_of):
    body = """
    print("OSError: some/model is not a folder", flush=True)
    sys.exit(3)
    """
    with pytest.raises(ServerStartError, match="exit code 3") as caught, server_of(body):
        pass
    assert caught.value.reason == "exited"
    assert "OSError: some/model is not a folder" in str(caught.value)


def test_a_silent_server_is_given_up_after_the_limit(server_of, tmp_path):
    with (
        pytest.raises(ServerStartError, match="within 2 s") as caught,
        server_of("time.sleep(600)", timeout_s=2),
    ):
        pass
    assert caught.value.reason == "timeout"
    assert processes_below(tmp_path) == []


def test_a_port_in_use_is_said_before_anything_starts(server_of, tmp_path):
    with socket.socket() as holder:
        holder.bind((HOST, 0))
        holder.listen()
        port = holder.getsockname()[1]
        with (
            pytest.raises(ServerStartError, match=f"port {port} .* is in use") as caught,
            server_of("serve()", port=port),
        ):
            pass
    assert caught.value.reason == "port_in_use"
    assert not (tmp_path / "server.log").exists()


def test_a_port_lost_to_another_process_is_replaced(server_of, tmp_path):
    # The first attempt finds its port taken, as after a race.
    body = f"""
    mark = {str(tmp_path / "tried")!r}
    if not os.path.exists(mark):
        open(mark, "w").close()
        print("OSError: [Errno 98] Address already in use", flush=True)
        sys.exit(1)
    serve()
    """
    with server_of(body) as server:
        server.check_alive()
        attempts = (tmp_path / "server.log").read_text().split("arguments ")[1:]
        assert len(attempts) == 2
        assert "Address already in use" in attempts[0]
        assert f"'--port={server.port}'" in attempts[1]


def test_a_server_that_dies_later_is_noticed(server_of):
    with server_of("serve()") as server:
        psutil.Process(server.pid).kill()
        server._running.wait(10)
        with pytest.raises(EndpointError, match="died while in use"):
            server.check_alive()


def test_an_earlier_log_in_the_same_file_is_not_blamed(server_of, tmp_path):
    (tmp_path / "server.log").write_text("CUDA out of memory\n")
    with pytest.raises(ServerStartError) as caught, server_of("sys.exit(1)"):
        pass
    assert caught.value.reason == "exited"


def test_the_server_sees_leased_devices_and_writes_into_the_cache_folder(
    server_of, tmp_path, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    body = """
    print({k: os.environ.get(k) for k in ("CUDA_VISIBLE_DEVICES", "VLLM_CACHE_ROOT")}, flush=True)
    serve()
    """
    with server_of(body, cache_dir=tmp_path / "cache") as server:
        assert "'CUDA_VISIBLE_DEVICES': '2,3'" in server.log_tail()
        assert f"'VLLM_CACHE_ROOT': '{tmp_path}/cache/vllm'" in server.log_tail()


def test_a_free_port_can_be_bound():
    connection = http.client.HTTPConnection(HOST, free_port(), timeout=1)
    with pytest.raises(ConnectionRefusedError):
        connection.connect()


@pytest.mark.parametrize(
    ("log", "code", "reason"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate", 1, "out_of_memory"),
        ("1 GiB is larger than the available KV cache memory (0.5 GiB)", 1, "out_of_memory"),
        ("(1/80 GiB) on startup is less than desired GPU memory utilization", 1, "out_of_memory"),
        ("", -9, "out_of_memory"),
        ("error while attempting to bind on address: address already in use", 1, "port_in_use"),
        ("ValueError: bad flag", 1, "exited"),
        ("", None, "timeout"),
    ],
)
def test_logs_are_classified(log, code, reason):
    assert classify(log, code, VLLM.log_words) == reason


def test_the_first_error_that_is_no_pointer_is_the_cause():
    log = (
        "(EngineCore pid=7) ERROR 11-21 10:00:00 [core.py:1] pydantic_core.ValidationError: 1 bad\n"
        "RuntimeError: Engine core initialization failed. See root cause above."
    )
    assert root_cause(log, VLLM.log_words) == "ValidationError: 1 bad"
    assert root_cause("all is well", VLLM.log_words) == ""
