"""The settings of a run, one frozen dataclass; every field can be set on the command line."""

from dataclasses import dataclass

from jaxinterp.data import INSTALLED
from jaxinterp.encoders.assets import EMBEDDED


@dataclass(frozen=True)
class RunConfig:
    """From a language model and text to a dictionary, its metrics and the geometry of the layers.

    Attributes:
        name: name of the run; its results lie in `out`/`name`.
        out: folder of all runs.
        model: "tiny" (the shipped model), a folder in Hugging Face format, or a hub name.
        text: "installed" (the English that this Python carries), a .txt / .jsonl / .parquet file,
            a folder of such files, or the name of a hub data set.
        text_column: column that holds the text, for tables.
        context: tokens in a row, the beginning-of-sequence token included.
        tokens: held-in tokens to harvest, at least (all, where the text is shorter).
        held_out_tokens: held-out tokens to measure on, at least (likewise).
        site: where the dictionary reads, e.g. "L2.resid_post"; empty for the middle of the model.
        width: latents of the dictionary; 0 for 8 times the width of the stream.
        k: latents kept per token.
        steps: training steps of the dictionary.
        batch: tokens in a training step.
        learning_rate: peak rate of Adam.
        points: tokens whose activations the dimension of every layer is estimated on.
        neighbors: neighbours of the Levina-Bickel estimate.
        features: features shown in the report.
        contexts: contexts shown per feature.
        seed: the one seed.
    """

    name: str = "quickstart"
    out: str = "runs"
    model: str = EMBEDDED
    text: str = INSTALLED
    text_column: str = "text"
    context: int = 256
    tokens: int = 300_000
    held_out_tokens: int = 100_000
    site: str = ""
    width: int = 0
    k: int = 32
    steps: int = 2000
    batch: int = 2048
    learning_rate: float = 2e-3
    points: int = 5000
    neighbors: int = 20
    features: int = 50
    contexts: int = 12
    seed: int = 0

    def check(self) -> None:
        """Refuses numbers that cannot be, before any work.

        Raises:
            ValueError: which setting, its value, and what it must be.
        """
        positive = "context tokens held_out_tokens k steps batch points neighbors features contexts"
        for field in positive.split():
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}: it must be at least 1")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}: it must be positive")
        if self.points <= self.neighbors:
            raise ValueError(
                f"{self.points} points for {self.neighbors} neighbours: raise points "
                f"above {self.neighbors} or lower neighbors"
            )
        if self.width and self.k > self.width:
            raise ValueError(f"k is {self.k} with a width of {self.width}: need k <= width")
