import json
from dataclasses import replace

import pytest

from optikit_assets.engines import Hardware, ModelFacts, detect, get_engine
from optikit_assets.engines.vllm.memory import cpu_kv_cache_bytes
from optikit_assets.errors import AcceleratorError, ModelError

GIB = 1024**3
estimate = get_engine("vllm").estimate
MIB = 1024**2
TWO_GPUS = """\
0, GPU-aaaa1111, NVIDIA H100 80GB HBM3, 81559, 580.95.05, 9.0
1, GPU-bbbb2222, NVIDIA H100 80GB HBM3, 81559, 580.95.05, 9.0
"""

# Llama 3.1 8B: 32 layers, 32 heads, 8 kv heads of 128, bfloat16.
LLAMA_8B = ModelFacts(
    weights_bytes=16_060_556_376,
    layers=32,
    attention_heads=32,
    kv_heads=8,
    head_dim=128,
    max_positions=131072,
)


def test_two_gpus_are_found():
    found = detect({}, lambda: TWO_GPUS)
    assert (found.kind, found.count, found.devices) == ("cuda", 2, ("0", "1"))
    assert found.uuids == ("GPU-aaaa1111", "GPU-bbbb2222")
    assert found.name == "NVIDIA H100 80GB HBM3"
    assert found.memory_bytes == 81559 * MIB
    assert found.driver == "580.95.05"
    assert found.label == "2 x NVIDIA H100 80GB HBM3"
    assert found.capability == 9.0


def test_the_weakest_gpu_decides_and_what_the_driver_does_not_say_is_unknown():
    mixed = TWO_GPUS.replace("9.0", "8.9", 1)
    assert detect({}, lambda: mixed).capability == 8.9
    unknown = TWO_GPUS.replace("9.0", "[N/A]")
    assert detect({}, lambda: unknown).capability is None
    assert detect({}, lambda: unknown).count == 2


@pytest.mark.parametrize(
    ("visible", "devices"), [("1", ("1",)), ("GPU-bbbb,0", ("1", "0")), ("0,7,1", ("0",))]
)
def test_cuda_visible_devices_narrows_the_choice(visible, devices):
    found = detect({"CUDA_VISIBLE_DEVICES": visible}, lambda: TWO_GPUS)
    assert found.devices == devices
    assert [uuid[4:8] for uuid in found.uuids] == [("aaaa", "bbbb")[int(d)] for d in devices]


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_hidden_gpus_leave_the_cpu(visible):
    assert detect({"CUDA_VISIBLE_DEVICES": visible}, lambda: TWO_GPUS).kind == "cpu"


@pytest.mark.parametrize("visible", ["MIG-cccc3333", "7", "7,0", "GPU-", "all"])
def test_a_choice_that_is_no_gpu_of_the_machine_is_no_wish_for_the_cpu(visible):
    with pytest.raises(AcceleratorError, match=r"0 \(GPU-aaaa1111\).*MIG.*OPTIKIT_ACCELERATOR=cpu"):
        detect({"CUDA_VISIBLE_DEVICES": visible}, lambda: TWO_GPUS)
    # Where there are none, it is left over from elsewhere.
    assert detect({"CUDA_VISIBLE_DEVICES": visible}, lambda: "").kind == "cpu"


def test_a_gpu_whose_memory_is_unknown_is_refused_unless_it_is_left_out():
    shared = TWO_GPUS.replace("81559", "[N/A]", 1)
    with pytest.raises(AcceleratorError, match=r"H100 80GB HBM3 \(GPU 0\): .* its memory"):
        detect({}, lambda: shared)
    assert detect({"CUDA_VISIBLE_DEVICES": "1"}, lambda: shared).devices == ("1",)


@pytest.mark.parametrize("answer", ["", "No devices were found\n"])
def test_without_a_gpu_the_machine_is_one_slot(answer):
    found = detect({}, lambda: answer)
    assert (found.kind, found.count, found.devices) == ("cpu", 1, ())
    assert found.memory_bytes > 0
    assert found.cores >= 1


def test_cache_bytes_per_token_match_the_published_figure():
    # 2 (k, v) * 32 layers * 8 heads * 128 * 2 bytes = 128 KiB, as in Meta's and vLLM's documents.
    assert LLAMA_8B.kv_bytes_per_token() == 131072
    assert LLAMA_8B.kv_bytes_per_token("fp8") == 65536
    assert LLAMA_8B.kv_bytes_per_token(tensor_parallel=4) == 32768
    # More ranks than kv heads: each keeps one.
    assert LLAMA_8B.kv_bytes_per_token(tensor_parallel=16) == 16384


