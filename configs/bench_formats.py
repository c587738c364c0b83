"""Sizes for `experiments/bench_formats.py`.

Command: `python experiments/bench_formats.py`. Expected: see there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchFormats:
    """What to load.

    Attributes:
        width: latents.
        d: dimension of the activations.
        dtype: "float32" or "bfloat16" (npz has no bfloat16).
        formats: of jaxinterp, gemma_scope, llama_scope, dictionary_learning, sparsify.
        rounds: times that each contestant loads each file, in turn, cold and warm.
        folder: where to write the files, one at a time, and delete them; empty for the system's.
    """

    width: int = 131_072
    d: int = 2304
    dtype: str = "float32"
    formats: tuple[str, ...] = (
        *("sparsify", "jaxinterp", "dictionary_learning", "gemma_scope", "llama_scope"),
    )
    rounds: int = 4
    folder: str = ""
