"""PolySAE: latents that interact, through a decoder of degree three."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxinterp.dictionaries.atoms import Atoms
from jaxinterp.dictionaries.base import Codes, Dictionary
from jaxinterp.dictionaries.errors import Measure
from jaxinterp.dictionaries.sparsify import decode_sparse

Params = dict[str, Array]


def polynomial(
    recipe: Callable[..., Dictionary], ranks: Sequence[int], **options: Any
) -> Dictionary:
    r"""Any variant, with a polynomial of the codes in place of its linear decoder.

    With the codes projected, $a = z U$, $U^\top U = I$,

    $\hat x = b_d + a C_1 + \lambda_2\, a_{:R_2}^2 C_2 + \lambda_3\, a_{:R_3}^3 C_3$,

    powers entry by entry: pairs and triples of latents write what none of them writes alone (see
    `pair_interaction`). Encoder, sparsity and loss are the recipe's. $U$ stays orthonormal: its
    gradient is made tangent, and after a step it is divided by the Cholesky factor of its Gram
    matrix, which is the QR decomposition with a positive diagonal, at the price of two products.

    Args:
        recipe: a variant with `objective` and `atoms`, such as `topk`, `batch_topk`, `jumprelu`.
        ranks: $R_1$, $R_2$, $R_3$; the last two at most the first, that at most the width.
        **options: the recipe's own arguments.

    Returns:
        The dictionary. Parameters: those of the encoder, `decoder_bias` (d), `projection` U
        (width, R1), `linear` (R1, d), `quadratic` (R2, d), `cubic` (R3, d), `quadratic_scale` and
        `cubic_scale` (); and `decoder` $= U C_1$ (width, d), the first-order atoms, made from them.
        What presumes that a latent's effect is its atom (folding, many benchmarks) sees the first
        order only.

    Raises:
        ValueError: ranks that do not fit.

    Reference:
        "PolySAE", arXiv 2602.01322, with the shared projection of its code, whose first scales are
        these. There U starts orthogonal and all C uniform within $1/\sqrt{R}$; here $C_1$ is such
        that first atoms have about unit length.
    """
    sizes = tuple(ranks)
    if len(sizes) != 3 or min(sizes) < 1 or max(sizes) != sizes[0]:
        raise ValueError(f"ranks {sizes}: need three, of at least 1, the first one the largest")
    inner = recipe(objective=_objective, atoms=partial(_made_of, sizes), **options)
    if sizes[0] > inner.width:
        raise ValueError(f"ranks {sizes} with {inner.width} latents: the first may be that at most")
    return inner._replace(decode=polynomial_decode)


def polynomial_decode(
    params: Params, codes: Codes | Float[Array, "... width"]
) -> Float[Array, "... d"]:
    """What codes of either form write; each input touches k rows of U and then R numbers."""
    u = params["projection"]
    a = decode_sparse(codes, u) if isinstance(codes, Codes) else codes @ u
    second, third = (params[name].shape[0] for name in ("quadratic", "cubic"))
    y = a @ params["linear"] + params["decoder_bias"].reshape((1,) * (a.ndim - 1) + (-1,))
    y = y + params["quadratic_scale"] * (a[..., :second] ** 2 @ params["quadratic"])
    return y + params["cubic_scale"] * (a[..., :third] ** 3 @ params["cubic"])


def _objective(
    params: Params, codes: Codes | Array, target: Array, measure: Measure
) -> tuple[Array, Array]:
    x_hat = polynomial_decode(params, codes)
    return x_hat, measure(x_hat, target)


def _made_of(ranks: tuple[int, int, int]) -> Atoms:
    """Atoms U C1 whose U has orthonormal columns."""

    def init(key: Key[Array, ""], width: int, points: Array) -> Params:
        keys = jax.random.split(key, 4)
        first, d = ranks[0], points.shape[1]
        bounds = [r**-0.5 for r in ranks]
        params = {
            "projection": jnp.linalg.qr(jax.random.normal(keys[0], (width, first)))[0],
            # The rows of U have length sqrt(R1 / width) on average.
            "linear": jax.random.normal(keys[1], (first, d)) * (width / (first * d)) ** 0.5,
            "quadratic": _uniform(keys[2], (ranks[1], d), bounds[1]),
            "cubic": _uniform(keys[3], (ranks[2], d), bounds[2]),
            "quadratic_scale": jnp.asarray(-0.5),
            "cubic_scale": jnp.asarray(0.5),
        }
        return project(params)

    def project(params: Params) -> Params:
        u = orthonormal_columns(params["projection"])
        return params | {"projection": u, "decoder": u @ params["linear"]}

    def tangent(params: Params, gradient: Params) -> Params:
        u, by_atom = params["projection"], gradient["decoder"]
        g = gradient["projection"] + by_atom @ params["linear"].T
        both = u.T @ g
        return gradient | {
            "projection": g - u @ ((both + both.T) / 2),
            "linear": gradient["linear"] + u.T @ by_atom,
            "decoder": jnp.zeros_like(by_atom),
        }

    return Atoms(init, project, tangent)


def orthonormal_columns(u: Float[Array, "n r"]) -> Float[Array, "n r"]:
    """The Q of the QR decomposition of nearly orthonormal columns, R of positive diagonal.

    Where rows lie on several devices only the Gram matrix (r, r) travels. The error is that of the
    Gram matrix: rounding times the squared condition number of the columns.
    """
    gram = jnp.einsum("nr,ns->rs", u, u, precision="highest")
    factor = jnp.linalg.cholesky(gram)
    return jax.scipy.linalg.solve_triangular(factor, u.T, lower=True).T


def pair_interaction(
    params: Params,
    i: Int[Array, "..."] | int,
    j: Int[Array, "..."] | int,
    *,
    sizes: tuple[float | Array, float | Array] = (1.0, 1.0),
) -> Float[Array, "... d"]:
    r"""What two active latents write beyond what each writes alone.

    $f(z_i + z_j) - f(z_i) - f(z_j) + f(0) = 2 \lambda_2 z_i z_j (U_i \odot U_j) C_2 + 3 \lambda_3
    z_i z_j (z_i U_i^2 \odot U_j + z_j U_i \odot U_j^2) C_3$, exactly.

    Args:
        params: of a `polynomial` dictionary.
        i: latents.
        j: other latents, as many.
        sizes: $z_i$ and $z_j$.
    """
    second, third = (params[name].shape[0] for name in ("quadratic", "cubic"))
    a, b = (sizes[n] * params["projection"][jnp.asarray(k)] for n, k in enumerate((i, j)))
    square = 2 * params["quadratic_scale"] * ((a * b)[..., :second] @ params["quadratic"])
    powers = (a * b * (a + b))[..., :third]
    return square + 3 * params["cubic_scale"] * (powers @ params["cubic"])


def triple_interaction(
    params: Params,
    i: Int[Array, "..."] | int,
    j: Int[Array, "..."] | int,
    k: Int[Array, "..."] | int,
) -> Float[Array, "... d"]:
    r"""What three latents of size one write beyond their pairs: $6 \lambda_3 (U_i U_j U_k) C_3$.

    Args:
        params: of a `polynomial` dictionary.
        i: latents.
        j: other latents, as many.
        k: other latents, as many.
    """
    u = params["projection"][:, : params["cubic"].shape[0]]
    product = u[jnp.asarray(i)] * u[jnp.asarray(j)] * u[jnp.asarray(k)]
    return 6 * params["cubic_scale"] * (product @ params["cubic"])


class Interactions(NamedTuple):
    """Latents that interact, strongest first.

    Attributes:
        latents: which latents, in increasing order.
        strength: length of what they write together and no smaller set of them does.
    """

    latents: Int[np.ndarray, "n order"]
    strength: Float[np.ndarray, " n"]


def strongest_pairs(
    params: Params, n: int, *, sizes: Float[Array | np.ndarray, " width"] | None = None
) -> Interactions:
    """The pairs whose interaction is longest, of all pairs.

    Args:
        params: of a `polynomial` dictionary.
        n: pairs to give.
        sizes: what each latent typically is when active; None for one. A latent of size zero, such
            as a dead one, interacts with none.

    Returns:
        The pairs. One latent at a time meets all others: memory (width, d).
    """
    width = params["projection"].shape[0]
    z = jnp.ones(width) if sizes is None else jnp.asarray(sizes)

    def with_all(i: Array) -> Array:
        written = pair_interaction(
            params, jnp.broadcast_to(i, (width,)), jnp.arange(width), sizes=(z[i], z[:, None])
        )
        return jnp.where(jnp.arange(width) > i, jnp.linalg.norm(written, axis=1), -1.0)

    return _strongest(with_all, jnp.arange(width)[:, None], width, n)


def strongest_triples(
    params: Params,
    n: int,
    among: Sequence[int] | Int[Array | np.ndarray, " m"],
    *,
    sizes: Float[Array | np.ndarray, " width"] | None = None,
) -> Interactions:
    """The triples whose interaction is longest, of all triples among some latents.

    Args:
        params: of a `polynomial` dictionary.
        n: triples to give.
        among: latents; the cost grows with the third power of their number.
        sizes: as in `strongest_pairs`.
    """
    some = np.unique(np.asarray(among))
    ids, m = jnp.asarray(some), len(some)
    z = jnp.ones(m) if sizes is None else jnp.asarray(sizes)[ids]

    def with_all(pair: Array) -> Array:
        i, j = pair
        written = triple_interaction(params, ids[i][None], ids[j][None], ids)
        strength = jnp.linalg.norm(written, axis=1) * jnp.abs(z[i] * z[j] * z)
        return jnp.where(jnp.arange(m) > j, strength, -1.0)

    pairs = np.stack(np.triu_indices(m, 1), 1)
    found = _strongest(with_all, jnp.asarray(pairs), m, n)
    return Interactions(some[found.latents], found.strength)


def _strongest(with_all: Callable, heads: Array, width: int, n: int) -> Interactions:
    """Completes each head by one more latent, and keeps the n strongest of all."""
    keep = min(n, width)

    def best(head: Array) -> tuple[Array, Array]:
        strength, last = jax.lax.top_k(with_all(head[0] if head.shape == (1,) else head), keep)
        return strength, last

    strength, last = (np.asarray(a) for a in jax.jit(partial(jax.lax.map, best))(heads))
    order = np.argsort(-strength, axis=None, kind="stable")[:n]
    order = order[strength.ravel()[order] >= 0]
    found = np.concatenate([np.repeat(np.asarray(heads), keep, 0), last.reshape(-1, 1)], 1)
    return Interactions(found[order], strength.ravel()[order])


def _uniform(key: Key[Array, ""], shape: tuple[int, int], bound: float) -> Array:
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)
