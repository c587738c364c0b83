"""A sequential recommender: a gated recurrent unit that reads items and scores the next one.

params = begin(key, items=400, dimension=32)
loss, gradient = jax.value_and_grad(next_item_loss)(params, histories)
h = states(params, histories)[:, -1]            # what a dictionary reads
scores = score(params, h)
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

Params = dict[str, Array]


def begin(key: Key[Array, ""], *, items: int, dimension: int) -> Params:
    """First parameters.

    Args:
        key: of the embeddings and of the matrices.
        items: in the catalogue.
        dimension: of an item's embedding and of the state.

    Returns:
        `items` (items, d), which also score; `input` and `state` (d, 3 d), the matrices of the
        update gate, the reset gate and the candidate side by side; `bias` (3 d).
    """
    keys, d = jax.random.split(key, 3), dimension
    return {
        "items": jax.random.normal(keys[0], (items, d)) / d**0.5,
        "input": jax.random.normal(keys[1], (d, 3 * d)) / d**0.5,
        "state": jax.random.normal(keys[2], (d, 3 * d)) / d**0.5,
        "bias": jnp.zeros(3 * d),
    }


def states(params: Params, history: Int[Array, "users length"]) -> Float[Array, "users length d"]:
    r"""The state after every item, from a state of zeros.

    $u = \sigma(W_u x + U_u h + b_u)$, $r = \sigma(W_r x + U_r h + b_r)$,
    $n = \tanh(W_n x + b_n + r \odot U_n h)$, $h \leftarrow u \odot h + (1 - u) \odot n$.

    Args:
        params: from `begin`.
        history: items in the order in which they were chosen.

    Reference:
        Cho et al. (2014), arXiv 1406.1078; for recommending, Hidasi et al. (2016), "Session-based
        recommendations with recurrent neural networks", arXiv 1511.06939.
    """

    def step(h: Array, item: Array) -> tuple[Array, Array]:
        x = params["items"][item] @ params["input"] + params["bias"][None]
        update, reset, new = jnp.split(x, 3, 1)
        by_state = jnp.split(h @ params["state"], 3, 1)
        update = jax.nn.sigmoid(update + by_state[0])
        new = jnp.tanh(new + jax.nn.sigmoid(reset + by_state[1]) * by_state[2])
        h = update * h + (1 - update) * new
        return h, h

    start = jnp.zeros((len(history), params["state"].shape[0]))
    return jnp.moveaxis(jax.lax.scan(step, start, history.T)[1], 0, 1)


def score(params: Params, h: Float[Array, "... d"]) -> Float[Array, "... items"]:
    """Scores of all items: the state, of mean zero and variance one, against the embeddings."""
    centred = h - h.mean(-1, keepdims=True)
    unit = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
    return unit @ params["items"].T


def next_item_loss(params: Params, sequences: Int[Array, "users length"]) -> Float[Array, ""]:
    """Mean cross-entropy of every next item, in nats.

    Args:
        params: from `begin`.
        sequences: items, at least two of each user.

    Raises:
        ValueError: sequences without a next item.
    """
    if sequences.shape[1] < 2:
        raise ValueError(f"sequences of shape {sequences.shape}: a next item needs at least two")
    logits = score(params, states(params, sequences[:, :-1]))
    return optax.softmax_cross_entropy_with_integer_labels(logits, sequences[:, 1:]).mean()
