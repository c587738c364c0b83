"""Settings of `experiments/text_dimension.py`.

Command: `python experiments/text_dimension.py`. Expected: see there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class TextDimension:
    """Texts by kind, and what of them is measured.

    Attributes:
        model: a folder in Hugging Face format, a hub name, or "tiny" for the shipped model.
        sites: where a token's vector is read; the first layer's input is the embedding alone.
        context: tokens of a text, the beginning-of-sequence token included.
        tokens: different tokens of a text that make its cloud, the same number for all.
        texts: of each kind.
        seed: of the choice of texts and of the trees' subsets.
        out: folder for the JSON.
    """

    model: str = "tiny"
    sites: tuple[str, ...] = ("L0.resid_pre", "L5.resid_post")
    context: int = 256
    tokens: int = 100
    texts: int = 64
    seed: int = 0
    out: str = "runs/text_dimension"
