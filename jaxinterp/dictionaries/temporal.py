"""Temporal dictionary: what the context predicts of an activation, and a sparse code of the news.

Activations keep their sequence axis, `x` (..., seq, d). Attention in code space, over the tokens
before, predicts a dense code; what it leaves over is coded sparsely. Both write with the same
atoms.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries.base import Codes, Dictionary, LossInfo, Stats, WithRest, unit_rows
from jaxinterp.dictionaries.decode import linear_decode
from jaxinterp.dictionaries.errors import squared_error, unexplained
from jaxinterp.dictionaries.info import loss_info
from jaxinterp.dictionaries.scores import check_dimension
from jaxinterp.dictionaries.sparsify import top_k_scores

Params = dict[str, Array]
_ATTENTION = ("key", "key_bias", "query", "query_bias", "value", "value_bias", "out", "out_bias")


def temporal(
    width: int,
    k: int,
    *,
    heads: int = 8,
    layers: int = 1,
    bottleneck: int = 64,
    dead_after: int = 100_000,
) -> Dictionary:
    r"""Predictable and novel code of each token of a sequence.

    With $r = x - b_d$, $\gamma = 1 / 4d$ and, for each attention layer,
    $c = \mathrm{relu}(\gamma\, r W_d^\top)$ and
    $p = \mathrm{relu}(\mathrm{attention}(c_{<t}; c_t))$, the prediction enters with the scale that
    fits best and leaves the rest to what follows:
    $s = \langle p W_d, r \rangle / \lVert p W_d \rVert^2$, $r \leftarrow r - s\, p W_d$. Then

    $z = \mathrm{TopK}(\mathrm{relu}(\gamma\, r W_d^\top))$,
    $\hat x = (\sum s\,p + z) W_d + b_d$, $L = \mathrm{E} \lVert x - \hat x \rVert^2$.

    A token attends to the codes of the tokens before it only (the first one to zeros), but asks
    with its own code and chooses $s$ by its own activation: prediction means from the directions of
    the context, not blindly.

    Args:
        width: number of latents.
        k: novel latents kept per token.
        heads: attention heads.
        layers: attention layers, each on what the one before left over.
        bottleneck: width over the total width of keys and queries.
        dead_after: sequences without a novel activation after which a latent is reported as dead.

    Returns:
        The dictionary; x and target are (batch, seq, d). Its codes are `WithRest`: the novel
        `Codes`, and what the predicted code writes; `predict` gives the predicted code itself.
        Parameters: `decoder` (width, d), `decoder_bias` (d), and per attention layer, on a leading
        axis, `key` and `query` (width / bottleneck, width), `value` and `out` (width, width), with
        biases.

    Raises:
        ValueError: k outside 1 .. width, or a width that is no multiple of heads * bottleneck.

    Reference:
        Lubana et al. (2025), "Priors in time: missing inductive biases for language model
        interpretability"; equations and initialisation as in its code and in SAELens'
        `temporal_sae`, with tied weights.
    """
    if not 1 <= k <= width:
        raise ValueError(f"{k=} latents per row with {width=}: need 1 <= k <= width")
    if width % (heads * bottleneck):
        raise ValueError(f"{width=} is not a multiple of {heads=} times {bottleneck=}")

    def init(key: Key[Array, ""], sample: Float[Array, "..."]) -> Params:
        if sample.ndim != 3:
            raise ValueError(f"a sample of shape {sample.shape}: give sequences (n, seq, d)")
        first, *others = jax.random.split(key, 5)
        narrow, d = width // bottleneck, sample.shape[2]

        def rows(key: Array, out: int, scale: float) -> Array:
            drawn = jax.random.uniform(key, (layers * out, width), minval=-1.0)
            return scale * unit_rows(drawn).reshape(layers, out, width)

        def zeros(out: int) -> Array:
            return jnp.zeros((layers, out))

        by_head = (narrow // heads) ** -0.5
        return {
            "decoder": jax.random.normal(first, (width, d)),
            "decoder_bias": sample.reshape(-1, d).mean(0, dtype=jnp.float32),
            "key": rows(others[0], narrow, by_head),
            "key_bias": zeros(narrow),
            "query": rows(others[1], narrow, by_head),
            "query_bias": zeros(narrow),
            "value": rows(others[2], width, (width // heads) ** -0.5),
            "value_bias": zeros(width),
            "out": rows(others[3], width, width**-0.5),
            "out_bias": zeros(width),
        }

    def encode(params: Params, x: Float[Array, "... seq d"]) -> WithRest:
        part, rest = predict(params, x, heads=heads)[1:]
        rows = rest.reshape(-1, x.shape[-1]) / (4 * x.shape[-1])
        novel = top_k_scores(rows, params["decoder"], jnp.zeros(width), k)
        codes = jax.tree.map(lambda a: a.reshape(*x.shape[:-1], k), novel)
        return WithRest(Codes(jax.nn.relu(codes.values), codes.indices), part)

    def decode(params: Params, codes: WithRest) -> Float[Array, "... seq d"]:
        return linear_decode(params, codes.codes) + codes.rest

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b seq d"],
        target: Float[Array, "b seq d"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        del key
        codes = encode(params, x)
        flat = partial(jnp.reshape, shape=(-1, x.shape[-1]))
        x_hat, wanted = flat(decode(params, codes)), flat(target)
        predicted = flat(codes.rest) + params["decoder_bias"][None]
        novel = jax.tree.map(lambda a: a.reshape(-1, k), codes.codes)
        metrics = {"variance_predicted": 1 - unexplained(predicted, wanted)}
        info = loss_info(novel, x_hat, wanted, stats, dead_after, metrics)
        return squared_error(x_hat, wanted), info

    return Dictionary(width, init, encode, decode, loss, lambda p: p, lambda p, g: g)


def predict(
    params: Params, x: Float[Array, "... seq d"], *, heads: int
) -> tuple[Float[Array, "... seq width"], Float[Array, "... seq d"], Float[Array, "... seq d"]]:
    """The code that each token's context predicts.

    Args:
        params: of `temporal`.
        x: sequences of activations.
        heads: attention heads, as in the dictionary.

    Returns:
        (predicted code, what it writes, what it leaves of x after the bias).
    """
    atoms, d = params["decoder"], x.shape[-1]
    check_dimension(x, atoms)
    sequences = x.reshape(-1, *x.shape[-2:]) - params["decoder_bias"][None, None]

    def layer(state: tuple[Array, Array], weights: Params) -> tuple[tuple[Array, Array], None]:
        rest, predicted = state
        code = jax.nn.relu(rest @ atoms.T / (4 * d))
        guess = jax.nn.relu(_attention(weights, code, heads))
        written = guess @ atoms
        # The smoothing constant keeps a prediction of nothing at nothing.
        length = jnp.sqrt(jnp.square(written).sum(-1, keepdims=True) + 1e-12)
        scale = (written * rest).sum(-1, keepdims=True) / jnp.square(length + 1e-6)
        return (rest - scale * written, predicted + scale * guess), None

    start = (sequences, jnp.zeros((*sequences.shape[:-1], len(atoms)), sequences.dtype))
    weights = {name: params[name] for name in _ATTENTION}
    (rest, predicted), _ = jax.lax.scan(layer, start, weights)
    part = sequences - rest
    shape = x.shape[:-1]
    return predicted.reshape(*shape, len(atoms)), part.reshape(*shape, d), rest.reshape(*shape, d)


def _attention(weights: Params, code: Float[Array, "b seq width"], heads: int) -> Array:
    """Each token's question to the codes of the tokens before it."""
    before = jnp.pad(code[:, :-1], ((0, 0), (1, 0), (0, 0)))

    def by_head(name: str, source: Array) -> Array:
        y = source @ weights[name].T + weights[f"{name}_bias"][None, None]
        return y.reshape(*y.shape[:-1], heads, y.shape[-1] // heads)

    question, answers = by_head("query", code), by_head("key", before)
    scores = jnp.einsum("bqhd,bkhd->bhqk", question, answers) / question.shape[-1] ** 0.5
    earlier = jnp.tril(jnp.ones(scores.shape[-2:], bool))[None, None]
    pattern = jax.nn.softmax(jnp.where(earlier, scores, -jnp.inf), axis=-1)
    read = jnp.einsum("bhqk,bkhv->bqhv", pattern, by_head("value", before))
    return read.reshape(code.shape) @ weights["out"].T + weights["out_bias"][None, None]
