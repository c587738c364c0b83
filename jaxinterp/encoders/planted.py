"""A language model whose circuit is known, because it was written down and not trained.

The task is induction: the last token stood once before, and the answer is the token that followed.
Two routes of attention heads solve it, each of several copies:

    layer 0  previous-token heads       write, at every position, which token came before
             duplicate-token heads      find where the last token stood before
    layer 1  induction heads            look for the position after that token, by content
    layer 2  position movers            look for it by the place that the duplicate heads found

All other heads are distractors: they copy tokens (their own, the one before, one of a fixed place)
or mix at random, and write where nothing reads. Where a circuit head finds nothing it rests on the
first token, as trained heads do. The residual stream and the space of each head are turned by
random rotations, so that no coordinate gives anything away.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxinterp.encoders import causal
from jaxinterp.encoders.causal import CausalConfig
from jaxinterp.encoders.encoder import Encoder

_GAIN = 0.8  # of attention scores, which then saturate in every layer


class Planted(NamedTuple):
    """The model and the truth about it.

    Attributes:
        encoder: the model; token 0 begins every sequence.
        kinds: what each head is, by layer: "before", "duplicate", "induction" or "mover", and ""
            for a distractor.
    """

    encoder: Encoder
    kinds: np.ndarray

    def circuit(self) -> Bool[np.ndarray, "layers heads"]:
        """The heads of the circuit."""
        return self.kinds != ""

    def visible(self) -> Bool[np.ndarray, "layers heads"]:
        """Those that do something else, at the last position, where there is nothing to find.

        All of the circuit but the previous-token heads, which do their work at every position.
        """
        return self.circuit() & (self.kinds != "before")


class Prompts(NamedTuple):
    """Pairs of sequences that differ in one token.

    Attributes:
        tokens: first all with a repeated token, then the same ones where its first occurrence is
            another token, which stands nowhere else.
        positive: which have the repetition.
        answer: the token that followed the first occurrence, for both of a pair.
    """

    tokens: Int[np.ndarray, "twice_n seq"]
    positive: Bool[np.ndarray, " twice_n"]
    answer: Int[np.ndarray, " twice_n"]


def induction_model(
    key: Key[Array, ""],
    *,
    vocab_size: int = 24,
    context: int = 12,
    heads: int = 8,
    layers: int = 4,
    copies: int = 2,
    junk: int = 24,
) -> Planted:
    """Writes the model down.

    Args:
        key: of the rotations, of the places of the heads and of the distractors.
        vocab_size: tokens, the first of which begins every sequence.
        context: positions.
        heads: heads of a layer.
        layers: at least 3.
        copies: heads of each of the four kinds.
        junk: dimensions that distractors write to.

    Raises:
        ValueError: no room for the circuit.
    """
    if layers < 3 or heads < 2 * copies or vocab_size <= context:
        raise ValueError(
            f"{layers=}, {heads=}, {copies=}, {vocab_size=}, {context=}: need 3 layers, 2 copies' "
            "heads in a layer and more tokens than positions"
        )
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    sizes = {"token": vocab_size, "place": context, "before": vocab_size, "found": context}
    sizes |= {"out": vocab_size, "junk": junk}
    d = sum(sizes.values())
    bounds = np.cumsum([0, *sizes.values()])
    block = {n: np.eye(d)[:, a:b] for n, a, b in zip(sizes, bounds, bounds[1:], strict=False)}
    d_head = vocab_size + context + 2

    first_token = np.eye(vocab_size)[:, :1]
    shift = np.eye(context, k=1)  # from a place to the one after it
    rest = (0.5, block["token"].sum(1, keepdims=True), block["token"] @ first_token)
    copied = np.eye(vocab_size)
    copied[0, 0] = 0.0  # resting on the first token writes nothing
    after = shift.copy()
    after[0] = np.eye(context)[0]
    place, token = block["place"], block["token"]

    def distractor() -> tuple[list, tuple]:
        written = rng.normal(size=(vocab_size, junk)) @ block["junk"].T / (4 * junk) ** 0.5
        kind = rng.integers(4)
        if kind == 3:
            query, match = rng.normal(size=(2, d, 8)) / d**0.5
            return [(0.3, query, match)], (token, written)
        to = (np.eye(context), np.eye(context, k=-1), np.zeros((context, context)))[kind].copy()
        if kind == 2:
            to[:, rng.integers(1, context)] = 1.0
        return [(1.0, place @ to, place), rest], (token, written)

    circuit = {
        "before": ([(1.0, place @ shift.T, place)], (token, block["before"].T)),
        "duplicate": (
            [(1.0, token, token), (-2.0, place, place), rest],
            (place, block["found"].T),
        ),
        "induction": ([(1.0, token, block["before"]), rest], (token, copied @ block["out"].T)),
        "mover": ([(1.0, block["found"] @ after, place)], (token, copied @ block["out"].T)),
    }
    seats = [["before"] * copies + ["duplicate"] * copies, ["induction"] * copies]
    seats = [*seats, ["mover"] * copies, *[[]] * (layers - 3)]
    kinds = np.array([rng.permutation(s + [""] * (heads - len(s))) for s in seats])

    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    kernels = {n: np.zeros((layers, d, heads, d_head)) for n in "qkv"}
    kernels["o"] = np.zeros((layers, heads, d_head, d))
    for layer, head in np.ndindex(layers, heads):
        kind = kinds[layer, head]
        terms, (read, write) = circuit[kind] if kind else distractor()
        if kind:
            write = write / copies
        inner, value = (np.linalg.qr(rng.normal(size=(d_head, d_head)))[0] for _ in range(2))
        query = np.concatenate([gain * q for gain, q, _ in terms], 1) * _GAIN
        match = np.concatenate([k for *_, k in terms], 1)
        kernels["q"][layer, :, head] = turn @ query @ inner[: query.shape[1]]
        kernels["k"][layer, :, head] = turn @ match @ inner[: match.shape[1]]
        kernels["v"][layer, :, head] = turn @ read @ value[: read.shape[1]]
        # What is read has been scaled up by the norm, to a length of sqrt(d).
        kernels["o"][layer, head] = value[: len(write)].T @ write @ turn.T * (2 / d) ** 0.5

    config = CausalConfig(
        vocab_size=vocab_size,
        context=context,
        n_layers=layers,
        d_model=d,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=d_head,
        d_mlp=1,
        gated=False,
        rotary=None,
        attention_scale=1.0,
    )
    params = causal.init(key, config)
    params["layers"]["attn"] = {n: {"kernel": _array(k)} for n, k in kernels.items()}
    params["layers"]["mlp"] = jax.tree.map(jnp.zeros_like, params["layers"]["mlp"])
    params["embed"] = {
        "tokens": _array(block["token"].T @ turn.T),
        "positions": _array(place.T @ turn.T),
    }
    params["unembed"] = {"kernel": _array(turn @ block["out"])}
    encoder = Encoder("planted induction", causal.forward, causal.sites, config, params)
    return Planted(encoder, kinds)


def induction_prompts(key: Key[Array, ""], config: CausalConfig, n: int) -> Prompts:
    """Draws n pairs of prompts, with the same tokens but for one.

    Args:
        key: of the draws.
        config: of a model made by `induction_model`.
        n: pairs.

    Raises:
        ValueError: no pairs.
    """
    if n < 1:
        raise ValueError(f"{n=} pairs of prompts: need at least 1")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    length = config.context - 1
    others = 1 + np.argsort(rng.random((n, config.vocab_size - 1)), 1)[:, :length]
    repeated = rng.integers(0, length - 2, n)  # its follower is not the last token itself
    rows = np.arange(n)
    body, spare = others[:, : length - 1], others[:, length - 1]
    last = body[rows, repeated]
    answer = body[rows, repeated + 1]
    changed = body.copy()
    changed[rows, repeated] = spare
    first = np.zeros((n, 1), body.dtype)
    both = [np.concatenate([first, b, last[:, None]], 1) for b in (body, changed)]
    return Prompts(np.concatenate(both), np.arange(2 * n) < n, np.tile(answer, 2))


def head_outputs(
    encoder: Encoder, tokens: Int[Array | np.ndarray, "n seq"], position: int = -1
) -> Float[Array, "n layers heads d"]:
    """What every head adds to the residual stream at one position."""

    def at(value: Array) -> Array:
        return value[:, position]

    @jax.jit
    def run(params: Any, tokens: Array) -> Array:
        _, seen = encoder.forward(
            params, encoder.config, tokens, capture=(("result", at),), return_logits=False
        )
        return jnp.moveaxis(seen["result"], 0, 1)

    return run(encoder.params, jnp.asarray(tokens))


def _array(value: np.ndarray) -> Array:
    return jnp.asarray(value, jnp.float32)
