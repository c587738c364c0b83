"""Settings of `experiments/layer_profile.py`.

Command: `python experiments/layer_profile.py`. Expected: see there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerProfile:
    """A model, a text, and how many of its tokens are looked at.

    Attributes:
        model: a folder in Hugging Face format, a hub name, or "tiny" for the shipped model.
        text: "installed", a file, a folder, or a hub data set; its held-out part is read.
        context: tokens in a row.
        rows: rows read, at random.
        points: tokens whose activations are kept.
        first_position: tokens before it are left out: with little context they are much alike.
        seed: of rows, tokens, shuffles and random parameters.
        out: folder for the JSON and the figure.
    """

    model: str = "tiny"
    text: str = "installed"
    context: int = 256
    rows: int = 96
    points: int = 4000
    first_position: int = 16
    seed: int = 0
    out: str = "runs/layer_profile"
