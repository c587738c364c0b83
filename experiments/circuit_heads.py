"""Circuit heads from ten examples: which heads say something that they otherwise never say?

    python experiments/circuit_heads.py
    python experiments/circuit_heads.py --figure circuit_heads.png

The claim (O'Neill & Bui 2024, arXiv 2405.12522): a small sparse autoencoder of attention-head
outputs, trained on 5 to 10 examples with a task and as many without, finds the heads of the task's
circuit by the codes that occur with it only; seconds instead of hours, robust to the dictionary.

Here the circuit is known exactly: a model is written down whose heads solve induction by two
routes, among distractors (`jaxinterp.encoders.planted`). Negatives are the same prompts with one
token changed. Scores are over heads, means over models with their standard errors. `visible` heads
are those of the circuit that act differently at the position that is read. `difference` ranks heads
by how far the means of positives and negatives are apart, which takes no dictionary.

Outcome (72 heads, 12 in the circuit, 9 of them visible; means over 3 models): from 2, 5 or 10 pairs
on, the codes find the visible heads with AUC 1.000, precision 1.00 (5 pairs: 0.90) and recall 1.00,
after a fit of seconds. Heads that do the same with and without the task are not found: AUC of the
whole circuit 0.83. It is robust to the dictionary within limits: penalties from 0.0125 to 0.05 give
the same, 0.1 loses 44 % of the heads, 0.2 more (AUC 0.70). The plain difference of means has AUC
0.99 here without any dictionary: planted heads act so differently that codes have little to add.
Circuits of trained models, on which the paper measured, were not tried.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from configs.circuit_heads import CircuitHeads
from jaxinterp import dictionaries as dl
from jaxinterp.encoders import planted
from jaxinterp.evaluation import head_codes, novel_codes, precision_recall, roc_auc
from jaxinterp.report.figures import Band, bands, save_figure

COLUMNS = ("AUC visible", "AUC circuit", "precision", "recall", "AUC difference", "explained")


def learn(config: CircuitHeads, dictionary: dl.Dictionary):
    """A compiled `rows -> (params, variance explained)`."""
    ours = dl.learner(dictionary, optax.adam(config.rate))

    @jax.jit
    def run(rows: jax.Array):
        state = ours.init(jax.random.key(0), rows)
        state, info = jax.lax.scan(lambda s, _: ours.step(s, rows), state, length=config.steps)
        return state.params, info["variance_explained"][-1]

    return run


def measure(
    config: CircuitHeads, dictionary: dl.Dictionary, train, seed: int, pairs: int
) -> list[float]:
    """The table's numbers of one model."""
    model_key, prompt_key = jax.random.split(jax.random.key(seed))
    model = planted.induction_model(
        model_key, layers=config.layers, heads=config.heads, copies=config.copies
    )
    prompts = planted.induction_prompts(prompt_key, model.encoder.config, pairs)
    outputs = planted.head_outputs(model.encoder, prompts.tokens)
    outputs = outputs / jnp.sqrt(jnp.square(outputs).sum(-1).mean())
    params, explained = train(outputs.reshape(-1, outputs.shape[-1]))
    codes = head_codes(dictionary, params, outputs)
    share = np.asarray(novel_codes(codes, prompts.positive).share())
    decided = precision_recall(share > config.above, model.visible())
    means = [outputs[which].mean(0) for which in (prompts.positive, ~prompts.positive)]
    return [
        roc_auc(share, model.visible()),
        roc_auc(share, model.circuit()),
        decided.precision,
        decided.recall,
        roc_auc(jnp.linalg.norm(means[0] - means[1], axis=-1), model.visible()),
        float(explained),
    ]


def table(config: CircuitHeads, weight: float, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Means over models and their standard errors."""
    dictionary = dl.relu(config.width, weight=weight)
    one = partial(measure, config, dictionary, learn(config, dictionary), pairs=pairs)
    rows = np.array([one(seed) for seed in range(config.seeds)])
    return rows.mean(0), rows.std(0, ddof=1) / config.seeds**0.5


def show(name: str, mean: np.ndarray, error: np.ndarray) -> None:
    cells = [f"{m:8.3f} ±{e:.3f}" for m, e in zip(mean, error, strict=True)]
    print(f"{name:22}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


def main(config: CircuitHeads) -> None:
    total, circuit = config.layers * config.heads, 4 * config.copies
    print(f"{total} heads, {circuit} in the circuit, {3 * config.copies} of them visible")
    print(f"{'':22}" + "".join(f"{name:>16}" for name in COLUMNS))
    found = {pairs: table(config, config.weight, pairs) for pairs in config.pairs}
    for pairs, (mean, error) in found.items():
        show(f"{pairs} pairs", mean, error)
    print(f"{config.pairs[-1]} pairs, other penalties")
    weighed = {config.weight: found[config.pairs[-1]]}
    for weight in config.weights:
        weighed[weight] = table(config, weight, config.pairs[-1])
        show(f"weight {weight}", *weighed[weight])
    if config.figure:
        names = {"AUC, codes": 0, "AUC, difference": 4, "precision": 2, "recall": 3}
        x, rows = zip(*sorted(weighed.items()), strict=True)
        curves = [
            Band(name, x, [mean[at] for mean, _ in rows], [error[at] for _, error in rows])
            for name, at in names.items()
        ]
        figure = bands(curves, x_label="weight of the penalty", y_label="score", logarithmic=True)
        save_figure(figure, config.figure)


if __name__ == "__main__":
    main(tyro.cli(CircuitHeads, description=__doc__))
