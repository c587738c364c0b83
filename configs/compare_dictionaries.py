"""Settings of `experiments/compare_dictionaries.py`.

Command: `python experiments/compare_dictionaries.py`. Expected: see there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class CompareDictionaries:
    """Which dictionaries, how sparse, how long, and on what they are trained.

    Attributes:
        model: a folder in Hugging Face format, a hub name, or "tiny" for the shipped model.
        text: "installed", a file, a folder, or a hub data set.
        site: where the dictionaries read and are spliced in.
        context: tokens in a row of text.
        rows: rows of held-in text; a fifth as many of held-out text are measured on.
        spliced_rows: held-out rows on which cross-entropy is measured.
        variants: names in the table; empty for all.
        k: active latents per token: k, or what the penalty's weight is steered to.
        width: latents.
        seeds: dictionaries of each variant, on the same batches.
        steps: training steps.
        batch: tokens in a step.
        learning_rate: peak rate of Adam.
        seed: of rows, batches and dictionaries.
        out: folder of the table and of one file a row.
    """

    model: str = "tiny"
    text: str = "installed"
    site: str = "L2.resid_post"
    context: int = 256
    rows: int = 300
    spliced_rows: int = 16
    variants: tuple[str, ...] = ()
    k: int = 16
    width: int = 512
    seeds: int = 5
    steps: int = 800
    batch: int = 256
    learning_rate: float = 2e-3
    seed: int = 0
    out: str = "runs/compare_dictionaries"
