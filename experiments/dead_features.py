"""How many latents die: variational dictionaries, and those whose latents choose their tokens.

    python experiments/dead_features.py

Claims. Variational autoencoders were to spread features; the finding of arXiv 2509.22994 is that
more latents die as the weight of the divergence grows, in models that, according to an audit of
their code, drew nothing. Feature Choice (arXiv 2411.02124) leaves no latent dead, where choosing
over rows or over the batch does. Here: the shipped model's activations, no revival unless said;
`dead` are the latents without activity on held-out text. Weights of the divergence are in units of
the unexplained share of variance, so they do not compare with the paper's.

Outcome (defaults; TopK without revival has 0.3 % dead latents and explains 0.743):

    weight of the divergence     1e-5    1e-4    1e-3    1e-2
    nothing drawn    dead       0.002   0.021   0.228   0.373
                     explained  0.744   0.750   0.743   0.677
    drawn            dead       0.608   0.605   0.842   0.004
                     explained  0.643   0.631   0.356   0.014

so both findings hold: death grows with the weight where nothing is drawn, at first at no cost of
reconstruction, and drawing makes it much worse, since the noise of all latents competes for the few
places. The last column is no cure but collapse: all scores are so small that any latent may win.
Feature Choice has exactly none dead with equal budgets, and 2.0 % under Zipf's law, whose rarest
latents have one token in a batch of 512 and thresholds to match; it explains 0.71 with 6.5 latents
a row. But there is nothing to cure here: Mutual Choice has 0.2 % dead (0.727 with 7.2), 0.1 % with
the Zipf loss, and TopK with revival none.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from configs.dead_features import DeadFeatures
from jaxinterp import data, encoders
from jaxinterp import dictionaries as dl
from jaxinterp.activations.sides import two_sides
from jaxinterp.dictionaries import metrics
from jaxinterp.dictionaries.variational import learned_spread


def contestants(config: DeadFeatures) -> Iterator[tuple[str, dl.Dictionary]]:
    """What is compared, one after the other."""
    size = {"width": config.width, "k": config.k, "dead_after": 20 * config.batch}
    silent = size | {"aux_weight": 0.0}
    yield "topk", dl.topk(**silent)
    yield "topk, revival", dl.topk(**size)
    for weight in config.weights:
        yield f"variational, mean, {weight:g}", dl.variational_mean(**silent, weight=weight)
    for weight in config.weights:
        drawn = dl.variational(**silent, weight=weight, spread=learned_spread)
        yield f"variational, drawn, {weight:g}", drawn
    yield "mutual choice", dl.mutual_choice(**silent)
    yield "mutual choice, Zipf loss", dl.mutual_choice(**size)
    for exponent in (0.0, 1.0):
        chosen = dl.feature_choice(**silent, choose_from=config.steps // 4, exponent=exponent)
        yield f"feature choice, exponent {exponent:g}", chosen


def main(config: DeadFeatures) -> None:
    """Harvest, train each, print a line."""
    encoder, documents = encoders.load(config.model), data.load_text(config.text)
    how = {"context": config.context, "rows": config.rows, "seed": config.seed}
    read = two_sides(encoder, documents, config.site, **how)
    x, held_out = jnp.asarray(read.held_in), jnp.asarray(read.held_out)
    print(f"{len(x)} rows to train on, {len(held_out)} held out, {config.width} latents")
    for name, dictionary in contestants(config):
        ours = dl.learner(dictionary, optax.adam(config.learning_rate))
        state = jax.jit(ours.init)(jax.random.key(config.seed), x[:8192])
        training = {"steps": config.steps, "batch": config.batch, "seed": config.seed}
        for at in dl.fit(ours, state, x, **training, chunk=config.steps):
            state = at.state
        codes = jax.jit(dictionary.encode)(ours.params(state), held_out)
        used = metrics.usage(codes, config.width)
        fit = metrics.fit(held_out, dictionary.decode(ours.params(state), codes))
        peak = float(np.max(np.asarray(used.peak)))
        print(
            f"{name:28s} dead {used.dead():.3f}   explained {fit.variance_explained():.3f}   "
            f"L0 {used.l0():5.2f}   largest code {peak:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(DeadFeatures, description=__doc__))
