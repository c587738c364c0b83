"""Settings of `experiments/dead_features.py`.

Command: `python experiments/dead_features.py`. Expected: see there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class DeadFeatures:
    """Which dictionaries, and on what.

    Attributes:
        model: a folder in Hugging Face format, a hub name, or "tiny" for the shipped model.
        text: "installed", a file, a folder, or a hub data set.
        site: where the dictionaries read.
        context: tokens in a row of text.
        rows: rows of held-in text; a fifth as many are measured on.
        width: latents.
        k: active latents.
        weights: of the divergence in the variational dictionaries.
        steps: training steps.
        batch: tokens in a step.
        learning_rate: of Adam.
        seed: of rows, batches and dictionaries.
    """

    model: str = "tiny"
    text: str = "installed"
    site: str = "L2.resid_post"
    context: int = 256
    rows: int = 100
    width: int = 1024
    k: int = 8
    weights: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2)
    steps: int = 400
    batch: int = 512
    learning_rate: float = 2e-3
    seed: int = 0
