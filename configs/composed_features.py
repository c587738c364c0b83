"""Settings of `experiments/composed_features.py`.

Command: `python experiments/composed_features.py`. Expected: see there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ComposedFeatures:
    """Which world, and how dictionaries learn it.

    Attributes:
        features: features of the world.
        d: dimension of the activations.
        active: features active at a time.
        pairs: pairs of features that write something together.
        strength: length of what a pair writes, in lengths of a feature.
        width: latents.
        ranks: of the polynomial.
        seeds: dictionaries of each kind.
        steps: training steps.
        batch: rows in a step.
        learning_rate: peak rate of Adam.
        seed: of the world, the batches and the dictionaries.
    """

    features: int = 24
    d: int = 48
    active: int = 4
    pairs: int = 12
    strength: float = 1.0
    width: int = 32
    ranks: tuple[int, int, int] = (32, 24, 8)
    seeds: int = 3
    steps: int = 4000
    batch: int = 256
    learning_rate: float = 3e-3
    seed: int = 0
