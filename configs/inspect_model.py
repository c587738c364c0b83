"""What `experiments/inspect_model.py` looks at.

Command: `python experiments/inspect_model.py`. Expected: see there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class InspectModel:
    """A model and a text to read it on.

    Attributes:
        model: a folder in Hugging Face format, a hub name, or "tiny" for the shipped model.
        text: what a language model reads.
        layers: how many layers' attention is drawn, evenly spaced.
        out: folder for the figures.
    """

    model: str = "tiny"
    text: str = "If the list is empty, the function returns None; if the list is not empty, it"
    layers: int = 4
    out: str = "runs/inspect_model"
