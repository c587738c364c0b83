"""The dimension of one layer as plain values, for a file, a table or a figure."""

from typing import Any

import jax
import numpy as np

from jaxinterp.geometry import (
    IntrinsicDimension,
    dimension_from_neighbors,
    explain,
    first_occurrences,
    k_nearest,
    levina_bickel,
)

_SCAN_NEIGHBORS = 64  # of the scan over scales


def dimension_of(cloud: jax.Array, neighbors: int) -> dict[str, Any]:
    """Estimates of one cloud from one search for neighbours, repeated points counted once.

    TwoNN, Levina-Bickel, the recommended `intrinsic_dimension`, and GRIDE over scales.
    Levina-Bickel is None where no more than `neighbors` different points are left.
    """
    distinct = first_occurrences(cloud)
    found = k_nearest(cloud, min(max(neighbors, _SCAN_NEIGHBORS), len(cloud) - 1), valid=distinct)
    best = dimension_from_neighbors(found, distinct)
    points, hill = int(distinct.sum()), None
    if points > neighbors:
        hill = levina_bickel(found.distances, k=neighbors, indices=found.indices)
    return {
        "two_nn": float(best.uncorrected.value),
        "two_nn_error": float(best.uncorrected.stderr),
        "mle": None if hill is None else float(hill.value),
        "mle_error": None if hill is None else float(hill.stderr),
        "points": points,
    } | recommended(best)


def recommended(best: IntrinsicDimension) -> dict[str, Any]:
    """The recommended estimate and its scan as plain values: `recommended` and `scan`."""
    low, high = np.asarray(best.interval).tolist()
    scan = zip(("neighbors", "radii", "values", "errors"), best.scan, strict=True)
    return {
        "recommended": {
            "value": float(best.value),
            "error": float(best.stderr),
            "low": low,
            "high": high,
            "warnings": explain(best),
        },
        "scan": {name: np.asarray(column).tolist() for name, column in scan},
    }
