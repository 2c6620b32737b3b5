"""What every engine does; a package with one of its own subclasses `EngineContract`."""

import json
import pickle
from pathlib import Path
from typing import Any, ClassVar

import pytest

from optikit_assets.benchmarker.client import RequestShape
from optikit_assets.benchmarker.prompts import Prompt
from optikit_assets.engines import (
    Batching,
    Engine,
    Flags,
    Hardware,
    HotReconfiguration,
    ModelFacts,
    Place,
    get_engine,
)
from optikit_assets.engines.start_failures import classify, root_cause
from optikit_assets.errors import ModelError, SpecError
from optikit_assets.specs import EngineSpec, RecipeSpec, SloSpec

GIB = 1024**3
CPU = Hardware("cpu", "some processor", 1, 16 * GIB, cores=2, features=("avx512f",))
GPU = Hardware("cuda", "some GPU", 2, 80 * GIB, devices=("0", "1"), capability=9.0)
FACTS = ModelFacts(
    8 * GIB, layers=32, attention_heads=32, kv_heads=8, head_dim=128, max_positions=4096
)
SLO = SloSpec.model_validate(
    {"name": "chat", "workload": {"input_tokens": 100, "output_tokens": 40}}
)
BASELINE = RecipeSpec.model_validate({"name": "baseline", "backend": "none"})


