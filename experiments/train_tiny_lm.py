"""Trains the small language model that jaxinterp ships, on the text that Python carries.

    python experiments/train_tiny_lm.py --out jaxinterp/encoders/assets/tiny

About 25 minutes on 2 free CPU cores. Expected: validation loss below 1.6 bits per byte on documents
that were held out by name. A run that is stopped resumes where it was.
"""

import dataclasses
import functools
import math
import platform
import time
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from configs.tiny_lm import TinyLM
from jaxinterp import data, files, tokenize
from jaxinterp.checkpoint import Checkpoints
from jaxinterp.encoders import causal, hf


def loss(params, config, tokens, mask):
    """Sum of the next-token losses in nats, and how many there are."""
    logits, _ = causal.forward(params, config, tokens, mask=mask)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:])
    return (nats * mask[:, 1:]).sum(), mask[:, 1:].sum()


def optimizer(config: TinyLM) -> optax.GradientTransformation:
    """Muon on the maps inside the blocks, Adam on embeddings and norms; warm-up, cosine decay."""

    def matrices(params):
        """Which axes of a stacked map are its input and output; None for what Adam trains."""

        def axes(path, leaf):
            names = [p.key for p in path]
            if names[0] != "layers" or names[-1] != "kernel":
                return None
            if leaf.ndim == 3:
                return optax.contrib.MuonDimensionNumbers(1, 2)
            inner, outer = ((1, 2), 3) if names[2] == "o" else (1, (2, 3))
            return optax.contrib.MuonDimensionNumbers(inner, outer)

        return jax.tree_util.tree_map_with_path(axes, params)

    def schedule(peak):
        return optax.schedules.warmup_cosine_decay_schedule(
            0.0, peak, config.warmup, config.steps, peak * 0.02
        )

    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.contrib.muon(
            schedule(config.learning_rate),
            adam_learning_rate=schedule(config.adam_learning_rate),
            weight_decay=config.weight_decay,
            muon_weight_dimension_numbers=matrices,
        ),
    )


def windows(stream: np.ndarray, bos: int, step: int, config: TinyLM) -> np.ndarray:
    """The batch of one step: random windows of the stream, each started by `bos`."""
    rng = np.random.default_rng((config.seed, step))
    starts = rng.integers(0, len(stream) - config.context, config.batch)
    rows = stream[starts[:, None] + np.arange(config.context - 1)]
    return np.concatenate([np.full((config.batch, 1), bos, np.int32), rows], axis=1)


def bits_per_byte(evaluate, params, rows: data.Rows, n_bytes: int, batch: int = 32) -> float:
    """Cost of the rows' text under the model, each token predicted once."""
    nats = 0.0
    for start in range(0, len(rows.tokens), batch):
        tokens, mask = rows.tokens[start : start + batch], rows.mask[start : start + batch]
        short = batch - len(tokens)
        tokens = np.pad(tokens, ((0, short), (0, 0)))
        mask = np.pad(mask, ((0, short), (0, 0)))
        nats += float(evaluate(params, tokens, mask)[0])
    return nats / math.log(2) / n_bytes


