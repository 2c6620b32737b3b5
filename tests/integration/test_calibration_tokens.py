"""Which tokens of a conversation AutoRound learns from, with the real library."""

import json
import shutil
from pathlib import Path

import pytest

from tests.integration.test_compress_worker import ROOT, in_compress_environment

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

COMPRESS = """
import json, sys
from pathlib import Path
from auto_round.algorithms.quantization.sign_round.quantizer import SignRoundQuantizer
from optikit_assets.optimizer.backends import get_backend
from optikit_assets.optimizer.backends.models import load_tokenizer, tokenize
from optikit_assets.optimizer.calibration import CalibrationRow
from optikit_assets.optimizer.compression import Compression
from optikit_assets.specs.recipe import AutoRound
from transformers import LlamaModel

model, destination = map(Path, sys.argv[1:])
destination.mkdir()
turns = "Q: Spell beach.</s>A: b-e-a-c-h</s>Q: Ida has 6 keys, buys 7.</s>A: 6+7=13</s>"
rows = (CalibrationRow(turns, templated=True),) * 4
tokenizer = load_tokenizer(model, False)
tokens = [id for row in tokenize(tokenizer, rows, 512) for id in row]
told = {"pads": tokenizer.pad_token_id == tokenizer.eos_token_id}
told["ends"] = [place for place, id in enumerate(tokens) if id == tokenizer.eos_token_id]

learnt = SignRoundQuantizer._compute_valid_token_mask
def masks(self, ids):
    found = learnt(self, ids)
    told["left_out"] = [row.flatten().eq(0).nonzero().flatten().tolist() for row in found]
    return found
SignRoundQuantizer._compute_valid_token_mask = masks

attended = LlamaModel.forward
def forward(self, *args, **options):
    told["unseen"] = options["attention_mask"].flatten().eq(0).nonzero().flatten().tolist()
    return attended(self, *args, **options)
LlamaModel.forward = forward

get_backend("autoround").compress(
    Compression(
        model_path=model,
        destination=destination,
        modifiers=(AutoRound(type="autoround", scheme="W4A16", iters=1),),
        targets=("Linear",),
        ignore=("lm_head",),
        rows=rows,
        max_sequence_length=len(tokens),
        seed=1,
    )
)
print("TOLD", json.dumps({**told, "last": len(tokens) - 1}))
"""


def test_ends_of_turns_are_learnt_from_where_the_tokenizer_pads_with_them(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(ROOT / "demo" / "models" / "demo-llama" / "1", model)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": "</s>"}))
    done = in_compress_environment("-c", COMPRESS, str(model), str(tmp_path / "made"))
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("TOLD "))
    told = json.loads(line.removeprefix("TOLD "))
    assert told["pads"]
    assert len(told["ends"]) == 16
    # The library itself leaves out the last token of a sequence: nothing follows it.
    assert told["left_out"] == [[told["last"]]]
    assert told["unseen"] == [told["last"]]
    # What ships is the tokenizer as it was.
    made, was = (path / "tokenizer_config.json" for path in (tmp_path / "made", model))
    assert made.read_bytes() == was.read_bytes()
