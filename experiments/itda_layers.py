"""Which layer of one model is which of another? ITDA's labels against three classics.

    python experiments/itda_layers.py
    python experiments/train_tiny_lm.py --seed 1 --out runs/tiny_1 --work runs/tiny_1_work
    python experiments/itda_layers.py --other runs/tiny_1        # with the first one's tokenizer

For each layer of two models an ITDA dictionary grows on the same tokens; two layers are as alike as
the sets of tokens that became atoms (Jaccard). Claim (Leask et al. 2025, arXiv 2505.17769): this
matches layers of models about as well as CKA, SVCCA and relative representations. All measures see
the same centred activations. `accuracy`: share of layers whose most similar layer of the other
model is the same one, mean of both directions. `own` and `next`: mean similarity of the same layer
and of neighbouring layers.

Outcome (defaults: the shipped model against itself with noise of 0.3 on its weights, 6 layers,
8,192 tokens; `accuracy`, `own`, `next`):

    ITDA, Jaccard               0.83    0.643    0.594
    linear CKA                  1.00    0.861    0.777
    SVCCA                       1.00    0.854    0.777
    relative representations    1.00    0.858    0.779

so ITDA's labels order the layers, but less surely than the three others: two of twelve matches go
to a neighbour, whose similarity is nearer to the own one's. Atoms were 836 to 1,272 a layer. Two
models of different seeds, where the paper measured, were not compared here.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from configs.itda_layers import ItdaLayers
from jaxinterp import data, encoders, geometry
from jaxinterp import dictionaries as dl
from jaxinterp.activations.harvest import harvest
from jaxinterp.evaluation import jaccard, matching_accuracy


def disturbed(encoder, noise: float, seed: int):
    """The model with noise on every matrix, in units of the matrix's own spread."""
    leaves, tree = jax.tree.flatten(encoder.params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    leaves = [
        leaf + noise * leaf.std() * jax.random.normal(key, leaf.shape) if leaf.ndim > 2 else leaf
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return encoder._replace(params=jax.tree.unflatten(tree, leaves))


def layers(config: ItdaLayers, encoder, rows: data.Rows) -> jax.Array:
    """Centred activations after every layer, (layers, n, d), the same tokens for every model."""
    sites = [f"L{layer}.resid_post" for layer in range(encoder.config.n_layers)]
    parts = [part.sites for part in harvest(encoder, rows, tuple(sites))]
    x = np.stack([np.concatenate([part[site] for part in parts]) for site in sites])
    order = np.random.default_rng(config.seed).permutation(x.shape[1])[: config.tokens]
    x = jnp.asarray(x[:, order], jnp.float32)
    return x - x.mean(1, keepdims=True)


def atoms_of(config: ItdaLayers, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Labels of the atoms of every layer's dictionary, and how many there are."""
    dictionary = dl.itda(config.width, config.k)

    @jax.jit
    def over(rows: jax.Array):
        learner = dl.grow(dictionary, config.missed * jnp.square(rows).sum(1).mean())
        batches = rows[: len(rows) // config.batch * config.batch]
        batches = batches.reshape(-1, config.batch, rows.shape[1])
        return jax.lax.scan(learner.step, learner.init(jax.random.key(0), rows), batches)[0]

    states = [over(rows) for rows in x]
    if any(int(state.refused) for state in states):
        print(f"a dictionary is full: {config.width} places are too few")
    return jnp.stack([s.params["label"] for s in states]), jnp.stack([s.count for s in states])


def compare(measure: Callable, first: jax.Array, second: jax.Array) -> jax.Array:
    """`measure` of every layer of the first with every layer of the second."""
    compiled = jax.jit(measure)
    return jnp.array([[compiled(a, b) for b in second] for a in first])


def main(config: ItdaLayers) -> None:
    encoder = encoders.load(config.model)
    other = encoders.load(config.other) if config.other else None
    other = other or disturbed(encoder, config.noise, config.seed)
    rows = data.token_rows(
        data.split(data.load_text("installed"))[1], encoder.tokenizer, config.context
    )
    order = np.random.default_rng(config.seed).permutation(len(rows.tokens))
    enough = int((np.cumsum(rows.mask[order].sum(1)) < 1.2 * config.tokens).sum()) + 1
    rows = data.Rows(*(column[order[:enough]] for column in rows))
    x, y = layers(config, encoder, rows), layers(config, other, rows)
    (first, sizes), (second, others) = atoms_of(config, x), atoms_of(config, y)
    print(f"{x.shape[1]} tokens, {len(x)} layers; atoms {sizes.tolist()} and {others.tolist()}")
    relative = [
        jnp.stack([geometry.relative_representation(a, a[: config.anchors]) for a in z])
        for z in (x, y)
    ]
    tables = {
        "ITDA, Jaccard": compare(jaccard, first, second),
        "linear CKA": compare(geometry.linear_cka, x, y),
        "SVCCA": compare(geometry.svcca, x, y),
        "relative representations": compare(geometry.relative_agreement, *relative),
    }
    print(f"{'':26}{'accuracy':>10}{'own':>8}{'next':>8}")
    for name, table in tables.items():
        accuracy = (matching_accuracy(table) + matching_accuracy(table.T)) / 2
        beside = (jnp.diagonal(table, 1).mean() + jnp.diagonal(table, -1).mean()) / 2
        print(f"{name:26}{float(accuracy):10.2f}{float(jnp.diagonal(table).mean()):8.3f}", end="")
        print(f"{float(beside):8.3f}")


if __name__ == "__main__":
    main(tyro.cli(ItdaLayers, description=__doc__))
