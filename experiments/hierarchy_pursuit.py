"""Does pursuit read a hierarchy that one linear look can't? And can it spend more or less later?

    python experiments/hierarchy_pursuit.py

Each activation is a parent (size 1 to 2) and one of its children (0.3 to 0.6), which lean towards
it. Claim (Costa et al. 2025, arXiv 2506.03093): matching pursuit reads features at several levels
that linear encoders miss, and its codes may be longer or shorter at inference than in training.
Three tables: variance missed with the true atoms; what dictionaries trained on these activations
find (means over seeds; `parents` and `children`: share with an atom of cosine above 0.9); and
variance missed by the trained ones at other numbers of latents than in training.

Outcome: to be measured.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from configs.hierarchy_pursuit import HierarchyPursuit
from jaxinterp import dictionaries as dl
from jaxinterp.dictionaries import errors
from jaxinterp.evaluation import recovery

VARIANTS = {
    "matching_pursuit": dl.matching_pursuit,
    "orthogonal_pursuit": dl.orthogonal_pursuit,
    "topk": dl.topk,
}
LENGTHS = (1, 2, 4, 8)


def features(config: HierarchyPursuit) -> jax.Array:
    """Parents, then the children of each: unit rows."""
    rng = np.random.default_rng(0)
    frame = np.linalg.qr(rng.normal(size=(config.d, config.d)))[0]
    parents, rest = frame[: config.families], iter(frame[config.families :])
    rows = list(parents)
    for parent in parents:
        common = next(rest)
        for _ in range(config.children):
            own = np.sqrt(config.siblings) * common + np.sqrt(1 - config.siblings) * next(rest)
            rows.append(own + config.lean * parent)
    return dl.unit_rows(jnp.asarray(np.stack(rows), jnp.float32))


def draw(config: HierarchyPursuit, atoms: jax.Array, key: jax.Array, n: int) -> jax.Array:
    """Activations of one parent and one of its children each."""
    family, child, large, small, noise = jax.random.split(key, 5)
    parent = jax.random.randint(family, (n,), 0, config.families)
    which = jax.random.randint(child, (n,), 0, config.children)
    x = jax.random.uniform(large, (n, 1), minval=1.0, maxval=2.0) * atoms[parent]
    kids = config.families + parent * config.children + which
    x += jax.random.uniform(small, (n, 1), minval=0.3, maxval=0.6) * atoms[kids]
    return x + config.noise * jax.random.normal(noise, x.shape)


def missed(dictionary: dl.Dictionary) -> Callable[..., jax.Array]:
    """`(params, x) -> ` the share of the variance that the reconstruction misses."""

    def share(params, x: jax.Array) -> jax.Array:
        return errors.unexplained(dictionary.decode(params, dictionary.encode(params, x)), x)

    return jax.jit(share)


def train(config: HierarchyPursuit, atoms: jax.Array, variant: Callable[..., dl.Dictionary]):
    """Parameters of all seeds, with a leading axis."""
    rate = dl.learning_rate(config.rate, steps=config.steps, warmup=100, decay="linear")
    dictionary = variant(config.width, config.k, dead_after=50 * config.batch)
    learner = dl.learner(dictionary, dl.optimizer("adam", rate, clip=1.0))
    many = dl.sweep(lambda _: learner, jnp.arange(config.seeds))
    rows = partial(draw, config, atoms)

    @jax.jit
    def run(key: jax.Array):
        start, sample, draws = jax.random.split(key, 3)
        state = many.init(jax.random.split(start, config.seeds), rows(sample, 4096))
        keys = jax.random.split(draws, config.steps)
        state, _ = jax.lax.scan(lambda s, key: many.step(s, rows(key, config.batch)), state, keys)
        return many.params(state)

    return run(jax.random.key(1))


def main(config: HierarchyPursuit) -> None:
    atoms = features(config)
    x = draw(config, atoms, jax.random.key(2), config.test)
    true, trained, lengths = {}, {}, {}
    for name, variant in VARIANTS.items():
        params = train(config, atoms, variant)
        seeds = [dl.member(params, seed) for seed in range(config.seeds)]
        measure = {k: missed(variant(config.width, k)) for k in LENGTHS}
        lengths[name] = [np.mean([measure[k](own, x) for own in seeds]) for k in LENGTHS]
        best = [recovery.cosines(own["decoder"], atoms).max(1) for own in seeds]
        found = np.asarray(best) > config.found
        parts = found[:, : config.families].mean(), found[:, config.families :].mean()
        trained[name] = [lengths[name][LENGTHS.index(config.k)], *parts]
        own = {n: jnp.zeros_like(v) for n, v in seeds[0].items()}
        padded = jnp.zeros((config.width, config.d)).at[: len(atoms)].set(atoms)
        own |= {n: padded for n in ("encoder", "decoder") if n in own}
        true[name] = [measure[k](own, x) for k in LENGTHS]

    def show(title: str, columns: list[str], rows: dict[str, list]) -> None:
        print(f"{title:32}" + "".join(f"{column:>10}" for column in columns))
        for name, row in rows.items():
            print(f"  {name:30}" + "".join(f"{float(v):10.4f}" for v in row))

    latents = [f"k={k}" for k in LENGTHS]
    show("true atoms: variance missed", latents, true)
    show(f"trained, k={config.k}", ["missed", "parents", "children"], trained)
    show("trained: variance missed", latents, lengths)


if __name__ == "__main__":
    main(tyro.cli(HierarchyPursuit, description=__doc__))
