"""The frontier of sparsity and variance explained: one sweep, one program, for each variant.

    python experiments/sweep_dictionaries.py
    python experiments/sweep_dictionaries.py --variants topk --l0 4 8 16 32 --seeds 4

Claim: asked for an L0, all three variants have it on held-out text within 5 %; at equal L0, TopK
and JumpReLU explain more variance than ReLU with an L1 penalty, which shrinks its codes. Every
member (an L0 and a seed) reads the same batches; a member that diverges stops alone. A sweep that
was stopped goes on where it was.

Outcome, at L0 8, 16, 32 and 64:

    TopK      0.739  0.785  0.834  0.889
    JumpReLU  0.600  0.674  0.761  0.867
    ReLU      0.390  0.568  0.689  0.793

which is the order claimed. Held-out L0 was within 6.5 % (JumpReLU) and 7.3 % (ReLU) of what was
asked, not 5. With `--steps 3000` it was within 4.9 % and 5.4 %, and they explained 0.704 to 0.917
and 0.628 to 0.874. The controller is not what misses: on held-in text ReLU's L0 was within 1.5 %
after 1,200 steps (one seed); the other documents activate 4 to 7 % fewer latents, at no less
variance explained.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from configs.sweep_dictionaries import SweepDictionaries
from jaxinterp import data, encoders, files, logging
from jaxinterp.activations import harvest, moments, normalise
from jaxinterp.checkpoint import Checkpoints
from jaxinterp.dictionaries import (
    Dictionary,
    Learner,
    fit,
    jumprelu,
    learner,
    learning_rate,
    metrics,
    optimizer,
    relu,
    run,
    scale_by_name,
    sweep,
    target_l0,
    topk_of,
)
from jaxinterp.dictionaries.run import means
from jaxinterp.report import Band, bands, save_figure
from jaxinterp.report.terminal import progress, training_note


def activations(config: SweepDictionaries) -> tuple[jax.Array, jax.Array]:
    """Rows of held-in and held-out text, scaled alike to a mean norm of sqrt(d)."""
    encoder, found = encoders.load(config.model), []
    sides = data.split(data.load_text(config.text))
    for documents, count in zip(sides, (config.rows, config.rows // 5), strict=True):
        rows = data.token_rows(documents, encoder.tokenizer, config.context)
        order = np.random.default_rng(config.seed).permutation(len(rows.tokens))[:count]
        parts = harvest(encoder, rows, (config.site,), order=order)
        found.append(np.concatenate([part.sites[config.site] for part in parts]))
    scale = normalise.mean_norm(moments.coordinate_moments(found[0]))
    held_in, held_out = (jnp.asarray(normalise.apply(scale, rows)) for rows in found)
    return held_in, held_out


def family(config: SweepDictionaries, variant: str) -> tuple[Callable, Callable]:
    """The learner of a member, and its dictionary for measuring, from its numbers."""
    rate = learning_rate(config.learning_rate, steps=config.steps, warmup=config.steps // 20)
    adam = optax.chain(optimizer("adam", rate), scale_by_name({"threshold": 10.0}))

    def dictionary(h: Any, weight: float | jax.Array = 1.0) -> Dictionary:
        if variant == "topk":
            return topk_of(config.width, h["l0"], largest_k=max(config.l0))
        return {"relu": relu, "jumprelu": jumprelu}[variant](config.width, weight=weight)

    def make(h: Any) -> Learner:
        if variant == "topk":
            return learner(dictionary(h), adam)
        return target_l0(partial(dictionary, h), adam, h["l0"])

    return make, dictionary


def train(
    config: SweepDictionaries, variant: str, members: dict, held_in: jax.Array, folder: Path
) -> tuple[Learner, Any]:
    """The sweep of one variant, with checkpoints and a log."""
    many = sweep(family(config, variant)[0], members)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(config.seed), members["seed"])
    state = jax.jit(many.init)(keys, held_in[:8192])

    def go(state: Any, position: Any) -> Any:
        del position
        seed, batch = config.seed, config.batch
        return fit(many, state, held_in, steps=config.steps, batch=batch, seed=seed)

    log = partial(logging.jsonl, folder / "training.jsonl")
    settings = dataclasses.asdict(config) | {"variants": variant}
    with (
        Checkpoints(folder / "checkpoints", keep=1, config=settings) as checkpoints,
        progress(f"sweep {variant}", config.steps, unit="steps") as advance,
    ):
        done = 0
        for at in run(go, state, checkpoints, trackers=[lambda step: log(at=step)]):
            advance(at.step - done, training_note(means(at.info)))
            state, done = at.state, at.step
    return many, state


def measure(dictionary: Callable, params: Any, members: dict, held_out: jax.Array) -> dict:
    """Metrics of every member on held-out rows."""

    def one(arguments: tuple[Any, dict]) -> dict[str, jax.Array]:
        params, h = arguments
        codes = dictionary(h).encode(params, held_out)
        x_hat = dictionary(h).decode(params, codes)
        used = metrics.usage(codes, dictionary(h).width).metrics()
        return metrics.fit(held_out, x_hat).metrics() | used

    return jax.tree.map(np.asarray, jax.jit(partial(jax.lax.map, one))((params, members)))


def main(config: SweepDictionaries) -> None:
    """Harvest, sweep every variant, measure, draw."""
    held_in, held_out = activations(config)
    asked = np.repeat(config.l0, config.seeds)
    members = {"l0": jnp.asarray(asked), "seed": jnp.tile(jnp.arange(config.seeds), len(config.l0))}
    curves, table, out = [], {}, Path(config.out)
    for variant in config.variants:
        many, state = train(config, variant, members, held_in, out / variant)
        found = measure(family(config, variant)[1], many.params(state), members, held_out)
        table[variant] = {name: values.tolist() for name, values in found.items()} | {
            "asked": asked.tolist(),
            "stopped_at": np.asarray(state.stopped_at).tolist(),
        }
        explained = found["variance_explained"].reshape(len(config.l0), -1)
        error = explained.std(1, ddof=min(1, config.seeds - 1)) / np.sqrt(config.seeds)
        curves.append(Band(variant, list(config.l0), explained.mean(1).tolist(), error.tolist()))
        off = np.abs(found["l0"] / asked - 1).max()
        shown = "  ".join(f"{v:.3f}" for v in explained.mean(1))
        print(f"{variant:9s} explained {shown}; L0 within {off:.1%} of what was asked")
    files.write_json(out / "sweep.json", table)
    labels = {"x_label": "active latents per token (L0)", "y_label": "variance explained"}
    save_figure(bands(curves, logarithmic=True, **labels), out / "frontier.png")
    print(f"written: {out / 'sweep.json'}, {out / 'frontier.png'}")


if __name__ == "__main__":
    main(tyro.cli(SweepDictionaries, description=__doc__))
