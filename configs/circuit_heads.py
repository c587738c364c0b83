"""Sizes for `experiments/circuit_heads.py`.

Command: `python experiments/circuit_heads.py`. Expected: see there.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CircuitHeads:
    """Which planted models, how many examples, which dictionary.

    Attributes:
        layers: of the model.
        heads: of each layer.
        copies: heads of each of the four kinds in the circuit.
        pairs: numbers of pairs of prompts.
        seeds: models, each with prompts of its own.
        width: latents of the dictionary.
        weight: of its L1 penalty, for head outputs of unit mean square length.
        weights: others to compare, at the last number of pairs.
        steps: training steps on all head outputs at once.
        rate: of Adam.
        above: share of novel codes from which a head is decided on.
        figure: where to draw the scores over the weights; None for nowhere.
    """

    layers: int = 6
    heads: int = 12
    copies: int = 3
    pairs: tuple[int, ...] = (2, 5, 10)
    seeds: int = 3
    width: int = 128
    weight: float = 0.05
    weights: tuple[float, ...] = (0.0125, 0.025, 0.1, 0.2)
    steps: int = 250
    rate: float = 3e-3
    above: float = 0.5
    figure: Path | None = None
