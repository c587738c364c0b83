"""Sizes for `experiments/bench_encoders.py`.

Command: `python experiments/bench_encoders.py`. Expected: see there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchEncoders:
    """What to time.

    Attributes:
        batch: rows.
        context: tokens in a row.
        dtype: "float32" or "bfloat16".
        rounds: times that every contestant runs, in turn.
        threads: processor threads for torch.
        layers: blocks (GPT-2 small has 12).
        width: width of the stream (GPT-2 small has 768); heads are 64 wide.
        vocabulary: tokens.
        hf_python: Python with torch and transformers; empty to leave them out.
        lens_python: Python with TransformerLens; empty to leave it out.
        peak_tflops: the accelerator's peak for this dtype; 0 to look it up.
    """

    batch: int = 4
    context: int = 128
    dtype: str = "float32"
    rounds: int = 5
    threads: int = 2
    layers: int = 12
    width: int = 768
    vocabulary: int = 50257
    hf_python: str = ""
    lens_python: str = ""
    peak_tflops: float = 0.0
