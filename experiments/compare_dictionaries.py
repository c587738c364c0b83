"""All dictionaries on the same activations of one model: a table, with intervals over seeds.

    python experiments/compare_dictionaries.py --document experiments/DICTIONARIES.md
    python experiments/compare_dictionaries.py --variants topk relu "archetypal topk"

Every variant of the registry that reads single activations is asked for the same number of active
latents: as its k, or as the L0 that its penalty's weight is steered to. Codes that are not sparse
by design (binary, quantised, predictive, dependency-sparse: few latents, most of them active) stand
with the L0 that they have, and say little beside the others. The settings are one for all and not
tuned for any. One program trains all seeds of a variant, which differ in their first weights and
see the same batches; ITDA has no first weights, so its seeds see the rows in different orders. A
row is kept when it is done; a run that was stopped makes the rows that are missing.

Numbers are of held-out text. `explained`: variance; `cross-entropy`: share of the loss that
replacing the activations by zeros costs and the reconstruction does not; `dead`: share of latents
without activity on the held-out rows. Means over seeds with the half-width of Student's 95 %
interval. `stability`: mean cosine of atoms matched one to one between two seeds, with a jackknife
interval over seeds (random directions of this dimension: see the last row). `seconds`: of
processor, all cores together, to train one dictionary, without compilation; on a busy machine.

What to read from it. At 16 latents pursuits explain most, since their encoder is a search. Training
is short (600 steps of 256 tokens), so a good start counts: dictionaries that begin with activations
(archetypal, ITDA) are ahead of TopK, whose atoms still have a cosine of 0.74 with their random
first ones; that is also why TopK and its kin agree so little over seeds. The stability of ITDA and
of archetypal atoms is that of the activations which they are made of. ReLU's is of another kind:
its atoms share the direction of the mean (cosine 0.35), and shrunk codes explain little.
Mutual Choice is BatchTopK with another loss against disuse, which hardly acts here. Residual vector
quantisation begins with far-off rests as words and moves only those that are chosen: it is not done
after 600 steps of this rate (ten times the rate explains 0.53). In `variational` the unit noise of
all 512 latents takes part in the choice of 16, so the means learn little.
`structured` explains all because at its default weight the low-rank code takes over what latents
should explain: its row says nothing of 16 latents.
"""

import dataclasses
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from configs.compare_dictionaries import CompareDictionaries, Recipe, recipes
from jaxinterp import data, encoders, evaluation, files
from jaxinterp import dictionaries as dl
from jaxinterp.activations.sides import Sides, two_sides
from jaxinterp.dictionaries import registry
from jaxinterp.evaluation import stability

COLUMNS = ("explained", "cross-entropy", "l0", "dead")
NOT_OF_A_ROW = ("variants", "out", "document")


def dictionary_of(recipe: Recipe, **more: Any) -> dl.Dictionary:
    """The variant of a row."""
    return registry.build(recipe.variant, recipe.options | more)


