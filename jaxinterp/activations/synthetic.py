r"""Activations whose features are known, to see what a dictionary finds of them.

$x = b + \sum_i a_i f_i + \varepsilon$ with unit directions $f_i$ and few $a_i > 0$. What makes real
activations hard can be turned on one by one: more features than dimensions (superposition),
frequencies that fall by Zipf's law, features that occur together (correlation) and features that
need another one (hierarchy).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key


class Truth(NamedTuple):
    """A world of features; a pytree of arrays, so samplers of it jit and vmap.

    Attributes:
        atoms: direction of each feature, of length one.
        frequency: probability that a feature is active.
        own: probability that it is, given that its parent is; the frequency where it has none.
        ancestors: first itself, then its parent, the parent's parent, ...; a root repeats itself.
        drawn_with: the feature whose random number decides; itself, or of siblings that exclude
            each other the first one.
        earlier: probability, given the parent, of the excluded siblings before it; else zero.
        loading: what moves it together with others, through common normal factors.
        spread: standard deviation of an active feature's size, whose mode is one.
        noise: standard deviation of each coordinate of the noise.
        bias: what is added to every activation.
    """

    atoms: Float[Array, "features d"]
    frequency: Float[Array, " features"]
    own: Float[Array, " features"]
    ancestors: Int[Array, "levels features"]
    drawn_with: Int[Array, " features"]
    earlier: Float[Array, " features"]
    loading: Float[Array, "features rank"]
    spread: Float[Array, ""]
    noise: Float[Array, ""]
    bias: Float[Array, " d"]


class Labelled(NamedTuple):
    """Activations and what they are made of.

    Attributes:
        x: the activations.
        sizes: size of each feature in each of them, zero where it is not active.
    """

    x: Float[Array, "n d"]
    sizes: Float[Array, "n features"]


def invent(
    key: Key[Array, ""],
    features: int,
    d: int,
    *,
    active: float | int,
    exponent: float | int = 0.5,
    trees: int = 0,
    branching: int = 4,
    levels: int = 3,
    exclusive: bool = False,
    rank: int = 8,
    correlation: float = 0.0,
    spread: float = 0.3,
    noise: float = 0.0,
    bias: float | int = 0.0,
) -> Truth:
    r"""A world of random directions.

    Feature i (from 0, the most frequent first) is active with probability proportional to
    $(i + 1)^{-s}$. The first ones are the roots of the trees, then come their children, and so on;
    a child is active only with its parent, and still as often as its place says. What is left over
    belongs to no tree. With `exclusive`, at most one child of a node is active: children that are
    together more frequent than their parent become rarer by one factor, and everything more
    frequent until `active` is right again. Roots and free features are correlated: the normal
    variable whose upper tail makes such a feature active has the share `correlation` of its
    variance from `rank` factors that all have in common. With defaults everything is independent.

    Args:
        key: of directions and loadings.
        features: number of features; more than `d` for superposition.
        d: dimension of the activations.
        active: mean number of active features in an activation.
        exponent: $s$; 0 for equal frequencies. Frequencies above 0.9 are cut there.
        trees: number of trees.
        branching: children of a node.
        levels: nodes from a root to a leaf, both counted; 1 for no children.
        exclusive: whether siblings exclude each other.
        rank: number of common factors.
        correlation: from 0 to below 1.
        spread: standard deviation of an active feature's size.
        noise: standard deviation of the noise in each coordinate.
        bias: length of what is added to every activation, in a random direction.

    Returns:
        The world.

    Raises:
        ValueError: more nodes than features, more active than there are or than siblings that
            exclude each other allow, a correlation out of range.

    Reference:
        The ingredients are those of SynthSAEBench (arXiv 2602.14687), whose largest world has
        16384 features in 768 dimensions, exponent 0.5, about 34 active and 128 trees of depth 3;
        how its trees branch and how sizes vary was not verified.
    """
    nodes = trees * sum(branching**level for level in range(levels))
    if nodes > features:
        raise ValueError(f"{trees} trees have {nodes} nodes, but there are {features=}")
    if not 0 < active <= 0.9 * features:
        raise ValueError(f"{active=} of {features} features: need 0 < active <= 0.9 features")
    if not 0 <= correlation < 1:
        raise ValueError(f"{correlation=}: need 0 <= correlation < 1")
    parent = _parents(features, trees, branching, levels)
    root = parent == np.arange(features)
    eldest = _eldest_siblings(parent) if exclusive else np.arange(features)
    if exclusive:
        frequency = _excluding(features, exponent, active, parent)
    else:
        frequency = _zipf(features, exponent, active)
    own = np.where(root, frequency, frequency / frequency[parent])
    before = np.cumsum(own) - own  # siblings have successive numbers
    earlier = before - before[eldest]
    ancestors = [np.arange(features)]
    for _ in range(levels - 1):
        ancestors.append(parent[ancestors[-1]])

    direction, load, offset = jax.random.split(key, 3)
    loading = _unit(jax.random.normal(load, (features, rank))) * np.sqrt(correlation)
    return Truth(
        _unit(jax.random.normal(direction, (features, d))),
        jnp.asarray(frequency, jnp.float32),
        jnp.asarray(own, jnp.float32),
        jnp.asarray(np.stack(ancestors), jnp.int32),
        jnp.asarray(eldest, jnp.int32),
        jnp.asarray(earlier, jnp.float32),
        jnp.where(root[:, None], loading, 0.0),
        jnp.asarray(spread, jnp.float32),
        jnp.asarray(noise, jnp.float32),
        bias * _unit(jax.random.normal(offset, (1, d)))[0],
    )


def draw(truth: Truth, key: Key[Array, ""], n: int) -> Labelled:
    """Activations from a world: the same ones for the same key.

    Args:
        truth: the world.
        key: of the draw.
        n: number of activations.
    """
    features, d = truth.atoms.shape
    common, alone, size, noise = jax.random.split(key, 4)
    factors = jax.random.normal(common, (n, truth.loading.shape[1]))
    rest = jnp.sqrt(1 - jnp.square(truth.loading).sum(1))
    normal = factors @ truth.loading.T + rest[None] * jax.random.normal(alone, (n, features))
    normal, above = normal[:, truth.drawn_with], jnp.maximum(1 - truth.earlier - truth.own, 0.0)
    active = normal > jax.scipy.special.ndtri(above)[None]
    active = active & (normal <= jax.scipy.special.ndtri(1 - truth.earlier)[None])
    for ancestor in truth.ancestors[1:]:
        active = active & active[:, ancestor]
    sizes = jnp.abs(1 + truth.spread * jax.random.normal(size, (n, features)))
    sizes = jnp.where(active, sizes, 0.0)
    x = sizes @ truth.atoms + truth.bias[None] + truth.noise * jax.random.normal(noise, (n, d))
    return Labelled(x, sizes)


def _zipf(
    features: int, exponent: float | int, active: float | int, most: float = 0.9
) -> np.ndarray:
    """Frequencies that sum to `active`; what the cut takes off goes to the others."""
    shape = np.arange(1, features + 1, dtype=np.float64) ** -float(exponent)
    cut = 0
    while True:
        scale = (active - most * cut) / shape[cut:].sum()
        more = int((scale * shape[cut:] > most).sum())
        if not more:
            return np.concatenate([np.full(cut, most), scale * shape[cut:]])
        cut += more


def _parents(features: int, trees: int, branching: int, levels: int) -> np.ndarray:
    """Parent of each feature, itself for roots and free features; level after level."""
    parent = np.arange(features)
    first, count = 0, trees
    for _ in range(levels - 1):
        children = first + count + np.arange(count * branching)
        parent[children] = first + np.arange(count * branching) // branching
        first, count = first + count, count * branching
    return parent


def _eldest_siblings(parent: np.ndarray) -> np.ndarray:
    """The first child of the parent of each feature; itself for roots and free features."""
    numbers = np.arange(len(parent))
    eldest, children = numbers.copy(), numbers[parent != numbers]
    first = np.full(len(parent), len(parent))
    np.minimum.at(first, parent[children], children)
    eldest[children] = first[parent[children]]
    return eldest


def _excluding(
    features: int, exponent: float | int, active: float | int, parent: np.ndarray
) -> np.ndarray:
    """Frequencies that sum to `active` where children together are no more frequent than a parent.

    What Zipf's law asks for is raised until it is right, by bisection of its sum.
    """

    def limited(total: float) -> np.ndarray:
        frequency = _zipf(features, exponent, total)
        for node in np.unique(parent[parent != np.arange(features)]):  # parents come first
            children = (parent == node) & (np.arange(features) != node)
            frequency[children] *= min(1.0, frequency[node] / frequency[children].sum())
        return frequency

    low, high = float(active), 0.9 * features
    if limited(high).sum() < active:
        most = limited(high).sum()
        raise ValueError(f"{active=}: with siblings that exclude each other at most {most:.1f} are")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if limited(middle).sum() < active else (low, middle)
    return limited(high)


def _unit(rows: Float[Array, "n d"]) -> Float[Array, "n d"]:
    return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
