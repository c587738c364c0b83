"""dictionary_learning's format: `ae.pt`, a state dict of torch, and `config.json` beside it.

The class, `trainer.dict_class` of `config.json`, says what the tensors are (orientation as in
torch's linear layers):

    AutoEncoder            encoder.weight (F, d), encoder.bias, decoder.weight (d, F), bias (d)
    AutoEncoderNew         the same, decoder.bias for bias; the input is not centred
    GatedAutoEncoder       encoder.weight, gate_bias, mag_bias, r_mag, decoder.weight, decoder_bias
    AutoEncoderTopK        encoder.*, decoder.weight, b_dec, k (), threshold ()
    BatchTopKSAE           the same
    JumpReluAutoEncoder    W_enc (d, F), b_enc, W_dec (F, d), b_dec, threshold (F); not centred
    MatryoshkaBatchTopKSAE W_enc, b_enc, W_dec, b_dec, k (), threshold (), group_sizes

Checkpoints, `checkpoints/ae_{step}.pt` below that folder, are read as well. What p-annealing and
the other trainers make is one of these classes. A threshold below zero was never estimated: batch
top-k then keeps all positive scores, there and here. Codes are those of the file, where
dictionary_learning scales the atoms of an AutoEncoder to length one as it opens it, and the codes
with them; `fold.unit_norms` does the same.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxinterp.dictionaries.formats import lazy, pair, torch_files
from jaxinterp.dictionaries.formats.dictionary_learning_classes import CLASSES, SIGNS
from jaxinterp.dictionaries.formats.lazy import Lazy
from jaxinterp.dictionaries.formats.named import given, not_negative, settings, taken
from jaxinterp.dictionaries.formats.plain import Plain, plain
from jaxinterp.dictionaries.formats.stored import Format, Stored, checked, folded
from jaxinterp.dictionaries.registry import to_json

NAME = "dictionary_learning"
CONFIG, WEIGHTS = "config.json", "ae.pt"


def read(path: Path) -> Stored:
    """Opens a dictionary.

    Raises:
        ValueError: missing, truncated or hostile files, an unknown class, missing tensors, or
            sizes that contradict each other.
    """
    weights = path / WEIGHTS if path.is_dir() else path
    config = _config(weights)
    trainer = config["trainer"]
    found = torch_files.read_tensors(weights)
    name = str(trainer.get("dict_class") or _by_tensors(weights, found))
    if name not in CLASSES:
        raise ValueError(f"{weights}: unknown class {name!r}; known: {', '.join(CLASSES)}")
    kind = CLASSES[name]
    tensors = taken(weights, found, kind.layout, kind.others)
    width, d = tensors["decoder"].shape
    for field, size in (("dict_size", width), ("activation_dim", d)):
        if trainer.get(field, size) != size:
            raise ValueError(
                f"{weights} has {field} {size} by its tensors and {trainer[field]} by {CONFIG}"
            )
    options: dict[str, Any] = {"width": width}
    if not kind.centred:
        options["scores"] = "uncentred"
    if "k" in kind.others:
        options["k"] = _k(weights, trainer, found)
    source, notes = _source(config), []
    if name in ("AutoEncoder", "AutoEncoderNew"):
        options["atoms"] = "free"
    if name == "AutoEncoder":
        notes.append(
            "codes are as in the file; dictionary_learning scales the atoms of this class to "
            "length one as it opens it, and the codes with them, as fold.unit_norms does"
        )
    if name == "AutoEncoderTopK" and "threshold" in found and found["threshold"].ndim == 0:
        source["threshold"] = float(found["threshold"])  # of a second way to encode
    if name == "JumpReluAutoEncoder":
        tensors["threshold"] = not_negative(tensors["threshold"])
    if name == "MatryoshkaBatchTopKSAE":
        options |= {"recipe": "batch_topk", "prefixes": _prefixes(weights, found)}
        groups = trainer.get("group_weights")
        if isinstance(groups, list):  # its loss is the mean over the groups
            options["weights"] = [float(w) / len(groups) for w in groups]
    stored = Stored(kind.variant, options, tensors, source=source, notes=tuple(notes), format=NAME)
    checked(stored, weights)
    if kind.variant in ("batch_topk", "matryoshka") and found["threshold"] < 0:
        note = "its threshold was never estimated: every positive score is kept"
        return stored._replace(notes=(*notes, note))
    return stored


def write(folder: Path, stored: Stored) -> tuple[str, ...]:
    """Writes a dictionary that dictionary_learning opens.

    Returns:
        What the format can't hold.

    Raises:
        ValueError: a dictionary that dictionary_learning has no class for.
    """
    p = plain(stored)
    name = _class_of(stored, p)
    kind = CLASSES[name]
    if kind.variant == "matryoshka":
        p = plain(stored, kept=("prefixes", "weights"))
    tensors, notes = dict(p.tensors), list(p.notes)
    width, d = tensors["decoder"].shape
    if "skip" in tensors or tensors["encoder"].shape != (width, d):
        raise ValueError(
            "dictionary_learning keeps dictionaries of one dimension and without a skip path, not "
            f"tensors {', '.join(sorted(tensors))} from {tensors['encoder'].shape[1]} to {d}"
        )
    if p.transcoder:
        notes.append("dictionary_learning does not say that input and target differ")
    if p.centred != kind.centred:
        tensors |= _recentred(tensors, 1 if kind.centred else -1)
        notes.append(f"the decoder's bias was moved in the encoder's, as {name} wants it")
    trainer: dict[str, Any] = {
        "trainer_class": kind.trainer,
        "layer": stored.source.get("layer"),
        "lm_name": stored.source.get("model"),
        "submodule_name": stored.source.get("site"),
        **stored.source.get("training", {}),
        "dict_class": name,
        "activation_dim": d,
        "dict_size": width,
    }
    extra: dict[str, np.ndarray] = {}
    if "k" in kind.others:
        k = stored.options["k"]
        if int(k) != k:
            raise ValueError(f"{k=}: dictionary_learning keeps a whole number of latents")
        trainer["k"] = int(k)
        extra = {"k": np.asarray(k, np.int32)}
    if kind.variant in ("batch_topk", "matryoshka"):
        notes = [note for note in notes if "JumpReLU" not in note]  # it has batch top-k itself
        tensors["threshold"] = folded(stored).tensors["threshold"]
    elif name == "AutoEncoderTopK":
        extra["threshold"] = np.asarray(stored.source.get("threshold", -1.0), np.float32)
    if kind.variant == "matryoshka":
        sizes = np.diff([0, *stored.options["prefixes"]])
        extra["group_sizes"] = sizes.astype(np.int64)
        weights = stored.options.get("weights") or [1.0] * len(sizes)
        trainer.setdefault("group_weights", [w * len(sizes) for w in weights])
        trainer["group_sizes"] = sizes.tolist()
    buffer = stored.source.get("buffer", {"ctx_len": None, "d_submodule": d})
    arrays = given(tensors, kind.layout) | extra
    config = {"trainer": trainer, "buffer": buffer}
    pair.write(folder, WEIGHTS, lambda at: torch_files.write_tensors(at, arrays), CONFIG, config)
    if name == "AutoEncoder":
        notes.append(
            "dictionary_learning scales the atoms of an AutoEncoder to length one as it opens it "
            "(normalize_decoder=False does not)"
        )
    return tuple(notes)


def _recognises(path: Path) -> bool:
    return (path / WEIGHTS).is_file() or bool(re.fullmatch(r"ae(_\d+)?\.pt", path.name))


FORMAT = Format(NAME, f"{WEIGHTS} and {CONFIG}", _recognises, read, write)


def _config(weights: Path) -> dict[str, Any]:
    """The configuration beside the weights, or of the folder of their checkpoints; or nothing."""
    folder = weights.parent.parent if weights.parent.name == "checkpoints" else weights.parent
    if not (folder / CONFIG).is_file():
        return {"trainer": {}}
    config = settings(folder / CONFIG)
    if not isinstance(config.get("trainer"), dict):
        raise ValueError(f"{folder / CONFIG} has no trainer: it is not of dictionary_learning")
    return config


def _by_tensors(weights: Path, found: Mapping[str, np.ndarray]) -> str:
    for sign, name in SIGNS.items():
        if sign in found:
            return name
    raise ValueError(
        f"{weights} has no {CONFIG} with trainer.dict_class beside it, and its tensors "
        f"{lazy.listed(found)} do not tell which class it is"
    )


def _k(weights: Path, trainer: Mapping[str, Any], found: Mapping[str, np.ndarray]) -> int:
    told = [int(found["k"])] if "k" in found and found["k"].ndim == 0 else []
    if isinstance(trainer.get("k"), int):
        told.append(trainer["k"])
    if not told or min(told) != max(told):
        raise ValueError(f"{weights}: k is {told} by its tensor and {CONFIG}; one number is needed")
    return told[0]


def _prefixes(weights: Path, found: Mapping[str, np.ndarray]) -> list[int]:
    sizes = found.get("group_sizes")
    if sizes is None or sizes.ndim != 1 or sizes.dtype.kind not in "iu":
        raise ValueError(
            f"{weights} lacks group_sizes, the sizes of nested groups, or it is no list"
        )
    return np.cumsum(sizes).tolist()


def _source(config: Mapping[str, Any]) -> dict[str, Any]:
    names = {"model": "lm_name", "layer": "layer", "site": "submodule_name"}
    trainer, sizes = config["trainer"], {"dict_class", "activation_dim", "dict_size", "k"}
    source = {ours: trainer[name] for ours, name in names.items() if trainer.get(name) is not None}
    rest = {name: v for name, v in trainer.items() if name not in {*names.values(), *sizes}}
    source |= {"training": rest} if rest else {}
    return source | ({"buffer": config["buffer"]} if config.get("buffer") else {})


def _class_of(stored: Stored, p: Plain) -> str:
    recipe = to_json("recipe", stored.options.get("recipe", stored.variant))
    if recipe == "batch_topk" and not p.transcoder:
        return "BatchTopKSAE" if stored.variant == "batch_topk" else "MatryoshkaBatchTopKSAE"
    classes = {
        "relu": "AutoEncoder" if p.centred else "AutoEncoderNew",
        "gated": "GatedAutoEncoder",
        "topk": "AutoEncoderTopK",
        "jumprelu": "JumpReluAutoEncoder",
    }
    if p.selection not in classes:
        raise ValueError(f"dictionary_learning has no class for {p.selection} dictionaries")
    return classes[p.selection]


def _recentred(tensors: Mapping[str, Lazy], sign: int) -> dict[str, Lazy]:
    """Encoder biases for an input that is centred by the decoder's bias (1), or is not (-1)."""
    bias = lazy.whole(tensors["decoder_bias"]).astype(np.float64)
    shift = sign * lazy.products(tensors["encoder"], bias)
    changed = {"encoder_bias": shift}
    if "magnitude_bias" in tensors:
        stretch = np.exp(lazy.whole(tensors["log_magnitude"]).astype(np.float64))
        changed["magnitude_bias"] = stretch * shift

    def moved(name: str, by: np.ndarray) -> Lazy:
        return lazy.changed(tensors[name], lambda part, region: part + by[region])

    return {name: moved(name, by) for name, by in changed.items()}
