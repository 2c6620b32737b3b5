import pytest

from optikit_assets.errors import UnknownNameError
from optikit_assets.graph import Flow, Node, flow_names, get_flow
from optikit_assets.specs import JobSpec, plugins

RECIPES = ["int_w8a8", "baseline"]
CHECKPOINTS = ["quantized_model[m@1|baseline]", "quantized_model[m@1|int_w8a8]"]
SCORES = ["eval_scores[m@1|baseline]", "eval_scores[m@1|int_w8a8]"]
SWEEPS = ["benchmark_sweep[m@1|baseline@chat]", "benchmark_sweep[m@1|int_w8a8@chat]"]
STUDIES = ["tuned_config[m@1|baseline@chat]", "tuned_config[m@1|int_w8a8@chat]"]
DECISION = ["deployable_config[m@1|chat]"]
# Flow -> what it asks for beside the model itself.
ASKED = {
    "quantize": [*CHECKPOINTS, *SCORES],
    "evaluate_only": [CHECKPOINTS[0], *SCORES],
    "benchmark_only": [CHECKPOINTS[0], *SCORES, *SWEEPS],
    "tune_only": [CHECKPOINTS[0], *SCORES, *SWEEPS, *STUDIES, *DECISION],
    "quantize_and_benchmark": [*CHECKPOINTS, *SCORES, *SWEEPS, *DECISION],
    "quantize_and_tune": [*CHECKPOINTS, *SCORES, *SWEEPS, *STUDIES, *DECISION],
}


def test_the_flows_that_specs_know_are_those_that_there_are():
    assert flow_names() == tuple(sorted(plugins.BUILTIN_FLOWS)) == tuple(sorted(ASKED))


@pytest.mark.parametrize("name", ASKED)
def test_a_flow_asks_for_its_stages_upstream_first(name: str):
    nodes = get_flow(name).nodes("m@1", ["chat"], RECIPES)
    assert list(map(str, nodes)) == ["base_model[m@1]", *ASKED[name]]


@pytest.mark.parametrize("name", ASKED)
def test_only_what_depends_on_an_slo_is_asked_for_once_for_each(name: str):
    flow = get_flow(name)
    both = set(flow.nodes("m@1", ["chat", "batch"], RECIPES))
    chat = set(flow.nodes("m@1", ["chat"], RECIPES))
    assert {node.key.slo for node in both - chat} == ({"batch"} if flow.measures else set())


def test_a_flow_is_of_stages_that_there_are():
    with pytest.raises(ValueError, match="unknown stages publish; there are: base_model, "):
        Flow("mine", frozenset({"base_model", "publish"}))
    with pytest.raises(ValueError, match="has no stages"):
        Flow("mine", frozenset())
    with pytest.raises(ValueError, match="may not contain"):
        Flow("my flow", frozenset({"base_model"}))


def test_a_flow_that_there_is_not_is_an_error_with_those_that_there_are():
    with pytest.raises(UnknownNameError, match="unknown flow 'quantise'; known: benchmark_only, "):
        get_flow("quantise")


def test_the_pipeline_is_what_a_job_asks_for_that_names_no_flow():
    job = JobSpec(name="night", model="m", slos=("chat",))
    assert get_flow(job.flow).decides
    named = JobSpec(name="night", model="m", slos=("chat",), flow="quantize_and_tune")
    assert job.digest() == named.digest()
    assert job.digest() == "68e9462beac974e75ba28cd702159a98a6f9c25f567656365e0ce159d88fb602"
    assert (
        job.digest() != JobSpec(name="night", model="m", slos=("chat",), flow="tune_only").digest()
    )


def test_a_third_stage_set_needs_no_more_than_a_name():
    mine = Flow("score", frozenset({"eval_scores"}))
    assert (mine.measures, mine.compresses, mine.decides) == (False, False, False)
    assert mine.nodes("m@1", ["chat"], ["baseline"]) == [
        Node.of("quantized_model", "m@1|baseline"),
        Node.of("eval_scores", "m@1|baseline"),
    ]
