"""Transcoders of one perceptron of the model: what it computes, as sparse features.

    python experiments/train_transcoder.py
    python experiments/train_transcoder.py --layer 4 --k 32

Trains a transcoder and a skip transcoder from what the perceptron reads (after its norm) to what it
gives, then puts each in the perceptron's place on held-out text. Cross-entropy recovered is 1 for a
perfect stand-in and 0 for zeros in the perceptron's place.

Outcome for the shipped model (layer 2, 99k tokens, 1024 latents of which 16 are active, seed 0),
held out: the transcoder explains 0.609 of the variance and recovers 0.755 of the cross-entropy
(0.729 over the mean in the perceptron's place; 2.841 nats against 2.805), the skip transcoder 0.617
and 0.749 (0.722; 2.842). So at this size the linear path gains a little variance and nothing in the
model's predictions. Not shown: other k, layers or seeds; longer training.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from configs.train_transcoder import TrainTranscoder
from jaxinterp import data, encoders, files
from jaxinterp.activations.harvest import harvest
from jaxinterp.dictionaries import formats, registry, train
from jaxinterp.dictionaries.learner import learner
from jaxinterp.dictionaries.topk import topk
from jaxinterp.evaluation import behaviour, reconstruction


def some_rows(config: TrainTranscoder, documents: list, encoder, tokens: int) -> data.Rows:
    """Random rows of text with about `tokens` tokens."""
    rows = data.token_rows(documents, encoder.tokenizer, config.context)
    order = np.random.default_rng(config.seed).permutation(len(rows.tokens))
    enough = int((np.cumsum(rows.mask[order].sum(1)) < tokens).sum()) + 1
    return data.Rows(*(column[order[:enough]] for column in rows))


def pairs(encoder, rows: data.Rows, read: str, write: str) -> tuple[np.ndarray, np.ndarray]:
    """What the perceptron reads and gives, for every real token but the first of a row."""
    parts = [part.sites for part in harvest(encoder, rows, (read, write))]
    return tuple(np.concatenate([part[site] for part in parts]) for site in (read, write))


def fit(config: TrainTranscoder, dictionary, pair: tuple[jax.Array, jax.Array]):
    """The trained parameters."""
    rate = optax.schedules.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.steps // 20, config.steps
    )
    ours = learner(dictionary, optax.adam(rate))
    state = jax.jit(ours.init)(jax.random.key(config.seed), pair)
    how = {"steps": config.steps, "batch": config.batch, "seed": config.seed, "chunk": 200}
    for at in train.fit(ours, state, pair, **how):
        state = at.state
        shown = {name: float(at.info[name][-1]) for name in ("variance_explained", "dead")}
        if at.step % 1000 == 0:
            print(f"  step {at.step:5d}", "  ".join(f"{n} {v:.3f}" for n, v in shown.items()))
    return ours.params(state)


def main(config: TrainTranscoder) -> None:
    """Harvest, train both, put them into the model, write."""
    encoder = encoders.load(config.model)
    layer = (encoder.config.n_layers - 1) // 2 if config.layer is None else config.layer
    read, write = f"L{layer}.ln2", f"L{layer}.mlp_out"
    held_in, held_out = data.split(data.load_text(config.text))
    pair = pairs(encoder, some_rows(config, held_in, encoder, config.tokens), read, write)
    rows = some_rows(config, held_out, encoder, config.held_out_tokens)
    x, target = pairs(encoder, rows, read, write)
    print(f"{read} -> {write}: {len(pair[0])} tokens to train on, {len(x)} held out")
    width = config.width or 8 * encoder.config.d_model
    options = {"recipe": topk, "width": width, "k": config.k, "dead_after": 50_000}
    mean, result = pair[1].mean(0), {}
    pair = tuple(jnp.asarray(a) for a in pair)
    for name in ("transcoder", "skip_transcoder"):
        dictionary = registry.VARIANTS[name](**options)
        params = fit(config, dictionary, pair)
        batches = ((x[i : i + 4096], target[i : i + 4096]) for i in range(0, len(x), 4096))
        measured = reconstruction.measure(dictionary, params, batches).metrics()
        spliced = behaviour.cross_entropy(encoder, dictionary, params, rows, read, mean, into=write)
        result[name] = {
            "variance_explained": measured["variance_explained"],
            "l0": measured["l0"],
            "dead": measured["dead"],
            "cross_entropy_recovered": spliced.recovered(),
            "recovered_over_mean": spliced.recovered_over_mean(),
            "clean_nats": spliced.clean,
            "spliced_nats": spliced.spliced,
        }
        print(f"{name:16s}", "  ".join(f"{n} {v:.3f}" for n, v in result[name].items()))
        source = {"model": config.model, "site": read, "into": write, "text": config.text}
        formats.save(Path(config.out) / name, name, options, params, source)
    files.write_json(Path(config.out) / "result.json", result)
    print(f"written: {config.out}")


if __name__ == "__main__":
    main(tyro.cli(TrainTranscoder, description=__doc__))
