import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.dictionaries import quantise
from jaxinterp.dictionaries.vector_quantised import plus_plus, vector_quantised


def test_seeds_of_k_means_spread_over_far_clusters():
    """One word in each of 8 far clusters, one of which holds 93 % of the rows."""
    centres = 100 * jnp.eye(8)
    which = jnp.concatenate([jnp.zeros(930, jnp.int32), jnp.arange(70) % 7 + 1])
    x = centres[which] + 0.1 * jax.random.normal(jax.random.key(0), (1000, 8))
    words = jax.jit(plus_plus, static_argnums=2)(jax.random.key(1), x, 8)
    assert sorted(np.asarray(quantise.nearest(words, centres)).tolist()) == list(range(8))
    assert bool((words[:, None] == x[None]).all(-1).any(1).all())
    same = jax.jit(plus_plus, static_argnums=2)(jax.random.key(1), jnp.ones((5, 2)), 4)
    np.testing.assert_array_equal(same, 1)  # no two rows differ


@pytest.mark.parametrize(("width", "books"), [(10, 3), (10, 0)])
def test_books_of_unequal_size_are_refused(width, books):
    with pytest.raises(ValueError, match=f"width=10 is not a multiple of books={books}"):
        vector_quantised(width, books=books)


RING = np.asarray([0, 0, 1, 0, 2, 2, 1, 1, 2, 0, 1, 2])  # what is seen at each of twelve places
HIDDEN, SPACE, WORDS = 64, 16, 32


def walks(key, n, length=24):
    """(what is seen along a walk on the ring, its steps: 1 forward, 0 back)."""
    one, two = jax.random.split(key)
    action = jax.random.bernoulli(one, 0.5, (n, length)).astype(jnp.int32)
    moved = jnp.pad(jnp.cumsum(2 * action - 1, 1), ((0, 0), (1, 0)))
    return jnp.asarray(RING)[(jax.random.randint(two, (n, 1), 0, 12) + moved) % 12], action


def recurrent_parameters(key):
    sizes = {"gates": (HIDDEN + 5, 2 * HIDDEN), "new": (HIDDEN + 5, HIDDEN)}
    sizes |= {"down": (HIDDEN, SPACE), "inner": (SPACE + 2, 64), "out": (64, 3)}
    keys = jax.random.split(key, len(sizes))
    return {
        name: jax.random.normal(k, shape) * shape[0] ** -0.5
        for k, (name, shape) in zip(keys, sizes.items(), strict=True)
    }


def bottleneck(p, seen, action):
    """What a gated recurrent network knows at each place before its next step, (n, length, SPACE).

    It is given what it sees and the step that it took.
    """
    taken = jnp.pad(jax.nn.one_hot(action[:, :-1], 2), ((0, 0), (1, 0), (0, 0)))
    inputs = jnp.concatenate([jax.nn.one_hot(seen[:, :-1], 3), taken], 2)

    def step(h, i):
        reset, keep = jnp.split(jax.nn.sigmoid(jnp.concatenate([h, i], 1) @ p["gates"]), 2, 1)
        new = jnp.tanh(jnp.concatenate([reset * h, i], 1) @ p["new"])
        h = keep * h + (1 - keep) * new
        return h, h

    _, states = jax.lax.scan(step, jnp.zeros((len(seen), HIDDEN)), jnp.moveaxis(inputs, 1, 0))
    return jnp.moveaxis(states, 0, 1) @ p["down"]


def next_logits(p, code, action):
    told = jnp.concatenate([code, jax.nn.one_hot(action, 2)], 2)
    return jnp.tanh(told @ p["inner"]) @ p["out"]


@pytest.mark.slow
def test_codes_of_a_recurrent_bottleneck_know_the_place_on_an_aliased_ring():
    """Straight through the choice of a word, the error of the next sight shapes what is known."""
    p = recurrent_parameters(jax.random.key(0))
    z = bottleneck(p, *walks(jax.random.key(1), 64))
    p["words"] = plus_plus(jax.random.key(2), z.reshape(-1, SPACE), WORDS)

    def loss(p, key):
        seen, action = walks(key, 64)
        z = bottleneck(p, seen, action)
        word = p["words"][quantise.nearest(z, p["words"])]
        logits = next_logits(p, quantise.straight_through(word, z), action)
        error = optax.softmax_cross_entropy_with_integer_labels(logits, seen[:, 1:]).mean()
        return error + quantise.pull(word, z) + 0.25 * quantise.pull(z, word)

    optimizer = optax.adam(3e-3)

    def step(carry, key):
        p, state = carry
        updates, state = optimizer.update(jax.grad(loss)(p, key), state)
        return (optax.apply_updates(p, updates), state), None

    keys = jax.random.split(jax.random.key(3), 1500)
    (p, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, keys))((p, optimizer.init(p)))
    seen, action = walks(jax.random.key(4), 400)
    code = p["words"][quantise.nearest(bottleneck(p, seen, action), p["words"])]
    right = next_logits(p, code, action).argmax(2) == seen[:, 1:]
    assert float(right[:, 12:].mean()) > 0.95  # once it can know where it is
    table = np.zeros((3, 2, 3))
    np.add.at(table, tuple(map(np.asarray, (seen[:, :-1], action, seen[:, 1:]))), 1)
    assert table.max(2).sum() / table.sum() < 0.7  # without memory
