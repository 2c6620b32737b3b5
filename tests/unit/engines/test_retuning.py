"""How a running vLLM is told other limits, and what it has to say to be believed."""

import http.server
import importlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from optikit_assets.engines import (
    HotReconfiguration,
    Place,
    VllmEngine,
    get_engine,
    hot_flags,
)
from optikit_assets.engines.vllm.retuning import (
    ANSWER,
    FILE_VARIABLE,
    LIMITS,
    limits_of,
    reconfigure,
    retunable,
)
from optikit_assets.errors import EndpointError


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Place, dict[str, int]]]:
    """A server that takes limits up to those in the dictionary, as the scheduler does."""
    most: dict[str, int] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            limits = json.loads((tmp_path / LIMITS).read_text())
            if "silent" not in most:
                taken = {name: min(v, most.get(name, v)) for name, v in limits.items()}
                (tmp_path / ANSWER).write_text(json.dumps(taken))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Place("python", "127.0.0.1", server.server_port, tmp_path), most
        finally:
            server.shutdown()
            thread.join()


FLAGS = {"max_num_seqs": 16, "max_num_batched_tokens": 512}


def test_limits_are_written_and_believed_once_the_scheduler_says_so(
    served: tuple[Place, dict[str, int]],
) -> None:
    place, _ = served
    reconfigure(place.scratch, place.host, place.port, FLAGS, served_model_name="m")
    assert json.loads((place.scratch / ANSWER).read_text()) == limits_of(FLAGS)


@pytest.mark.parametrize("why", [{"max_num_active_reqs": 8}, {"silent": 1}])
def test_a_server_that_does_not_take_them_is_not_measured(
    served: tuple[Place, dict[str, int]], why: dict[str, int]
) -> None:
    place, most = served
    most.update(why)
    with pytest.raises(EndpointError, match="vLLM"):
        reconfigure(place.scratch, place.host, place.port, FLAGS, served_model_name="m")


def test_a_shared_server_has_room_for_each_of_its_configurations() -> None:
    variants = [
        {"max_num_seqs": 8, "max_num_batched_tokens": 4096, "block_size": 32},
        {"max_num_seqs": 64, "max_num_batched_tokens": 256, "block_size": 32},
    ]
    flags = retunable(variants)
    assert (flags["max_num_seqs"], flags["max_num_batched_tokens"]) == (64, 4096)
    assert flags["block_size"] == 32
    assert str(flags["scheduler_cls"]).endswith("RetunableScheduler")


def test_fewer_active_sequences_are_the_tighter_limit() -> None:
    told = limits_of({"max_num_seqs": 64, "max_num_active_seqs": 16})
    assert told["max_num_active_reqs"] == 16
    assert limits_of({"long_prefill_token_threshold": 256})["long_prefill_token_threshold"] == 256


def test_only_an_engine_that_says_so_can_be_retuned() -> None:
    assert isinstance(get_engine("vllm"), HotReconfiguration)
    assert hot_flags(get_engine("vllm")) <= VllmEngine().catalog.flags.keys()
    assert hot_flags(get_engine("transformers")) == frozenset()


class Scheduler:
    """What ours needs of vLLM's."""

    def __init__(self) -> None:
        self.max_num_active_reqs = 64
        self.max_num_scheduled_tokens = 4096
        self.scheduler_config = SimpleNamespace(long_prefill_token_threshold=0)

    def schedule(self) -> str:
        return "a step"


def test_of_several_engine_cores_none_takes_the_answer_of_another_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / LIMITS).write_text(json.dumps(limits_of(FLAGS)))
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / LIMITS))
    theirs: Any = ModuleType("vllm.v1.core.sched.async_scheduler")
    theirs.AsyncScheduler = Scheduler
    monkeypatch.setitem(sys.modules, theirs.__name__, theirs)
    name = "optikit_assets.engines.vllm.retunable_scheduler"
    monkeypatch.delitem(sys.modules, name, raising=False)
    one, other = (importlib.import_module(name).RetunableScheduler() for _ in range(2))
    del sys.modules[name]
    replace = Path.replace

    def after_the_other(self: Path, target: Path) -> Path:
        with monkeypatch.context() as there:
            there.setattr(Path, "replace", replace)
            there.setattr(os, "getpid", lambda: -1)
            assert other.schedule() == "a step"
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", after_the_other)
    assert one.schedule() == "a step"
    assert json.loads((tmp_path / ANSWER).read_text()) == limits_of(FLAGS)
    assert {file.name for file in tmp_path.iterdir()} == {LIMITS, ANSWER}


LOG = """\
INFO [backends.py:291] Directly load the compiled graph(s) for compile range (1, 2048) from the cache, took 0.5 s
INFO [decorators.py:320] Directly load AOT compilation from path /x
INFO [backends.py:399] Compiling a graph for compile range (1, 2048) takes 9.20 s
"""  # noqa: E501


def test_the_log_tells_which_graphs_were_compiled_and_which_came_from_the_cache() -> None:
    assert VllmEngine().graphs(LOG) == (2, 1)
    assert VllmEngine().graphs("no compilation in eager mode") is None
