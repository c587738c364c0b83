r"""Crosscoders of two models as `cc_weights.pt` and `cfg.json`: Kissane et al.'s and their heirs'.

What their training saves, `3.pt` and `3_cfg.json`, is read too, by the name of the first.

    W_enc (models, d, F)   b_enc (F)   W_dec (F, models, d)   b_dec (models, d)

$z = \mathrm{relu}(\sum_m x_m W_{enc,m} + b_{enc})$ and $\hat x_m = z W_{dec,m} + b_{dec,m}$, on
activations of each model scaled to a mean norm of $\sqrt d$. The two scales are not in the files:
estimate them (`activations.normalise.mean_norm`) and fold them in (`fold.fold`).
"""

import re
from pathlib import Path
from typing import Any

from jaxinterp.dictionaries.formats import pair, torch_files
from jaxinterp.dictionaries.formats.named import Kept, given, settings, taken
from jaxinterp.dictionaries.formats.stored import Format, Stored, checked, dictionary_of
from jaxinterp.dictionaries.registry import to_json

NAME = "crosscoder_pt"
CONFIG, WEIGHTS = "cfg.json", "cc_weights.pt"
_LAYOUT = {
    "encoder": Kept("W_enc", (2, 0, 1)),
    "encoder_bias": Kept("b_enc"),
    "decoder": Kept("W_dec", (0, 1, 2)),
    "decoder_bias": Kept("b_dec"),
}
_UNSCALED = (
    "it reads activations of each model scaled to a mean norm of sqrt(d); the two scales are not "
    "in the files"
)


def read(path: Path) -> Stored:
    """Opens a crosscoder.

    Raises:
        ValueError: missing, truncated or hostile files, missing tensors, or other shapes.
    """
    weights = path / WEIGHTS if path.is_dir() else path
    config = settings(_config_of(weights))
    tensors = taken(weights, torch_files.read_tensors(weights), _LAYOUT)
    for field, size in zip(("dict_size", "d_in"), tensors["decoder"].shape[::2], strict=True):
        if config.get(field, size) != size:
            raise ValueError(f"{weights} has {field} {size}; {CONFIG} has {config[field]}")
    source: dict[str, Any] = {"training": config}
    for ours, name in (("model", "model_name"), ("site", "hook_point"), ("site", "site")):
        if config.get(name):
            source.setdefault(ours, config[name])
    options = {"width": tensors["decoder"].shape[0]}
    stored = Stored(
        "l1_crosscoder", options, tensors, source=source, notes=(_UNSCALED,), format=NAME
    )
    return checked(stored, weights)


def write(folder: Path, stored: Stored) -> tuple[str, ...]:
    """Writes a crosscoder with ReLU codes.

    Returns:
        What the format can't hold.

    Raises:
        ValueError: any other dictionary, or one with a normalisation.
    """
    dictionary_of(stored)
    recipe = to_json("recipe", stored.options.get("recipe", "relu"))
    if stored.variant not in ("l1_crosscoder", "crosscoder") or recipe != "relu":
        raise ValueError(f"only crosscoders with ReLU codes are kept as {WEIGHTS}")
    if stored.normalisation is not None:
        raise ValueError("this format has no place for a normalisation: fold it in first")
    width, sites, d = stored.tensors["decoder"].shape
    defaults = {"dict_size": width, "d_in": d, "n_models": sites, "enc_dtype": "fp32", "seed": 0}
    config = defaults | stored.source.get("training", {})
    for ours, name in (("model", "model_name"), ("site", "hook_point")):
        if ours in stored.source:
            config.setdefault(name, stored.source[ours])
    arrays = given(stored.tensors, _LAYOUT)
    pair.write(folder, WEIGHTS, lambda at: torch_files.write_tensors(at, arrays), CONFIG, config)
    return ()


def _recognises(path: Path) -> bool:
    saved = re.fullmatch(r"\d+\.pt", path.name) and _config_of(path).is_file()
    return path.name == WEIGHTS or (path / WEIGHTS).is_file() or bool(saved)


def _config_of(weights: Path) -> Path:
    return weights.with_name(CONFIG if weights.name == WEIGHTS else f"{weights.stem}_{CONFIG}")


FORMAT = Format(NAME, f"{WEIGHTS} and {CONFIG}", _recognises, read, write)
