"""What the tests of pursuits share: rows, atoms, every coder."""

from functools import cache

import jax
import numpy as np

from jaxinterp.dictionaries import base, matching, refitting
from jaxinterp.dictionaries.base import densify

D, WIDTH, K = 24, 64, 6
CODERS = {
    "matching": matching.matching_codes,
    "orthogonal": refitting.orthogonal_codes,
    "nonnegative": refitting.nonnegative_codes,
    "gradient": refitting.gradient_codes,
}


@cache
def world(rows=300):
    atoms, x = (jax.random.normal(jax.random.key(i), (n, D)) for i, n in ((0, WIDTH), (1, rows)))
    return x, base.unit_rows(atoms)


def dense(codes, width=WIDTH):
    return np.asarray(densify(codes, width))


def residual_of(codes, x, atoms):
    return x - densify(codes, len(atoms)) @ atoms