@pytest.mark.parametrize(
    ("size", "allowed"), [(1, True), (2, True), (8, True), (16, True), (3, False)]
)
def test_tensor_parallelism_follows_the_heads(size, allowed):
    assert LLAMA_8B.allows_tensor_parallel(size) is allowed


def test_a_model_that_cannot_fit_says_by_how_much():
    gpu = Hardware("cuda", "NVIDIA L4", 1, 16 * GIB)
    verdict = estimate(LLAMA_8B, gpu, {}, context_length=8192)
    assert not verdict.fits
    # 16.06e9 * 1.02 + 8192 * 131072 = 1.7456e10 bytes = 16.3 GiB of 0.92 * 16 = 14.7 GiB
    assert "16.3 GiB per device (15.0 GiB of weights), 14.7 GiB are available" in verdict.reason


def test_splitting_over_two_gpus_makes_it_fit():
    gpus = Hardware("cuda", "NVIDIA L4", 2, 16 * GIB)
    verdict = estimate(LLAMA_8B, gpus, {"tensor_parallel_size": 2}, context_length=8192)
    assert verdict.fits
    assert verdict.reason == ""
    assert verdict.weights_bytes == LLAMA_8B.weights_bytes // 2


def test_cpu_cache_holds_all_sequences_within_a_quarter_of_the_memory():
    cpu = Hardware("cpu", "x", 1, 16 * GIB)
    tiny = ModelFacts(1, layers=4, attention_heads=8, kv_heads=8, head_dim=64)
    # 4 * 2 * 8 * 64 * 2 bytes = 8 KiB per token; 512 * 128 tokens = 512 MiB
    assert cpu_kv_cache_bytes(cpu, tiny, max_model_len=512, max_num_seqs=128) == 512 * MIB
    assert cpu_kv_cache_bytes(cpu, tiny, max_model_len=8, max_num_seqs=1) == 256 * MIB
    assert cpu_kv_cache_bytes(cpu, LLAMA_8B, max_model_len=8192, max_num_seqs=128) == 4 * GIB
    assert cpu_kv_cache_bytes(cpu, None, max_model_len=0, max_num_seqs=1) == 4 * GIB


def write_model(folder, **config):
    base = {"num_attention_heads": 4, "num_hidden_layers": 3, "hidden_size": 64}
    (folder / "config.json").write_text(json.dumps({**base, **config}))
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    return folder


def test_facts_are_read_from_the_checkpoint(tmp_path):
    facts = ModelFacts.read(
        write_model(tmp_path, num_key_value_heads=2, max_position_embeddings=256, dtype="float32")
    )
    assert facts == ModelFacts(1000, 3, 4, 2, 16, max_positions=256, dtype_bytes=4)


def test_a_nested_language_model_and_linear_layers_are_understood(tmp_path):
    facts = ModelFacts.read(
        write_model(
            tmp_path,
            text_config={
                "num_hidden_layers": 4,
                "layer_types": ["linear_attention", "full_attention"] * 2,
                "head_dim": 32,
            },
        )
    )
    assert (facts.layers, facts.head_dim) == (2, 32)


def test_a_latent_cache_is_not_split_over_ranks(tmp_path):
    # DeepSeek-V3: 512 + 64 elements per token and layer.
    facts = ModelFacts.read(write_model(tmp_path, kv_lora_rank=512, qk_rope_head_dim=64))
    assert facts.kv_bytes_per_token(tensor_parallel=4) == 3 * 576 * 2


def test_an_unreadable_configuration_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json"):
        ModelFacts.read(tmp_path)
    (tmp_path / "config.json").write_text('{"hidden_size": 4}')
    with pytest.raises(ModelError, match="num_attention_heads"):
        ModelFacts.read(tmp_path)


def test_a_server_takes_its_weights_and_a_whole_cache_of_a_machine_without_a_gpu():
    machine = Hardware(kind="cpu", name="CPU", count=1, memory_bytes=64 * GIB)
    facts = replace(LLAMA_8B, weights_bytes=15 * GIB)
    per_token = facts.kv_bytes_per_token()
    for name in ("vllm", "transformers"):
        engine = get_engine(name)
        least = engine.host_bytes(facts, machine, {}, context_length=1024)
        assert least > 15 * GIB + 1024 * per_token
    # vLLM takes its cache at the start, whatever is served.
    engine, flags = get_engine("vllm"), {"kv_cache_memory_bytes": 4 * GIB, "max_num_seqs": 1}
    taken = engine.host_bytes(facts, machine, flags, context_length=1024)
    assert 19 * GIB < taken < 20 * GIB
