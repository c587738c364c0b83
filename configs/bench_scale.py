"""Sizes for `experiments/bench_scale.py`.

Command: `python experiments/bench_scale.py`. Expected: see there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchScale:
    """What to time on one device.

    Attributes:
        d: dimension of the activations.
        widths: latents.
        k: latents kept per row.
        aux_k: dead latents per row that are revived, in TopK and BatchTopK. None is dead here, but
            memory for it is set aside.
        batch: rows in a step.
        steps: training steps in a turn.
        rounds: turns, of which the median counts.
        dtype: of the products; what learns stays in float32.
        variants: topk, jumprelu, batch_topk.
        chip: whose peaks are meant; empty for those of the device, as far as they are known.
    """

    d: int = 4096
    widths: tuple[int, ...] = (65_536, 262_144)
    k: int = 32
    aux_k: int = 32
    batch: int = 8192
    steps: int = 5
    rounds: int = 5
    dtype: str = "bfloat16"
    variants: tuple[str, ...] = ("topk", "jumprelu", "batch_topk")
    chip: str = ""
