"""Sizes for `experiments/bench_geometry.py`.

Command: `python experiments/bench_geometry.py`. Expected: see there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchGeometry:
    """What to time.

    Attributes:
        number: points.
        width: coordinates of a point.
        neighbors: k of the neighbour search.
        repeats: times that every contestant runs, in turn.
        tree: points of the spanning tree.
        texts: texts of 512 tokens for persistent homology.
        seed: of the points.
        devices: virtual CPU devices among which the neighbourhoods of local PCA are spread; a
            divisor of 2000.
    """

    number: int = 10_000
    width: int = 64
    neighbors: int = 20
    repeats: int = 5
    tree: int = 2000
    texts: int = 8
    seed: int = 0
    devices: int = 1
