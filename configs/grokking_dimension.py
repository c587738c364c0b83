"""Settings of `experiments/grokking_dimension.py`.

Command: `python experiments/grokking_dimension.py`. Expected: see there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class GrokkingDimension:
    """A net that learns modular addition, and where its hidden layer is measured.

    Attributes:
        modulus: p of `(m + n) mod p`.
        width: hidden units.
        share: of the p^2 pairs that are trained on.
        steps: full-batch steps.
        rate: learning rate of AdamW.
        decay: weight decay of AdamW.
        every: steps between checkpoints.
        points: pairs, seen and unseen, whose hidden vectors are measured.
        neighbors: neighbours of the local dimension.
        seeds: independent runs, each with its own split.
        out: folder for the JSON and the figure.
    """

    modulus: int = 97
    width: int = 500
    share: float = 0.5
    steps: int = 200
    rate: float = 1e-2
    decay: float = 5.0
    every: int = 4
    points: int = 2000
    neighbors: int = 20
    seeds: int = 3
    out: str = "runs/grokking_dimension"
