# pyright: standard, reportMissingImports=false
# The libraries behind this module have no types and live in another environment.
"""Write a model that a GGUF file holds as a folder with weights, tokenizer and chat template.

``python convert.py FILE FOLDER``, in the compress environment with the package gguf on its path.
The weights in the file have four bits; what is written are the bfloat16 numbers that they stand
for, so this is the model that is compressed, not a better one.
"""

import copy
import sys
from pathlib import Path


def convert(file: Path, folder: Path) -> None:
    """Write the model of a file into a folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"gguf_file": file.name}
    read = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.bfloat16, **where)
    config = copy.deepcopy(read.config)
    # A model that was read from such a file refuses to be saved as what it is now.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, **where).save_pretrained(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
