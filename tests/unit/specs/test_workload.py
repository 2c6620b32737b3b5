# ruff: noqa: E501 (tables read better with one case per line)
"""Workloads: lengths, data files, digests and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from optikit_assets.errors import ChangedInputError, SpecError
from optikit_assets.specs import Catalog, SloSpec, load_spec
from tests.unit.specs.conftest import Write

ROWS = [(0.0, 100, 10), (0.5, 250, 20), (2.0, 40, 0), (2.5, 70, 5)]


def jsonl(rows: list[dict]) -> str:
    return "\n".join(map(json.dumps, rows))


GENERIC = jsonl([{"timestamp": t, "input_tokens": i, "output_tokens": o} for t, i, o in ROWS])
# Rows in the form of each public data set.
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.6805900,374,44\n"
    "2023-11-16 18:15:50.9951690,396,109\n"
    "2023-11-16 18:15:51.2224670,879,55\n"
)
AZURE_2024 = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2024-05-10 00:00:00.009930+00:00,2162,5\n"
    "2024-05-10 00:00:00.017335+00:00,2399,6\n"
    "2024-05-10 00:00:01+00:00,76,15\n"
)
BURST_GPT = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n"
    "45,ChatGPT,1087,230,1317,Conversation log\n"
    "118,GPT-4,417,276,693,API log\n"
)
TRACE_KEYS = (
    "input_tokens: {distribution: trace}, output_tokens: {distribution: trace, max: 200}, "
    "arrivals: trace, trace: "
)


def load(write: Write, workload: str, rest: str = "") -> SloSpec:
    return load_spec(
        write(f"name: chat\nworkload: {{{workload}}}\n{rest}", "slos/chat.yaml"), SloSpec
    )


def with_trace(write: Write, content: str, name: str = "trace.csv") -> SloSpec:
    write(content, f"slos/{name}")
    return load(write, TRACE_KEYS + name)


@pytest.mark.parametrize(
    ("name", "content", "times", "inputs", "outputs"),
    [
        ("a.jsonl", GENERIC, [0, 0.5, 2.0, 2.5], [100, 250, 40, 70], [10, 20, 0, 5]),
        ("a.csv", AZURE, [0, 4.314579, 4.541877], [374, 396, 879], [44, 109, 55]),
        ("b.csv", AZURE_2024, [0, 0.007405, 0.99007], [2162, 2399, 76], [5, 6, 15]),
        ("c.csv", BURST_GPT, [0, 40, 113], [472, 1087, 417], [18, 230, 276]),
        ("d.csv", "timestamp,input_tokens,output_tokens\n3,1,2\n1,3,4\n", [0, 2], [3, 1], [4, 2]),
    ],
)  # fmt: skip
def test_traces_are_read_in_every_format(
    write: Write, name: str, content: str, times: list, inputs: list, outputs: list
) -> None:
    workload = with_trace(write, content, name).workload
    assert workload.trace is not None
    trace = workload.trace.trace()
    assert trace.times_s == pytest.approx(times, abs=1e-6)
    assert trace.input_tokens.tolist() == inputs
    assert trace.output_tokens.tolist() == outputs
    assert workload.max_input_tokens == max(inputs)
    assert workload.mean_input_tokens == round(float(np.mean(inputs)))
    assert workload.max_output_tokens == min(200, max(outputs))
    assert workload.mean_output_tokens == round(float(np.clip(outputs, 1, 200).mean()))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", AZURE.replace("ContextTokens", "Context"), "has no column ContextTokens (has: TIMESTAMP, Context, GeneratedTokens)"),
        ("a.csv", BURST_GPT.replace("Response tokens", "x"), "has no column Response tokens"),
        ("a.csv", AZURE.replace("879", "-879"), "row 3: ContextTokens must be a whole number of at least 0 (got '-879')"),
        ("a.csv", AZURE.replace("109", "many"), "row 2: GeneratedTokens must be a whole number of at least 0 (got 'many')"),
        ("a.csv", AZURE.replace("109", "10.5"), "row 2: GeneratedTokens must be a whole number"),
        ("a.csv", AZURE.replace("109", ""), "row 2: GeneratedTokens must be a whole number of at least 0 (got '')"),
        ("a.csv", AZURE.replace("2023-11-16 18:15:51.2224670", "later"), "row 3: TIMESTAMP must be a number of seconds or an ISO 8601 date (got 'later')"),
        ("a.csv", BURST_GPT.replace("\n45", "\nnan"), "row 2: Timestamp must be a number of seconds"),
        ("a.csv", AZURE.splitlines()[0] + "\n", "a trace needs at least two requests, not 0"),
        ("a.csv", "timestamp,input_tokens,output_tokens\n3,1,2\n3,3,4\n", "all 2 rows have the same timestamp"),
        ("a.csv", "", "is not valid CSV"),
        ("a.txt", AZURE, "its name must end in .csv or .jsonl"),
        ("a.jsonl", GENERIC.replace("250", "null"), "row 2: input_tokens must be a whole number of at least 0 (got 'nan')"),
        ("a.jsonl", GENERIC.replace("250", "[250]"), "row 2: input_tokens must be a whole number of at least 0 (got '[250]')"),
        ("a.jsonl", GENERIC.replace("250", "true"), "row 2: input_tokens must be a whole number of at least 0 (got 'True')"),
        ("a.jsonl", GENERIC.replace('"timestamp": 0.5, ', ""), "row 2: timestamp must be a number of seconds"),
        ("a.jsonl", GENERIC.replace("output_tokens", "out"), "has no column output_tokens (has: timestamp, input_tokens, out)"),
        ("a.jsonl", GENERIC + "\n{oops", "line 5: is not valid JSON"),
        ("a.jsonl", GENERIC + "\n\n7", "line 6: must be a JSON object (got b'7')"),
    ],
)  # fmt: skip
def test_bad_traces_are_refused_with_file_row_and_value(
    write: Write, name: str, content: str, expected: str
) -> None:
    with pytest.raises(SpecError) as caught:
        with_trace(write, content, name)
    [problem] = caught.value.problems
    assert problem.startswith("workload.trace: ")
    assert f"slos/{name}: " in problem
    assert expected in problem


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "a", "messages": []}, "row 2: needs either prompt or messages"),
        ({"output_tokens": 3}, "row 2: needs either prompt or messages"),
        ({"prompt": ""}, 'row 2: prompt must be a text (got "")'),
        ({"prompt": 5}, "row 2: prompt must be a text (got 5)"),
        ({"prompt": "a", "output_tokens": 0}, "row 2: output_tokens must be a whole number of at least 1 (got 0)"),
        ({"prompt": "a", "answer": "b"}, "row 2: unknown key answer; known: messages, output_tokens, prompt"),
        ({"messages": [{"role": "user"}]}, "row 2: messages must be a list of {role, content}"),
    ],
)  # fmt: skip
def test_bad_prompts_are_refused_with_their_row(write: Write, row: dict, expected: str) -> None:
    write(jsonl([{"prompt": "fine"}, row]), "slos/p.jsonl")
    with pytest.raises(SpecError) as caught:
        load(write, "output_tokens: 4, endpoint: chat, prompts: p.jsonl")
    assert expected in caught.value.problems[0]


@pytest.mark.parametrize(
    ("workload", "rest", "expected"),
    [
        ("output_tokens: 4", "", "workload: input_tokens is required unless prompts are given"),
        ("input_tokens: 9, output_tokens: 4, arrivals: bursts", "", "workload.arrivals: input should be 'poisson', 'constant', 'gamma' or 'trace' (got 'bursts')"),
        ("input_tokens: 9, output_tokens: 4, arrivals: gamma, burstiness: -1", "", "workload.burstiness: input should be greater than 0 (got -1)"),
        ("input_tokens: 9, output_tokens: 4, burstiness: 0.5", "", "workload: burstiness (0.5) goes with arrivals: gamma, not poisson"),
        ("input_tokens: 9, output_tokens: 4, arrivals: trace", "", "workload: arrivals from a trace: needs trace: FILE"),
        ("input_tokens: {distribution: trace}, output_tokens: 4", "", "workload: input_tokens from a trace: needs trace: FILE"),
        ("input_tokens: 9, output_tokens: 4, trace: t.jsonl", "", "workload: trace is given but not used"),
        ("input_tokens: 9, output_tokens: 4, arrivals: trace, trace: gone.csv", "", "gone.csv cannot be read: No such file or directory (got 'gone.csv')"),
        ("input_tokens: 9, output_tokens: 4, prefixes: 3", "", "workload: prefixes (3) needs prefix_tokens"),
        ("input_tokens: {distribution: uniform, min: 5, max: 99}, output_tokens: 4, prefix_tokens: 5", "", "workload: prefix_tokens (5) must be less than input_tokens (5)"),
        ("input_tokens: {distribution: uniform, min: 50, max: 9}, output_tokens: 4", "", "workload.input_tokens.uniform: max (9) must be at least min (50)"),
        ("input_tokens: {distribution: lognormal, mean: 50, std: 0, max: 99}, output_tokens: 4", "", "workload.input_tokens.lognormal.std: input should be greater than 0 (got 0)"),
        ("input_tokens: {distribution: lognormal, mean: 500, std: 5, max: 99}, output_tokens: 4", "", "workload.input_tokens.lognormal: mean (500) must lie between min (1) and max (99)"),
        ("input_tokens: {distribution: zipf}, output_tokens: 4", "", "workload.input_tokens: distribution must be 'uniform', 'lognormal' or 'trace'"),
        ("input_tokens: {min: 1, max: 3}, output_tokens: 4", "", "workload.input_tokens: distribution must be"),
        ("input_tokens: '9', output_tokens: 4", "", "workload.input_tokens: input should be a valid integer (got '9')"),
        ("input_tokens: 9, output_tokens: 4, endpoint: embeddings", "", "workload.endpoint: input should be 'completions' or 'chat' (got 'embeddings')"),
        ("output_tokens: 4, prompts: chat.jsonl", "", "workload: prompts with messages need endpoint: chat"),
        ("output_tokens: 4, prompts: p.jsonl, prefix_tokens: 3", "", "workload: prefix_tokens (3) does not go with prompts"),
        ("input_tokens: {distribution: uniform, min: 5, max: 9}, output_tokens: 4, prompts: p.jsonl", "", "workload: input_tokens beside prompts is the length of the longest prompt"),
        ("input_tokens: 9, output_tokens: 4", "objectives: [{metric: latency, percentile: 95, max_ms: 5}]", "objectives.0.metric: input should be 'e2e_latency', 'ttft', 'tpot' or 'itl' (got 'latency')"),
    ],
)  # fmt: skip
def test_workloads_that_make_no_sense_are_refused(
    write: Write, workload: str, rest: str, expected: str
) -> None:
    write(GENERIC, "slos/t.jsonl")
    write('{"prompt": "a"}', "slos/p.jsonl")
    write('{"messages": [{"role": "user", "content": "a"}]}', "slos/chat.jsonl")
    with pytest.raises(SpecError) as caught:
        load(write, workload, rest)
    assert any(expected in problem for problem in caught.value.problems), caught.value.problems


def test_an_edit_of_a_data_file_changes_the_digest_and_its_place_does_not(
    write: Write, tmp_path: Path
) -> None:
    first = with_trace(write, GENERIC, "t.jsonl").digest()
    assert with_trace(write, GENERIC, "t.jsonl").digest() == first
    write(GENERIC, "slos/elsewhere/t.jsonl")
    assert load(write, TRACE_KEYS + "elsewhere/t.jsonl").digest() == first
    assert with_trace(write, GENERIC.replace("250", "251"), "t.jsonl").digest() != first


def test_an_edit_of_a_data_file_changes_the_version_of_its_scenarios(
    catalog_root: Path, write: Write
) -> None:
    write('{"prompt": "a"}', "slos/p.jsonl")
    load(write, "output_tokens: 4, prompts: p.jsonl")
    before = Catalog.load(catalog_root).scenario_digest("chat")
    write('{"prompt": "b"}', "slos/p.jsonl")
    assert Catalog.load(catalog_root).scenario_digest("chat") != before


def test_an_slo_without_a_budget_of_certification_keeps_the_digest_it_had() -> None:
    """A sweep of hours must not run again for a key that it does not read."""
    slo = SloSpec.model_validate({"name": "x", "workload": {"input_tokens": 8, "output_tokens": 4}})
    assert slo.digest() == "506787bc3627d702c58337e5d650c8b5aaf412ee02d35677c3fba5664a69ca24"
    more = slo.budget.certification.model_copy(update={"max_rounds": 9})
    budget = slo.budget.model_copy(update={"certification": more})
    assert slo.model_copy(update={"budget": budget}).digest() != slo.digest()


def test_keys_spelled_out_at_their_defaults_do_not_change_the_digest() -> None:
    recipes = Path(__file__).parents[3] / "recipes"
    slo = load_spec(recipes / "slos" / "qwen7b_chat.yaml", SloSpec)
    spelled_out = slo.workload.model_copy(update={"prefixes": 1, "endpoint": "completions"})
    assert slo.model_copy(update={"workload": spelled_out}).digest() == slo.digest()
    chat = slo.workload.model_copy(update={"endpoint": "chat"})
    assert slo.model_copy(update={"workload": chat}).digest() != slo.digest()


def test_a_resolved_slo_travels_as_json_and_notices_that_its_file_was_edited(
    write: Write, tmp_path: Path
) -> None:
    slo = with_trace(write, GENERIC, "t.jsonl")
    copy = SloSpec.model_validate_json(slo.model_dump_json())
    assert copy == slo
    assert copy.workload.trace is not None
    assert copy.workload.trace.content() == GENERIC.encode()
    write(GENERIC + "\n", "slos/t.jsonl")
    with pytest.raises(ChangedInputError, match="was edited after the SLO that names it was read"):
        copy.workload.trace.content()
