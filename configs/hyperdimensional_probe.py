"""Sizes for `experiments/hyperdimensional_probe.py`.

Command: `python experiments/hyperdimensional_probe.py`. Expected: see there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class HyperdimensionalProbe:
    """Which activations, which probes.

    Attributes:
        site: residual site of the shipped model, all layers.
        context: tokens in a row of text.
        tokens: positions to harvest.
        vocabulary: commonest tokens that serve as concepts; positions with others are left out.
        dimensions: of the hyperdimensional space.
        ridge: of the linear maps, in mean variances.
        test: share of positions held out, whole rows of text.
        seed: of the codebooks and of the choice of rows.
    """

    site: str = "resid_post"
    context: int = 64
    tokens: int = 60_000
    vocabulary: int = 60
    dimensions: tuple[int, ...] = (256, 4096)
    ridge: float = 1e-3
    test: float = 0.25
    seed: int = 0
