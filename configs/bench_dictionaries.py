"""Sizes for `experiments/bench_dictionaries.py`.

Command: `python experiments/bench_dictionaries.py`. Expected: see there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchDictionaries:
    """What to time.

    Attributes:
        d: dimension of the activations.
        width: latents.
        k: latents kept per row.
        batch: rows in a step.
        steps: training steps in a turn.
        rounds: turns of each contestant.
        dtype: "float32" or "bfloat16" for matrix products; what learns stays in float32.
        ours: this library's contestants: topk, relu, jumprelu, batch_topk, matryoshka,
            matching_pursuit, orthogonal_pursuit, archetypal, itda, sweep, one by one,
            sweep run, run by run.
        peers: contestants in torch: sparsify/topk, saelens/NAME, torch/topk, overcomplete/NAME.
        torch_python: Python with torch, sae-lens, eai-sparsify and (for its pursuits) overcomplete;
            empty to leave the peers out.
        candidates: points whose combinations the archetypal atoms are.
        members: members of the sweep.
        threads: processor threads of torch; the divisor of processor time.
        peak_tflops: the accelerator's peak for this dtype; 0 to look it up.
    """

    d: int = 512
    width: int = 4096
    k: int = 32
    batch: int = 2048
    steps: int = 3
    rounds: int = 10
    dtype: str = "float32"
    ours: tuple[str, ...] = ("topk", "relu", "jumprelu", "batch_topk", "matryoshka")
    peers: tuple[str, ...] = (
        "sparsify/topk",
        "torch/topk",
        "saelens/topk",
        "saelens/relu",
        "saelens/jumprelu",
        "saelens/batch_topk",
        "saelens/matryoshka",
    )
    torch_python: str = ""
    candidates: int = 512
    members: int = 8
    threads: int = 2
    peak_tflops: float = 0.0
