r"""Llama Scope's files, `hyperparams.json` and `checkpoints/final.safetensors`: read only.

    encoder.weight (F, d)   encoder.bias (F)   decoder.weight (d_out, F)   decoder.bias (d_out)

They were trained on activations scaled to a mean norm of $\sqrt d$, input and output each by its
own `dataset_average_activation_norm`: that is the normalisation. One threshold holds for all
latents, in units of the codes before that scaling, so that on normalised activations it is
`jump_relu_threshold` times $\sqrt d$ over the input's mean norm. So SAELens has it; other readers
compare the scores on normalised activations with the number as it stands, and the authors' own code
was not at hand to decide.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from jaxinterp import files
from jaxinterp.activations.normalise import scaling
from jaxinterp.dictionaries.formats import lazy
from jaxinterp.dictionaries.formats.named import MATRIX, SWAPPED, Kept, settings, taken
from jaxinterp.dictionaries.formats.stored import Format, Stored, checked

NAME = "llama_scope"
CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
_LAYOUT = {
    "encoder": Kept("encoder.weight", MATRIX),
    "encoder_bias": Kept("encoder.bias"),
    "decoder": Kept("decoder.weight", SWAPPED),
    "decoder_bias": Kept("decoder.bias"),
}


def read(path: Path) -> Stored:
    """Opens a dictionary.

    Raises:
        ValueError: missing or truncated files, settings that are not read here, or tensors of other
            shapes.
    """
    folder = path if path.is_dir() else path.parent
    config = settings(folder / CONFIG)
    needed = ("d_model", "d_sae", "jump_relu_threshold", "dataset_average_activation_norm")
    missing = [name for name in needed if name not in config]
    if missing:
        raise ValueError(f"{folder / CONFIG} lacks {', '.join(missing)}")
    if config.get("act_fn", "jumprelu") != "jumprelu" or config.get("use_glu_encoder", False):
        raise ValueError(
            f"{folder}: act_fn is {config.get('act_fn')!r}, use_glu_encoder "
            f"{config.get('use_glu_encoder', False)}; linear encoders with jumprelu are read"
        )
    weights = folder / WEIGHTS
    tensors = taken(weights, files.map_arrays(weights), _LAYOUT)
    width, d_out = tensors["decoder"].shape
    d = tensors["encoder"].shape[1]
    if (width, d) != (config["d_sae"], config["d_model"]):
        raise ValueError(
            f"{weights} has {width} latents of dimension {d}; {CONFIG} has d_sae {config['d_sae']} "
            f"and d_model {config['d_model']}"
        )
    norms = config["dataset_average_activation_norm"]
    if not isinstance(norms, dict) or not {"in", "out"} <= set(norms) or min(norms.values()) <= 0:
        raise ValueError(f"{folder}: dataset_average_activation_norm is {norms}, not of in and out")
    stretch = d**0.5 / norms["in"]
    threshold = np.full(width, config["jump_relu_threshold"] * stretch, np.float32)
    tensors["threshold"] = lazy.held("jump_relu_threshold", threshold)
    hooks = [config.get(f"hook_point_{side}") for side in ("in", "out")]
    transcoder = hooks[0] != hooks[1] and hooks[1] is not None
    options: dict[str, Any] = {"width": width}
    if transcoder:
        options["recipe"] = "jumprelu"
    elif not config.get("apply_decoder_bias_to_pre_encoder", False):
        options["scores"] = "uncentred"
    source = {"site": hooks[0], "into": hooks[1] if transcoder else None}
    layer = re.match(r"blocks\.(\d+)\.", str(hooks[0]))
    source["layer"] = int(layer[1]) if layer else None
    stored = Stored(
        "transcoder" if transcoder else "jumprelu",
        options,
        tensors,
        scaling(np.zeros(d), stretch),
        scaling(np.zeros(d_out), d_out**0.5 / norms["out"]) if transcoder else None,
        source={name: value for name, value in source.items() if value is not None},
        format=NAME,
    )
    return checked(stored, folder)


def _recognises(path: Path) -> bool:
    return path.name == CONFIG or (path / CONFIG).is_file()


FORMAT = Format(NAME, f"{CONFIG} and {WEIGHTS}", _recognises, read)
