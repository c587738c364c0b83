"""The stages of the main job that measure what the earlier ones left: a dictionary and its layers.

As in `pipeline`: a stage whose result is there is not run again, and several processes share it.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import distributed, files, placement
from jaxinterp.activations import store
from jaxinterp.config import RunConfig
from jaxinterp.data import Rows
from jaxinterp.dictionaries import formats
from jaxinterp.dictionaries.base import Dictionary
from jaxinterp.dictionaries.metrics import Fit, Usage
from jaxinterp.distributed import MustStop, in_step, never
from jaxinterp.evaluation import behaviour, reconstruction
from jaxinterp.evaluation.reconstruction import Reconstruction
from jaxinterp.inputs import FORWARD_ROWS, Inputs
from jaxinterp.layer_dimension import dimension_of
from jaxinterp.pipeline import LAYERS
from jaxinterp.report.terminal import progress

_ROWS = 4096  # activations in a call of the dictionary


def read_held_out(folder: Path) -> dict[str, np.ndarray]:
    """Held-out `activations` (n, d), and the `row` and `position` (n) that each came from."""
    held_out = store.open_store(folder / "activations" / "held_out")
    return {name: held_out.read(name) for name in ("activations", "row", "position")}


def pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """Consecutive pieces of one size (but the last), so that a jitted function compiles once."""
    return (array[i : i + _ROWS] for i in range(0, len(array), _ROWS))


def evaluate_stage(
    config: RunConfig, inputs: Inputs, folder: Path, must_stop: MustStop = never
) -> None:
    """Measures the dictionary on held-out text, of which each process takes a part."""
    target = folder / "evaluation.json"
    if distributed.of_writer(target.exists()):
        return
    with distributed.together():
        dictionary, params, _ = formats.load(folder / "dictionary")
        params = placement.params_on(inputs.own, params)
        rows = _share(read_held_out(folder)["activations"])
    placed = (placement.rows_on(inputs.own, piece) for piece in pieces(rows))
    going = in_step(placed, must_stop)
    if len(rows):
        own = reconstruction.measure(dictionary, params, going)
        told = tuple(own.fit), tuple(own.usage)
    else:  # it has fewer held-out rows than there are processes
        told = None
        list(going)
    found = [part for part in distributed.gathered(told) if part is not None]
    parts = [Reconstruction(Fit(*fit), Usage(*usage)) for fit, usage in found]
    sums = functools.reduce(reconstruction.merge, parts)
    mean = np.asarray(sums.fit.mean, np.float32)
    losses = _cross_entropy(inputs, dictionary, params, mean)
    metrics = sums.metrics() | {
        "cross_entropy_recovered": losses.recovered(),
        "cross_entropy_recovered_over_mean": losses.recovered_over_mean(),
        "divergence_recovered": losses.divergence_recovered(),
        "encoder_decoder_cosine": reconstruction.mean_encoder_decoder_cosine(
            params, np.asarray(sums.usage.fired)
        ),
        "cross_entropy": losses._asdict(),
        "held_in_tokens": int(inputs.held_in.mask[:, 1:].sum()),
        "held_out_tokens": int(inputs.held_out.mask[:, 1:].sum()),
    }
    per_latent = {
        n: np.asarray(getattr(sums.usage, n)) for n in ("fired", "mass", "energy", "peak")
    }
    with distributed.together():
        if distributed.is_writer():
            files.write_arrays(folder / "latents.safetensors", per_latent)
            files.write_json(target, metrics)


def _share(array: np.ndarray) -> np.ndarray:
    """This process' part of rows that every process has."""
    return np.array_split(array, jax.process_count())[jax.process_index()]


def _cross_entropy(
    inputs: Inputs, dictionary: Dictionary, params: Any, mean: np.ndarray
) -> behaviour.CrossEntropy:
    """The losses over the text of all processes."""
    own = Rows(*(_share(column) for column in inputs.held_out))
    tokens, sums = int(own.mask[:, 1:].sum()), np.zeros(len(behaviour.CrossEntropy._fields))
    if tokens:
        sums += tokens * np.asarray(
            behaviour.cross_entropy(
                inputs.encoder, dictionary, params, own, inputs.site, mean, batch=FORWARD_ROWS
            )
        )
    counts, totals = zip(*distributed.gathered((tokens, sums)), strict=True)
    return behaviour.CrossEntropy(*(float(total) for total in sum(totals) / sum(counts)))


def geometry_stage(
    config: RunConfig, inputs: Inputs, folder: Path, must_stop: MustStop = never
) -> None:
    """Estimates the intrinsic dimension of every layer, at several scales."""
    target = folder / "geometry.json"
    if distributed.of_writer(target.exists()):
        return
    with distributed.together():
        kept = store.open_store(folder / "activations" / "layers").read("layers")
    clouds = list(enumerate(kept.swapaxes(0, 1)))
    own, found = clouds[jax.process_index() :: jax.process_count()], {}
    with progress("dimension of every layer", len(own), unit="layers") as advance:
        for index, cloud in in_step(own, must_stop):
            found[index] = {"layer_name": f"L{index}.{LAYERS}"}
            found[index] |= dimension_of(jnp.asarray(cloud), config.neighbors)
            advance(1)
    everyone = {n: layer for part in distributed.gathered(found) for n, layer in part.items()}
    layers = [everyone[n] for n in sorted(everyone)]
    with distributed.together():
        if distributed.is_writer():
            files.write_json(target, {"neighbors": config.neighbors, "layers": layers})
