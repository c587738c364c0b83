"""Random small models of transformers, saved as people's checkpoints are, and what they compute."""

import contextlib
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the oracle of these tests is torch")
transformers = pytest.importorskip("transformers", reason="the oracle is transformers")


@contextlib.contextmanager
def quiet():
    """Other libraries' warnings are not ours to fix."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def save_random(folder: Path, model_class, config, *, seed=0, scale=0.08, **save) -> Path:
    """A model with every weight random: norm weights around 1, biases not zero.

    An omitted term, a wrong norm or a swapped layout then shows in the output.
    """
    with quiet():
        torch.manual_seed(seed)
        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        model = model_class(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn_like(parameter)
                if parameter.ndim == 1 and ("norm" in name.lower() or "ln" in name):
                    offset = (
                        1.0 if name.endswith("weight") and "gemma" not in config.model_type else 0
                    )
                    parameter.copy_(offset + 0.3 * noise)
                elif parameter.ndim <= 1:
                    parameter.copy_(0.3 * noise + (1.0 if "lambda" in name else 0.0))
                else:
                    parameter.copy_(scale * noise * (3 if "embed" in name else 1))
        if hasattr(model, "tie_weights"):
            model.tie_weights()
        model.save_pretrained(folder, **save)
    return folder


def run(folder: Path, model_class, **inputs):
    """The model's outputs as NumPy: `(outputs, hidden states, attentions)`."""
    with quiet(), torch.no_grad():
        model = model_class.from_pretrained(folder, attn_implementation="eager").eval()
        tensors = {
            k: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for k, v in inputs.items()
        }
        out = model(**tensors, output_hidden_states=True, output_attentions=True)
    return out


def edit_config(folder: Path, change) -> None:
    """Rewrites `config.json` through `change(dict) -> None`."""
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