def learner_of(config: CompareDictionaries, recipe: Recipe, d: int) -> dl.Learner:
    """How one dictionary of a row learns."""
    rate = dl.learning_rate(config.learning_rate, steps=config.steps, warmup=config.steps // 20)
    adam = dl.optimizer("adam", rate, clip=1.0)
    adam = optax.chain(adam, dl.scale_by_name({"threshold": 10.0}))  # JumpReLU's move slowly
    if recipe.learned == "to an L0":
        steered = partial(dictionary_of, recipe)
        return dl.target_l0(lambda w: steered(weight=w), adam, config.k, ramp=config.steps // 4)
    if recipe.learned == "by growing":
        return dl.grow(dictionary_of(recipe), config.itda_error * d)  # mean square length: d
    learner = dl.learner(dictionary_of(recipe), adam)
    if recipe.learned == "in groups":
        return dl.shrinking(learner, recipe.options["groups"], config.group_lasso)
    return learner


def train(
    config: CompareDictionaries, learner: dl.Learner, seeds: list[int], order: int, x: jax.Array
) -> tuple[Any, float]:
    """Parameters of several seeds, with a leading axis, and processor seconds for each."""
    many = dl.sweep(lambda _: learner, jnp.asarray(seeds))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(config.seed), jnp.array(seeds))
    state = jax.jit(many.init)(keys, x[:8192])
    how = {"steps": config.steps, "batch": config.batch, "seed": config.seed + order}
    begun = first = 0.0
    for at in dl.fit(many, state, x, **how, chunk=max(config.steps // 8, 1)):
        state = jax.block_until_ready(at.state)
        if not begun:  # what was compiled is behind us
            begun, first = time.process_time(), at.step
    spent = (time.process_time() - begun) * config.steps / (config.steps - first)
    return jax.jit(many.params)(state), spent / len(seeds)


def row(
    config: CompareDictionaries, recipe: Recipe, encoder: encoders.Encoder, read: Sides
) -> dict[str, Any]:
    """Trains all seeds of a variant, and measures each."""
    x = jnp.asarray(read.held_in)
    learner, seeds = learner_of(config, recipe, x.shape[1]), list(range(config.seeds))
    if recipe.learned == "by growing":
        runs = [train(config, learner, [seed], seed, x) for seed in seeds]
        params = jax.tree.map(lambda *own: jnp.concatenate(own), *(run[0] for run in runs))
        seconds = float(np.mean([run[1] for run in runs]))
    else:
        params, seconds = train(config, learner, seeds, 0, x)
    dictionary, per_seed = dictionary_of(recipe), []
    on_raw = dl.normalised(dictionary, read.scale)
    text = data.Rows(*(column[: config.spliced_rows] for column in read.text))
    splice = partial(evaluation.cross_entropy, batch=config.spliced_rows)
    for seed in seeds:
        own = dl.member(params, seed)
        fit, used = evaluation.measure(dictionary, own, [read.held_out])
        spliced = splice(encoder, on_raw, own, text, config.site, read.mean)
        per_seed.append((fit.variance_explained(), spliced.recovered(), used.l0(), used.dead()))
    found = dict(zip(COLUMNS, np.array(per_seed).T.tolist(), strict=True))
    agreed = None
    if recipe.variant != "dependency_sparse":  # whose atoms write to a hidden layer
        agreed = stability.agreement(np.asarray(params["decoder"])).matched.tolist()
    return found | {"agreement": agreed, "seconds": seconds}


def line(name: str, found: dict[str, Any]) -> str:
    """A row of the table, for a person."""
    own = [stability.over_seeds(np.asarray(found[column])) for column in COLUMNS]
    if found["agreement"] is not None:
        own.append(stability.interval(np.asarray(found["agreement"])))
    cells = [f"{one.mean:.3f} ± {one.high - one.mean:.3f}" for one in own]
    cells += ["-"] * (len(COLUMNS) + 1 - len(cells)) + [f"{found['seconds']:.1f}"]
    return f"| {name} | " + " | ".join(cells) + " |"


def main(config: CompareDictionaries) -> None:
    """Makes the rows that are missing, then the table of all that there are."""
    out, found, lines = Path(config.out), {}, []
    settings = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    settings = {name: settings[name] for name in settings if name not in NOT_OF_A_ROW}
    encoder, documents = encoders.load(config.model), data.load_text(config.text)
    how = {"context": config.context, "rows": config.rows, "seed": config.seed}
    read = two_sides(encoder, documents, config.site, **how)
    table = recipes(config, read.held_in.shape[1])
    unknown = sorted(set(config.variants) - set(table))
    if unknown:
        raise ValueError(f"no recipe for {unknown}; known: {sorted(table)}")
    for name in config.variants or table:
        path = out / "rows" / f"{name.replace(' ', '_')}.json"
        made_by = {"settings": settings, "recipe": list(table[name])}
        kept = files.read_json(path) if path.is_file() else {}
        if any(kept.get(key) != value for key, value in made_by.items()):
            kept = made_by | row(config, table[name], encoder, read)
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(path, kept)
        found[name] = kept
        lines.append(line(name, kept))
        print(lines[-1], flush=True)
    drawn = np.random.default_rng(0).normal(size=(config.seeds, config.width, read.mean.size))
    chance = stability.interval(stability.agreement(drawn.astype(np.float32)).matched)
    lines.append(f"| random directions | - | - | - | - | {chance.mean:.3f} | - |")
    files.write_json(out / "table.json", found)
    head = "| | " + " | ".join((*COLUMNS, "stability", "seconds")) + " |\n|---|" + "---:|" * 6
    written = "\n".join((head, *lines)) + "\n"
    files.write_text(out / "table.md", written)
    if config.document:
        told = ", ".join(f"{name} {value}" for name, value in settings.items())
        files.write_text(config.document, f"# {__doc__}\n{written}\nSettings: {told}.\n")


if __name__ == "__main__":
    main(tyro.cli(CompareDictionaries, description=__doc__))
