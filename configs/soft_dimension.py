"""Settings of `experiments/soft_dimension.py`.

Command: `python experiments/soft_dimension.py`. Expected: see there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class SoftDimensionRun:
    """An autoencoder whose code's dimension is pushed.

    Attributes:
        latent: dimension of the data's own latent cube.
        ambient: width of the data.
        code: width of the code.
        hidden: width of the hidden layers.
        batch: points of a step.
        steps: gradient steps.
        rate: learning rate.
        strengths: weights of the soft dimension in the loss; negative ones raise it.
        seed: of data and parameters.
    """

    latent: int = 4
    ambient: int = 32
    code: int = 8
    hidden: int = 64
    batch: int = 256
    steps: int = 600
    rate: float = 2e-3
    strengths: tuple[float, ...] = (-0.03, 0.0, 0.03)
    seed: int = 0
