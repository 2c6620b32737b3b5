"""What an exploring worker tells its one server, and how many cards it counts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from optikit_assets.engines import Engine, Hardware, get_engine
from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import EngineSpec, SloSpec
from optikit_assets.workers import explore
from optikit_assets.workers.messages import ExploreRequest, Variant
from tests.references import refer
from tests.unit.schemas.samples import benchmark

SLO = SloSpec.model_validate(
    {
        "name": "quick",
        "workload": {"input_tokens": 32, "output_tokens": 8},
        "objectives": [{"metric": "e2e_latency", "percentile": 80, "max_ms": 4000}],
    }
)
CARDS = Hardware("cuda", "NVIDIA L4", 4, 24 * 1024**3, devices=("0", "1", "2", "3"))


class Server:
    """In the place of an `EngineServer`."""

    start_s, base_url, place = 1.0, "http://127.0.0.1:1", object()

    def __init__(self, engine: Engine, *_: object, **__: object) -> None:
        self.engine = engine

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def check_alive(self) -> None: ...


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    monkeypatch.setenv("OPTIKIT_HOME", str(tmp_path))
    told = SimpleNamespace(flags=[], gpus=[])

    def measured(**asked: Any) -> Any:
        told.gpus.append(asked["gpus"])
        asked["requests_file"].write_bytes(b"")
        return benchmark(5.0)

    monkeypatch.setattr(explore, "EngineServer", Server)
    monkeypatch.setattr(explore, "run_benchmark", measured)
    monkeypatch.setattr(
        type(get_engine("vllm")),
        "reconfigure",
        lambda _, __, flags, **___: told.flags.append(flags),
    )
    return told


def explored(tmp_path: Path, fixed: dict[str, Any], *variants: dict[str, Any]) -> None:
    request = ExploreRequest(
        store=f"file://{tmp_path / 'artifacts'}",
        model=refer(REPOSITORY / "demo" / "models" / "demo-llama" / "1"),
        served_model_name="demo",
        engine=EngineSpec(flags=fixed),
        variants=tuple(
            Variant(artifact_key=f"{n:x}" * 64, flags=flags) for n, flags in enumerate(variants, 1)
        ),
        hardware=CARDS,
        slo=SLO,
        seed=1,
    )
    explore.handle(request, lambda _: None)


def test_cards_that_the_model_fixes_count(told: SimpleNamespace, tmp_path: Path) -> None:
    explored(
        tmp_path,
        {"tensor_parallel_size": 2},
        {"max_num_seqs": 8},
        {"max_num_seqs": 8, "pipeline_parallel_size": 2},
    )
    assert told.gpus == [2, 4]


def test_what_the_model_fixes_comes_before_the_engines_default(
    told: SimpleNamespace, tmp_path: Path
) -> None:
    explored(tmp_path, {"max_num_batched_tokens": 640}, {"max_num_seqs": 8}, {"max_num_seqs": 16})
    limits = [(told["max_num_seqs"], told["max_num_batched_tokens"]) for told in told.flags]
    assert limits == [(8, 640), (16, 640)]
