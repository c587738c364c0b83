"""Sizes for `experiments/itda_layers.py`.

Command: `python experiments/itda_layers.py`. Expected: see there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ItdaLayers:
    """Two models, the text that both read, and the dictionaries that grow on it.

    Attributes:
        model: a folder in Hugging Face format, a hub name, or "tiny" for the shipped model.
        other: a second model of equal depth that takes the same tokens; empty for the first one
            with noise on its weights.
        noise: standard deviation of that noise, as a share of each weight matrix's own.
        context: tokens in a row.
        tokens: activations of each layer, of held-out text.
        width: places of a dictionary.
        k: atoms per activation.
        missed: share of a layer's variance; an activation whose squared error is above this share
            of the layer's mean squared length becomes an atom.
        batch: activations in a step.
        anchors: tokens that relative representations compare with.
        seed: of the rows of text and the noise.
    """

    model: str = "tiny"
    other: str = ""
    noise: float = 0.3
    context: int = 128
    tokens: int = 8192
    width: int = 2048
    k: int = 16
    missed: float = 0.3
    batch: int = 128
    anchors: int = 256
    seed: int = 0