class EngineContract:
    """Subclass it with an engine and a few of its flags."""

    name = ""
    flags: ClassVar[Flags] = {}
    """Flags that exist, none at its default, one of them a switch."""
    serves_without_a_gpu = True

    @pytest.fixture
    def engine(self) -> Engine:
        return get_engine(self.name)

    @pytest.fixture
    def spec(self) -> EngineSpec:
        return EngineSpec(name=self.name)

    def test_it_is_registered_under_its_name(self, engine: Engine) -> None:
        assert engine.name == self.name
        assert engine.title
        assert engine.distributions
        assert all(engine.config_file in command for command in engine.commands)

    def test_its_flags_were_dumped_with_version_and_defaults(self, engine: Engine) -> None:
        assert engine.catalog.version
        assert set(self.flags) <= set(engine.catalog.flags)
        for name, value in engine.catalog.defaults().items():
            flag = engine.catalog.flags[name]
            # Some parsers take text for what they then read as a number.
            assert flag.type in ("json", "str", "size") or not flag.problem_with(value), name

    @pytest.mark.parametrize("hardware", [CPU, GPU])
    def test_the_file_of_a_configuration_gives_its_flags_back(
        self, engine: Engine, spec: EngineSpec, hardware: Hardware
    ) -> None:
        flags = engine.flags(spec, SLO, self.flags, hardware=hardware, facts=FACTS)
        text = engine.config_text(flags, model="/models/m 1", served_model_name="m@1")
        assert engine.config_flags(text) == flags
        assert list(flags) == sorted(flags)

    def test_a_server_is_started_from_that_file_on_the_given_port(
        self, engine: Engine, spec: EngineSpec, tmp_path: Path
    ) -> None:
        config = tmp_path / engine.config_file
        flags = engine.flags(spec, SLO, self.flags, hardware=CPU, facts=FACTS)
        config.write_text(engine.config_text(flags, model="/models/m", served_model_name="m"))
        launch = engine.launch(config, Place("/env/bin/python", "127.0.0.1", 8123, tmp_path))
        assert launch.argv[0].startswith("/env/bin/")
        assert "8123" in " ".join(launch.argv)
        assert "127.0.0.1" in " ".join(launch.argv)
        command = " ".join(launch.argv)
        assert str(config) in command or "/models/m" in command

    def test_an_unknown_flag_is_refused_with_its_name(self, engine: Engine) -> None:
        spec = EngineSpec(name=self.name, flags={"no_such_flag_at_all": 1})
        with pytest.raises(SpecError, match="no_such_flag_at_all"):
            engine.flags(spec, SLO)

    def test_what_optikit_sets_cannot_be_set(self, engine: Engine) -> None:
        assert {"host", "port"} <= engine.catalog.owned
        assert "set by OptiKIT" in engine.catalog.check("port", 1)

    def test_what_changes_answers_is_not_searched(self, engine: Engine) -> None:
        assert "may not be searched" in engine.catalog.check_searchable("dtype", ("float16",))[0]

    def test_a_flag_that_needs_a_gpu_is_left_out_without_one(
        self, engine: Engine, spec: EngineSpec
    ) -> None:
        flags = engine.flags(spec, SLO, self.flags, hardware=CPU, facts=FACTS)
        assert not set(flags) & engine.catalog.gpu_only

    def test_a_workload_longer_than_the_model_is_refused(
        self, engine: Engine, spec: EngineSpec
    ) -> None:
        shorter = ModelFacts(GIB, 2, 2, 2, 64, max_positions=64)
        with pytest.raises(ModelError, match="allows 64"):
            engine.context_length(spec, SLO, shorter)

    def test_memory_follows_weights_and_machine(self, engine: Engine) -> None:
        assert engine.estimate(FACTS, GPU, {}, context_length=4096).fits
        small = Hardware("cuda", "small", 1, 4 * GIB)
        assert "GiB" in engine.estimate(FACTS, small, {}, context_length=4096).reason

    def test_repair_keeps_what_it_does_not_know(self, engine: Engine) -> None:
        assert set(engine.repair(self.flags, CPU)) >= set(self.flags)
        assert engine.repair({}, CPU) == {}

    def test_one_device_is_leased_unless_flags_ask_for_more(
        self, engine: Engine, spec: EngineSpec
    ) -> None:
        assert engine.accelerators(spec, {}, GPU) == 1
        for flag in engine.parallel_flags:
            assert engine.accelerators(spec, {flag: 2}, GPU) == 2, flag
            assert engine.accelerators(spec, {flag: 2}, CPU) == 1, flag

    def test_bounds_of_a_batch_are_flags_of_its_server(self, engine: Engine) -> None:
        assert len(engine.batch_flags) in (0, 2)
        for flag in engine.batch_flags:
            engine.catalog.checked({flag: 64})
        assert engine.batching({}) == Batching()
        bounds = dict(zip(engine.batch_flags, (64, 512), strict=False))
        found = engine.batching(bounds)
        assert [found.most_sequences, found.most_tokens] == ([*bounds.values()] or [None, None])
        free = engine.batching(dict.fromkeys(bounds, -1))
        assert (free.most_sequences, free.most_tokens) == (None, None)

    def test_every_engine_serves_an_uncompressed_model(
        self, engine: Engine, spec: EngineSpec
    ) -> None:
        assert engine.unsupported(BASELINE, spec, GPU) is None
        assert engine.fallback(BASELINE, GPU) is None
        refused = engine.unsupported(BASELINE, spec, CPU)
        if self.serves_without_a_gpu:
            assert refused is None
        else:
            assert "GPU" in (refused or "")

    def test_what_a_recipe_demands_is_asked_of_the_machine(
        self, engine: Engine, spec: EngineSpec
    ) -> None:
        demanding = RecipeSpec.model_validate(
            {**BASELINE.model_dump(), "requires": {"compute_capability": 10.0}}
        )
        assert "10.0" in (engine.unsupported(demanding, spec, GPU) or "")

    def test_how_it_is_asked_can_be_sent_to_the_clients_processes(self, engine: Engine) -> None:
        requests = pickle.loads(pickle.dumps(engine.requests))
        assert requests == engine.requests
        shape = RequestShape(salt="s", requests=requests)
        body = json.loads(shape.body("m", Prompt(b'"text"', 3, 7, "0")).content)
        assert (body["model"], body["max_tokens"], body["stream"]) == ("m", 7, True)
        # An answer that ends where the model likes cannot be measured.
        assert requests.exact_length(7)
        assert set(requests.exact_length(7)) <= set(body)

    def test_a_person_is_told_how_to_start_its_file(self, engine: Engine, tmp_path: Path) -> None:
        text = engine.config_text({}, model="/models/m", served_model_name="m", header="it's so")
        assert "# it's so" in text
        assert engine.config_flags(text) == {}

    @pytest.mark.parametrize(
        ("log", "code", "reason"),
        [
            ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate", 1, "out_of_memory"),
            ("[Errno 98] address already in use", 1, "port_in_use"),
            ("ValueError: bad flag", 1, "exited"),
            ("", None, "timeout"),
        ],
    )
    def test_failed_starts_are_classified(
        self, engine: Engine, log: str, code: int | None, reason: str
    ) -> None:
        assert classify(log, code, engine.log_words) == reason
        assert not log.startswith("ValueError") or root_cause(log, engine.log_words) == log

    def test_its_own_variables_are_a_part_of_its_effective_ones(self, engine: Engine) -> None:
        patterns = engine.variables.effective
        for name in engine.variables.owned:
            assert any(name.startswith(p.removesuffix("*")) for p in patterns), name

    def test_hot_reconfiguration_names_flags_that_exist(self, engine: Engine) -> None:
        offered: Any = engine
        if isinstance(offered, HotReconfiguration):
            assert offered.hot_flags <= set(engine.catalog.flags)
