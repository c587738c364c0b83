r"""A probe that reads structured concepts: activations to one vector, from which roles are unbound.

A labelled activation is a record of fillers in roles ("relation: capital, country: France"). Its
target is the hyperdimensional vector $\sum_k \phi_{r_k} \odot \phi_{f_k}$ of roles r and fillers f;
a map from activations to targets is fitted once, whatever their number, and any role is read from
it by unbinding and `cleanup`.

    probe = fit(x, labels, roles, fillers)
    read(probe, new_x, roles, fillers).index          # (n, roles): the filler of every role
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.dictionaries.hyperdimensional import Symbol, cleanup, pairs, unbind


class Probe(NamedTuple):
    """An affine map into the hyperdimensional space: `(x - centre) @ weight + bias`."""

    centre: Float[Array, " d"]
    weight: Float[Array, "d dimension"]
    bias: Float[Array, " dimension"]


def records(
    labels: Int[Array | np.ndarray, "n roles"],
    roles: Float[Array, "roles dimension"],
    fillers: Float[Array, "fillers dimension"],
) -> Float[Array, "n dimension"]:
    """The vector of every labelled row: its fillers, each bound to its role, bundled."""
    return pairs(roles[None], fillers[jnp.asarray(labels)])


def fit(
    x: Float[Array, "n d"],
    labels: Int[Array | np.ndarray, "_ _"],
    roles: Float[Array, "roles dimension"],
    fillers: Float[Array, "fillers dimension"],
    *,
    ridge: float = 1e-3,
) -> Probe:
    r"""The ridge regression of the records on the activations, in closed form.

    $W = (C + \lambda \bar v I)^{-1} \frac1n X_c^\top Y_c$ with $C$ the covariance of x and $\bar v$
    its mean variance. The paper trains a network of three layers instead, which can read what is
    not linear; an affine map can't, and needs no tuning.

    Args:
        x: activations.
        labels: filler of every role in every row.
        roles: symbols of the roles.
        fillers: symbols of the fillers.
        ridge: $\lambda$, in mean variances; above 0, so that coordinates that depend on each other
            have a solution.

    Raises:
        ValueError: a ridge that is not positive; no rows; labels that are not of these rows, roles
            or fillers; a role with the same filler in all rows, which any probe would read without
            looking at x; a constant x.

    Reference:
        Bronzini et al. (2025), "Hyperdimensional probe", arXiv 2509.25045.
    """
    labels = _checked(x, labels, roles, fillers)
    if not ridge > 0:
        raise ValueError(f"{ridge=}: give one above 0")
    x, y = jnp.asarray(x, jnp.float32), records(labels, roles, fillers)
    centre, bias = x.mean(0), y.mean(0)
    rows = x - centre[None]
    with jax.default_matmul_precision("highest"):
        covariance = rows.T @ rows / len(x)
        moment = rows.T @ (y - bias[None]) / len(x)
    total = jnp.trace(covariance)
    if not total > 0:
        raise ValueError(f"a mean variance of {total / x.shape[1]:g}: x tells nothing")
    regular = covariance + ridge * total / x.shape[1] * jnp.eye(x.shape[1])
    return Probe(centre, jax.scipy.linalg.solve(regular, moment, assume_a="pos"), bias)


def project(probe: Probe, x: Float[Array, "n d"]) -> Float[Array, "n dimension"]:
    """Activations as hyperdimensional vectors."""
    moved = jnp.matmul(x - probe.centre[None], probe.weight, precision="highest")
    return moved + probe.bias[None]


def read(
    probe: Probe,
    x: Float[Array, "n d"],
    roles: Float[Array, "roles dimension"],
    fillers: Float[Array, "fillers dimension"],
) -> Symbol:
    """The filler of every role: unbound, then the nearest symbol.

    Args:
        probe: from `fit`.
        x: activations.
        roles: symbols of the roles to read; any subset, in any order.
        fillers: symbols to choose from; fewer than in the fit make a narrower question.

    Returns:
        Index, cosine and margin of shape (n, roles).
    """
    return cleanup(unbind(project(probe, x)[:, None], roles[None]), fillers)


def _checked(
    x: Array, labels: Array | np.ndarray, roles: Array, fillers: Array
) -> Int[np.ndarray, "n roles"]:
    labels = np.asarray(labels)
    if not len(x):
        raise ValueError("no rows: a probe needs labelled activations")
    if labels.shape != (len(x), len(roles)):
        raise ValueError(f"labels of shape {labels.shape} for {len(x)} rows and {len(roles)} roles")
    if labels.min() < 0 or labels.max() >= len(fillers):
        raise ValueError(f"labels from {labels.min()} to {labels.max()} for {len(fillers)} fillers")
    for role in np.flatnonzero((labels == labels[:1]).all(0)):
        raise ValueError(
            f"role {role} has filler {labels[0, role]} in all {len(x)} rows: a probe of a single "
            "class would be right without reading anything"
        )
    return labels
