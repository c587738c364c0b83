"""This library's contestants of `bench_dictionaries.py`: whole training steps.

    python experiments/bench_dictionaries_jax.py NAME DATA.npy '{"width": 4096, ...}'

Run by that script. NAME is a variant, `sweep` (all members in one program), `one by one` (the
same members after each other), or, for whole runs with their compilation, `sweep run` or `run by
run`.
"""

import json
import sys
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from contestants import answers, memory, serve

from jaxinterp.dictionaries.archetypal import archetypal
from jaxinterp.dictionaries.base import Dictionary
from jaxinterp.dictionaries.batch_topk import batch_topk
from jaxinterp.dictionaries.itda import grow, itda
from jaxinterp.dictionaries.jumprelu import jumprelu
from jaxinterp.dictionaries.learner import Learner, learner
from jaxinterp.dictionaries.matching_pursuit import matching_pursuit
from jaxinterp.dictionaries.matryoshka import matryoshka
from jaxinterp.dictionaries.optimizers import optimizer
from jaxinterp.dictionaries.orthogonal_pursuit import orthogonal_pursuit
from jaxinterp.dictionaries.precision import in_bfloat16
from jaxinterp.dictionaries.relu import relu
from jaxinterp.dictionaries.sweep import sweep
from jaxinterp.dictionaries.topk import topk
from jaxinterp.dictionaries.train import fit


def variants(size: dict) -> dict[str, Callable[[], Dictionary]]:
    """The recipes, none of whose latents count as dead: SAELens' do not in so few steps either."""
    width, k, alive = size["width"], size["k"], {"dead_after": 10_000_000}
    prefixes = [width // 2**i for i in reversed(range(5))]
    over_batch = partial(batch_topk, width=width, k=k, **alive)
    hull = partial(archetypal, size["candidates"])
    return {
        "topk": lambda: topk(width, k, **alive),
        "archetypal": lambda: topk(width, k, atoms=hull, **alive),
        "relu": lambda: relu(width, weight=5.0, **alive),
        "jumprelu": lambda: jumprelu(width, weight=1.0, **alive),
        "batch_topk": over_batch,
        "matryoshka": lambda: matryoshka(over_batch, prefixes),
        "matching_pursuit": lambda: matching_pursuit(width, k, **alive),
        "orthogonal_pursuit": lambda: orthogonal_pursuit(width, k, **alive),
        "itda": lambda: itda(width, k),
    }


def stepper(name: str, size: dict, batches: list[jax.Array]) -> Callable[[jax.Array], object]:
    """One training step as a call that keeps its state and gives back what must be waited for."""
    recipe = variants(size)["topk" if name in ("sweep", "one by one") else name]
    dictionary = in_bfloat16(recipe()) if size["dtype"] == "bfloat16" else recipe()

    def make(rate: jax.Array) -> Learner:
        if name == "itda":
            return grow(dictionary, 0.3 * size["d"])  # rows have a mean square of one
        return learner(dictionary, optimizer("adam", rate, clip=1.0))

    members = size["members"] if name in ("sweep", "one by one") else 1
    rates = jnp.geomspace(1e-4, 1e-3, members)
    keys = jax.random.split(jax.random.key(0), members)
    if name == "sweep":
        many = sweep(make, rates)
        groups = [(rates, jax.jit(many.init)(keys, batches[0]))]
        compiled = jax.jit(lambda _, state, x: many.step(state, x)[0], donate_argnums=1)
    else:
        start = jax.jit(lambda rate, key: make(rate).init(key, batches[0]))
        groups = [(r, start(r, key)) for r, key in zip(rates, keys, strict=True)]
        compiled = jax.jit(lambda rate, state, x: make(rate).step(state, x)[0], donate_argnums=1)

    def run(x: jax.Array) -> object:
        groups[:] = [(rates, compiled(rates, state, x)) for rates, state in groups]
        return groups

    return run


def steps_of(name: str, size: dict, rows: jax.Array) -> Callable[[], None]:
    """A turn of steps that go on from those of the turn before."""
    batches = list(rows.reshape(-1, size["batch"], rows.shape[1]))
    step = stepper(name, size, batches)

    def run() -> None:
        for i in range(size["steps"]):
            done = step(batches[i % len(batches)])
        jax.block_until_ready(done)

    return run


def whole_runs(name: str, size: dict, rows: jax.Array) -> Callable[[], None]:
    """A turn of training from nothing: all members at once, or each in a run of its own."""
    dictionary = variants(size)["topk"]()
    rates = np.geomspace(1e-4, 1e-3, size["members"])
    keys = jax.random.split(jax.random.key(0), size["members"])

    def make(rate: jax.Array | float) -> Learner:
        return learner(dictionary, optimizer("adam", rate, clip=1.0))

    def train(one: Learner, key: jax.Array) -> None:
        state = jax.jit(one.init)(key, rows[: size["batch"]])
        for _ in fit(one, state, rows, steps=size["steps"], batch=size["batch"], seed=0):
            pass

    def run() -> None:
        if name == "sweep run":
            train(sweep(make, jnp.asarray(rates)), keys)
        else:
            for rate, key in zip(rates, keys, strict=True):
                train(make(float(rate)), key)

    return run


def device_memory() -> float:
    """Most memory of the device that arrays and programs have held so far, in MiB."""
    return jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20


def main(name: str, data: str, size: dict) -> None:
    stream = answers()
    peak = memory if jax.default_backend() == "cpu" else device_memory
    libraries = peak()
    build = whole_runs if name in ("sweep run", "run by run") else steps_of
    serve(stream, build(name, size, jnp.asarray(np.load(data))), libraries, peak)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
