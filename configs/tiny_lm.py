"""The small language model that jaxinterp ships.

Command: `python experiments/train_tiny_lm.py`. Expected: held-out loss below 1.6 bits per byte.
"""

from dataclasses import dataclass

from jaxinterp.encoders.causal import CausalConfig, Rotary


@dataclass(frozen=True)
class TinyLM:
    """Shape, data and schedule of the tiny language model.

    Attributes:
        out: folder the finished model is written to, in Hugging Face format.
        work: folder for the tokenizer and checkpoints while training.
        seed: seed of the initial weights and of the batches.
        vocab_size: tokens of the byte-level byte-pair encoding.
        n_layers: blocks.
        d_model: width of the residual stream.
        n_heads: attention heads.
        d_mlp: hidden width of the gated perceptron.
        context: tokens in a row.
        batch: rows in a step.
        steps: optimiser steps.
        warmup: steps over which the rate rises.
        learning_rate: peak rate of Muon, for the maps inside the blocks.
        adam_learning_rate: peak rate of Adam, for embeddings and norms.
        weight_decay: decoupled weight decay.
        report_every: steps between reports.
        save_every: steps between checkpoints.
    """

    out: str = "jaxinterp/encoders/assets/tiny"
    work: str = "runs/tiny_lm"
    seed: int = 0
    vocab_size: int = 4096
    n_layers: int = 6
    d_model: int = 128
    n_heads: int = 4
    d_mlp: int = 352
    context: int = 256
    batch: int = 16
    steps: int = 3600
    warmup: int = 100
    learning_rate: float = 0.02
    adam_learning_rate: float = 0.003
    weight_decay: float = 0.01
    report_every: int = 100
    save_every: int = 250

    def model(self) -> CausalConfig:
        """The encoder config."""
        return CausalConfig(
            vocab_size=self.vocab_size,
            n_layers=self.n_layers,
            d_model=self.d_model,
            n_heads=self.n_heads,
            n_kv_heads=self.n_heads,
            d_head=self.d_model // self.n_heads,
            d_mlp=self.d_mlp,
            context=self.context,
            norm="rms",
            norm_eps=1e-6,
            activation="silu",
            gated=True,
            rotary=Rotary(theta=10_000.0),
        )
