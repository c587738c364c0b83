"""Sizes for `experiments/hierarchy_pursuit.py`.

Command: `python experiments/hierarchy_pursuit.py`. Expected: see there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class HierarchyPursuit:
    """Families of features, and the dictionaries that are to find them.

    Attributes:
        d: dimension of the activations.
        families: parents, orthogonal to each other.
        children: of each parent.
        siblings: cosine of the children of a family, before they lean.
        lean: how much of its parent is added to a child, which is then scaled to length one.
        active: families in an activation.
        alone: probability that a parent comes without a child.
        noise: standard deviation of each coordinate of the noise.
        width: latents of the dictionaries that are trained; at least one a feature.
        k: latents per row in training.
        steps: training steps.
        batch: rows in a step.
        rate: peak learning rate.
        seeds: trained dictionaries of each kind.
        test: rows to measure on.
        found: cosine from which a feature counts as found.
    """

    d: int = 64
    families: int = 12
    children: int = 3
    siblings: float = 0.6
    lean: float = 0.45
    active: int = 3
    alone: float = 0.5
    noise: float = 0.01
    width: int = 48
    k: int = 5
    steps: int = 2500
    batch: int = 256
    rate: float = 3e-3
    seeds: int = 2
    test: int = 4096
    found: float = 0.9
