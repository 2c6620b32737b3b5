"""Sensitivities of layers, measured with the real library where it compresses."""

import ctypes
import json
from typing import Any

import pytest

from tests.integration.test_compress_worker import in_compress_environment

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

# A small model with tied embeddings, a layer that no token reaches, and four batches.
GIVEN = """
import json, torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from compressed_tensors.offload.cache import OffloadCache
from optikit_assets.optimizer.backends import llmcompressor, sensitivity

torch.manual_seed(0)
model = Qwen2ForCausalLM(
    Qwen2Config(
        vocab_size=208, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )
)
layers = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
layers["unreached"] = torch.nn.Linear(128, 128, bias=False)
ids = [torch.randint(0, 208, (2, length)) for length in (40, 30, 20, 10)]
batches = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
scheme = llmcompressor._scheme("W4A16", ["Linear"]).weights

has_room = sensitivity._has_room
def measured(device, room=True, batches=batches):
    sensitivity._has_room = lambda *_: room
    found = sensitivity.measure(model, layers, batches, scheme, torch.device(device))
    return {name: [e.error, e.power, e.weights] for name, e in found.items()}
"""

ON_CPU = """
from types import SimpleNamespace
import llmcompressor.utils.dev as dev

inputs = {}
def keep(name):
    def hook(module, given):
        inputs.setdefault(name, []).append(given[0].double().flatten(end_dim=-2))
    return hook
handles = [layer.register_forward_pre_hook(keep(name)) for name, layer in layers.items()]
with torch.no_grad():
    for batch in batches:
        model(**batch)
for handle in handles:
    handle.remove()
expected = {}
for name, layer in layers.items():
    h = sum((x.square().sum(dim=0) for x in inputs.get(name, [])), torch.zeros(()))
    w = layer.weight.detach()
    e = (h * (w - sensitivity._rounded(w, scheme)).double().square()).sum().item()
    expected[name] = [e, (h * w.double().square()).sum().item(), w.numel()]

def placed():
    return [(id(t), str(t.device)) for t in [*model.parameters(), *model.buffers()]]

def dispatched():
    return [n for n, m in model.named_modules() if isinstance(m._parameters, OffloadCache)]

told = {"expected": expected, "placed": placed(), "on": []}
layer = model.model.layers[0].mlp.down_proj
watch = layer.register_forward_hook(
    lambda m, *_: told["on"].append(str(getattr(m._parameters, "onload_device", None)))
)
told["kept"], told["copied"] = measured("cpu"), measured("cpu", room=False)
watch.remove()
try:
    measured("cpu", batches=[{"input_ids": torch.tensor([[999]])}])
except IndexError as error:
    told["raised"] = str(error)
told["afterwards"], told["dispatched"] = placed(), dispatched()
told["held"] = len(OffloadCache.keep_onloaded_values)
told["tied"] = model.lm_head.weight is model.model.embed_tokens.weight
told["hooks"] = sum(len(m._forward_pre_hooks) for m in model.modules())

torch.accelerator.get_memory_info = lambda device: (100, 200)
asked = (("cuda", 80), ("cuda", 81), ("cpu", 10**18))
told["room"] = [has_room(torch.device(device), size) for device, size in asked]
dev.get_main_device = lambda: torch.device("cuda", 0)
def measure(model, layers, batches, scheme, device):
    told["device"] = str(device)
    return {"a": sensitivity.LayerError(1.0, 1.0, 1), "b": sensitivity.LayerError(0.0, 1.0, 9)}
llmcompressor.measure = measure
from optikit_assets.specs.recipe import GPTQ, MixedPrecision
recipe = SimpleNamespace(
    mixed_precision=MixedPrecision(scheme="W8A8", share=0.3),
    modifiers=(GPTQ(type="gptq", scheme="W4A16"),), targets=("Linear",), ignore=("lm_head",),
)
told["chosen"] = llmcompressor._sensitive(recipe, model, batches)
print("TOLD", json.dumps(told))
"""

ON_CUDA = """
told = {"cuda": torch.cuda.is_available()}
if told["cuda"]:
    told["cpu"] = measured("cpu")
    told["kept"], told["copied"] = measured("cuda:0"), measured("cuda:0", room=False)
    told["used"] = torch.cuda.max_memory_allocated()
    told["devices"] = sorted({str(p.device) for p in model.parameters()})
print("TOLD", json.dumps(told))
"""


def told_by(code: str) -> dict[str, Any]:
    done = in_compress_environment("-c", GIVEN + code)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("TOLD "))
    return json.loads(line.removeprefix("TOLD "))


@pytest.fixture(scope="module")
def on_cpu() -> dict[str, Any]:
    return told_by(ON_CPU)


def test_sensitivities_are_what_plain_passes_give(on_cpu: dict[str, Any]) -> None:
    assert on_cpu["expected"]["unreached"] == [0.0, 0.0, 128 * 128]
    for how in ("kept", "copied"):
        assert on_cpu[how].keys() == on_cpu["expected"].keys()
        for name, found in on_cpu[how].items():
            assert found == pytest.approx(on_cpu["expected"][name], rel=1e-12), name


def test_every_pass_is_made_on_the_device_that_compresses(on_cpu: dict[str, Any]) -> None:
    assert on_cpu["on"] == ["cpu"] * 8
    assert on_cpu["device"] == "cuda:0"
    assert on_cpu["chosen"] == ["a"]


def test_weights_stay_on_a_card_that_has_room_for_activations_too(on_cpu: dict[str, Any]) -> None:
    assert on_cpu["room"] == [True, False, True]


def test_weights_are_where_they_were_afterwards_also_after_an_error(on_cpu: dict[str, Any]) -> None:
    assert "out of range" in on_cpu["raised"]
    assert on_cpu["afterwards"] == on_cpu["placed"]
    assert on_cpu["tied"]
    assert on_cpu["dispatched"] == []
    assert (on_cpu["held"], on_cpu["hooks"]) == (0, 0)


@pytest.mark.gpu
@pytest.mark.alone
def test_sensitivities_on_a_gpu_agree_with_those_on_the_processor() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pytest.skip("this machine has no NVIDIA GPU")
    told = told_by(ON_CUDA)
    if not told["cuda"]:
        pytest.skip("torch of the compress environment is not built for CUDA")
    for how in ("kept", "copied"):
        for name, found in told[how].items():
            assert found == pytest.approx(told["cpu"][name], rel=1e-3), name
    assert told["used"] > 0
    assert told["devices"] == ["cpu"]
