"""Settings of `experiments/archetypal_stability.py`.

Command: `python experiments/archetypal_stability.py`. Expected: see there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ArchetypalStability:
    """How many dictionaries of each kind, and on what.

    Attributes:
        model: a folder in Hugging Face format, a hub name, or "tiny" for the shipped model.
        text: "installed", a file, a folder, or a hub data set.
        site: where the dictionaries read.
        context: tokens in a row of text.
        rows: rows of held-in text.
        width: latents.
        k: active latents.
        candidates: points whose combinations the archetypal atoms are.
        radii: how far from their hull, in mean lengths of the candidates.
        seeds: dictionaries of each kind.
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
    width: int = 256
    k: int = 8
    candidates: int = 512
    radii: tuple[float, ...] = (0.0, 0.2, 1.0)
    seeds: int = 4
    steps: int = 500
    batch: int = 256
    learning_rate: float = 1e-3
    seed: int = 0
