r"""Hyperdimensional computing: structures of symbols as single vectors of random signs.

Symbols are rows of a codebook of independent $\pm 1$, nearly orthogonal to each other in many
dimensions. Three operations build structures of them, all in the same space:

    bind      a * b          a role and its filler; like neither; undone by binding again
    bundle    a + b          a set; like each of its m members, with cosine 1 / sqrt(m)
    permute   a shifted      a place in an order; like nothing else; undone by shifting back

and `cleanup` finds the symbol that a noisy vector stands for. How many members a bundle can hold is
`recall_probability`.

Reference:
    Kanerva (2009), "Hyperdimensional computing"; Plate (1995), "Holographic reduced
    representations"; Gayler (1998) (the map of multiply, add, permute).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from scipy.special import comb, log_ndtr, roots_hermitenorm

Vector = Float[Array, "... dimension"]


class Symbol(NamedTuple):
    """What a vector was read as.

    Attributes:
        index: row of the codebook.
        cosine: of the vector with that row.
        margin: how far the runner-up's cosine is below it.
    """

    index: Int[Array, "..."]
    cosine: Float[Array, "..."]
    margin: Float[Array, "..."]


def random_codebook(
    key: Key[Array, ""], size: int, dimension: int = 4096
) -> Float[Array, "size dimension"]:
    """Symbols as rows of independent fair signs."""
    return jax.random.rademacher(key, (size, dimension), jnp.float32)


def bind(a: Vector, b: Vector) -> Vector:
    """Role and filler as one vector, like neither: the product of their coordinates."""
    return a * b


def unbind(bound: Vector, role: Vector) -> Vector:
    """What was bound to a role of signs, plus noise from whatever else is in the bundle."""
    return bound * role


def bundle(members: Float[Array, "... members dimension"]) -> Vector:
    """A set as the sum of its members: linear, so that it can be regressed."""
    return members.sum(-2)


def majority(members: Float[Array, "... members dimension"]) -> Vector:
    r"""A set as the sign of the sum of its members; 0 where as many say one as the other.

    The mean product with a member is $\binom{m - 1}{\lfloor (m - 1)/2 \rfloor} / 2^{m-1}$, about
    $\sqrt{2 / \pi m}$: a fifth less than the unsigned bundle's $1/\sqrt m$.
    """
    return jnp.sign(members.sum(-2))


def permute(a: Vector, shift: int = 1) -> Vector:
    """The vector at another place in an order: its coordinates turned; undone by `-shift`."""
    return jnp.roll(a, shift, -1)


def pairs(
    roles: Float[Array, "... pairs dimension"], fillers: Float[Array, "... pairs dimension"]
) -> Vector:
    r"""A record $\sum_k \phi_{\mathrm{role}_k} \odot \phi_{\mathrm{filler}_k}$."""
    return bundle(bind(roles, fillers))


def sequence(members: Float[Array, "... members dimension"]) -> Vector:
    r"""An order $\sum_i \rho^{i} a_i$, $\rho$ the permutation: `permute(s, -i)` reads member i."""
    count = members.shape[-2]
    return bundle(jnp.stack([permute(members[..., i, :], i) for i in range(count)], -2))


def cosines(a: Vector, codebook: Float[Array, "size dimension"]) -> Float[Array, "... size"]:
    """Cosine of a vector with every symbol; a vector of length zero has 0 with all."""
    norms = jnp.linalg.norm(a, axis=-1, keepdims=True)
    unit = a / jnp.where(norms > 0, norms, 1.0)
    return jnp.matmul(unit, codebook.T, precision="highest") / codebook.shape[1] ** 0.5


def cleanup(a: Float[Array, "... _"], codebook: Float[Array, "size dimension"]) -> Symbol:
    """The symbol that a noisy vector is most like.

    Args:
        a: vectors.
        codebook: of signs; at least two symbols.

    Raises:
        ValueError: fewer than two symbols, among which there is nothing to tell apart, or another
            dimension.
    """
    size, dimension = codebook.shape
    if size < 2:
        raise ValueError(f"a codebook of {size} symbols: it takes at least 2 to tell them apart")
    if a.shape[-1] != dimension:
        raise ValueError(f"vectors of dimension {a.shape[-1]} for a codebook of {dimension}")
    best, places = jax.lax.top_k(cosines(a, codebook), 2)
    return Symbol(places[..., 0], best[..., 0], best[..., 0] - best[..., 1])


def member_cosine(members: int) -> float:
    r"""Expected cosine of an unsigned bundle with each of m members, $1/\sqrt m$.

    Exact in the limit of many dimensions; at d dimensions the deviation is of order
    $\sqrt{(m - 1) / (m d)}$.
    """
    _check(members=members)
    return members**-0.5


def majority_overlap(members: int) -> float:
    r"""Expected product, per coordinate, of a `majority` with each member; exact for any m."""
    _check(members=members)
    return float(comb(members - 1, (members - 1) // 2) / 2 ** (members - 1))


def recall_probability(dimension: int, members: int, size: int) -> float:
    r"""Probability that `cleanup` reads one member of an unsigned bundle correctly.

    The score of the true symbol is $d + \sqrt{(m - 1) d}\, u$ and that of each of the $V - 1$
    others, which are not in the bundle, $\sqrt{m d}\, v$, with u and the v's independent standard
    normals for large d:

    $P = \mathrm{E}_u\, \Phi\big((\sqrt d + \sqrt{m - 1}\, u) / \sqrt m\big)^{V - 1}$.

    The same holds for a record of m pairs that is unbound with one of its roles.

    Args:
        dimension: d.
        members: m.
        size: V, symbols among which to find it.
    """
    _check(dimension=dimension, members=members, size=size)
    nodes, weights = roots_hermitenorm(128)
    bound = (dimension**0.5 + (members - 1) ** 0.5 * nodes) / members**0.5
    return float(weights @ np.exp((size - 1) * log_ndtr(bound)) / weights.sum())


def _check(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count}: need at least 1")
