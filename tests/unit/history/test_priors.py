"""Which earlier studies a new one begins with."""

from optikit_assets.history import History, earlier_winners

ALIKE = {
    "engine": "vllm",
    "architecture": "LlamaForCausalLM",
    "accelerator": "H100",
    "objectives": "e2e_latency_p95",
    "input_tokens": 1000,
    "output_tokens": 100,
    "is_best": True,
    "is_default": False,
}
QUESTION = {
    "study": "now",
    "engine": "vllm",
    "model": "qwen@1",
    "recipe": "int_w8a8",
    "architecture": "LlamaForCausalLM",
    "accelerator": "H100",
    "input_tokens": 1200.0,
    "output_tokens": 80.0,
    "objectives": "e2e_latency_p95",
}


def test_the_most_alike_go_first_and_others_do_not_count(rows):
    def won(recipe, seqs, **row):
        row = {"study": f"study {seqs}", "flags": {"max_num_seqs": seqs}} | ALIKE | row
        rows.trial(recipe, 1, 5.0, slo=f"slo{seqs}", **row)

    won("fp8_dynamic", 10, model="other@1")
    won("fp8_dynamic", 20)
    won("int_w8a8", 30)
    won("int_w8a8", 40, model="other@1", input_tokens=1200, output_tokens=80)
    for seqs, unlike in enumerate(
        (
            {"architecture": "Qwen2ForCausalLM"},
            {"accelerator": "A100"},
            {"engine": "sglang"},
            {"objectives": "ttft_p50"},
            {"input_tokens": 100},
            {"output_tokens": 400},
            {"is_best": False},
            {"is_default": True},
            {"study": "now"},
        ),
        start=100,
    ):
        won("int_w8a8", seqs, **unlike)
    rows.history.drain()
    found = earlier_winners(rows.history, **QUESTION)
    assert [flags["max_num_seqs"] for flags in found] == [30, 20, 40]


def test_a_history_that_is_not_there_yet_has_none(tmp_path):
    assert earlier_winners(History(tmp_path / "none"), **QUESTION) == []