def main(config: TinyLM) -> None:
    out = Path(config.out)
    work = Path(config.work)
    work.mkdir(parents=True, exist_ok=True)
    held_in, held_out = data.split(data.installed_text())
    tokenizer_file = work / "tokenizer.json"
    if not tokenizer_file.exists():
        trained = tokenize.train_bpe((d.text for d in held_in), config.vocab_size)
        trained.backend.save(str(tokenizer_file))
    tokenizer = tokenize.load_tokenizer(work)
    ids = tokenizer.encode_batch([d.text for d in held_in])
    stream = np.concatenate([np.asarray([tokenizer.bos, *i], np.int32) for i in ids])
    validation = data.token_rows(held_out, tokenizer, config.context)
    n_bytes = sum(len(d.text.encode()) for d in held_out)
    print(f"{len(stream):,} training tokens, {n_bytes:,} held-out bytes", flush=True)

    model = config.model()
    key = jax.random.key(config.seed)
    transform = optimizer(config)
    params = causal.init(key, model)
    state = {"params": params, "optimizer": transform.init(params)}
    print(f"{sum(p.size for p in jax.tree.leaves(params)):,} parameters", flush=True)

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state, tokens):
        def mean_loss(params):
            total, count = loss(params, model, tokens, jnp.ones(tokens.shape, bool))
            return total / count

        value, gradient = jax.value_and_grad(mean_loss)(state["params"])
        updates, new = transform.update(gradient, state["optimizer"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "optimizer": new}, value

    evaluate = jax.jit(lambda p, tokens, mask: loss(p, model, tokens, mask))
    few = data.Rows(*(a[:: max(1, len(validation.tokens) // 128)] for a in validation))
    few_bytes = n_bytes * few.mask[:, 1:].sum() / validation.mask[:, 1:].sum()

    with Checkpoints(work / "checkpoints", every=config.save_every) as checkpoints:
        first = 0
        if checkpoints.latest() is not None:
            state, _ = checkpoints.restore(state)
            first = checkpoints.latest()
        began = time.perf_counter()
        for step in range(first, config.steps):
            state, value = train_step(state, windows(stream, tokenizer.bos, step, config))
            done = step + 1
            checkpoints.save(done, state)
            if done % config.report_every == 0 or done == config.steps:
                rate = (
                    (done - first) * config.batch * config.context / (time.perf_counter() - began)
                )
                bits = bits_per_byte(evaluate, state["params"], few, few_bytes)
                print(
                    f"step {done}/{config.steps}  train {float(value):.3f} nats/token  "
                    f"held-out {bits:.3f} bits/byte  {rate:,.0f} tokens/s",
                    flush=True,
                )
    bits = bits_per_byte(evaluate, state["params"], validation, n_bytes)
    hf.save(out, state["params"], model, tokenizer_file)
    facts = {
        "bits_per_byte": round(bits, 4),
        "parameters": sum(p.size for p in jax.tree.leaves(state["params"])),
        "tokens_seen": config.steps * config.batch * (config.context - 1),
        "text_tokens": len(stream),
        "held_out_bytes": n_bytes,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in ("numpy", "scipy", "jax")},
        "config": dataclasses.asdict(config),
    }
    for local in ("out", "work"):
        facts["config"].pop(local)
    files.write_json(out / "training.json", facts)
    files.write_text(out / "README.md", CARD.format(**facts, **facts["config"]))
    print(f"held-out {bits:.4f} bits/byte; written to {out}")


CARD = """\
# tiny: the language model that jaxinterp ships

A decoder-only transformer in the Llama layout: {n_layers} layers, width {d_model}, {n_heads} heads,
gated perceptrons of {d_mlp}, rotary positions over {context} tokens, a byte-level byte-pair
vocabulary of {vocab_size}, tied embedding; {parameters:,} parameters in float32.

- Held-out loss: **{bits_per_byte:.3f} bits per byte** on {held_out_bytes:,} bytes.
- Text: what Python {python} carries, {text_tokens:,} tokens: the topics of the language reference
  and the docstrings of the standard library, numpy {packages[numpy]}, scipy {packages[scipy]} and
  jax {packages[jax]}. A docstring that occurs twice is kept once. The text itself is not shipped.
- Held out: one document in ten, by a hash of its name (`jaxinterp.data.is_held_out`).
- Training: {steps:,} steps of {batch} x {context} tokens ({tokens_seen:,} in all), Muon and Adam,
  seed {seed}.
- Command: `python experiments/train_tiny_lm.py`

It knows technical English of one kind and nothing else: use it to try methods out, not to learn
about language. Some held-out docstrings resemble held-in ones of sister functions, so its loss on
other text is higher. Licence: Apache-2.0.
"""


if __name__ == "__main__":
    main(tyro.cli(TinyLM, description=__doc__))
