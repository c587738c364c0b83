"""All dictionaries on the same activations of one model: a table, with intervals over seeds.

    python experiments/compare_dictionaries.py
    python experiments/compare_dictionaries.py --variants topk relu "archetypal topk"

Every variant of the registry that reads single activations is asked for the same number of active
latents: as its k, or as the L0 that its penalty's weight is steered to. Codes that are not sparse
by design (binary, quantised, predictive, dependency-sparse) stand with the L0 that they have, and
say little beside the others. One program trains all seeds of a variant on the same batches. A row
is written when it is done; a run that was stopped makes the rows that are missing.

Numbers are of held-out text. Means over seeds with Student's 95 % interval; stability is the mean
cosine of atoms matched one to one between two seeds, with a jackknife interval over seeds
(`evaluation.stability`); `dead` counts latents without activity on the held-out rows; `seconds`
are for one dictionary, without compilation. Recipes have their default settings, not tuned ones.

Outcome: see the table that it writes, `table.md` in the folder `out`.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from scipy import stats

from configs.compare_dictionaries import CompareDictionaries
from jaxinterp import data, encoders, files
from jaxinterp import dictionaries as dl
from jaxinterp.activations.sides import Sides, two_sides
from jaxinterp.dictionaries import metrics, registry
from jaxinterp.dictionaries.itda import grow
from jaxinterp.evaluation import behaviour, stability

COLUMNS = ("explained", "cross-entropy", "l0", "dead")


class Recipe(NamedTuple):
    """How a row of the table is made.

    Attributes:
        variant: its name in the registry.
        options: as a file would hold them.
        learn: `(make, adam) -> Learner`, where `make(**more)` builds the dictionary.
    """

    variant: str
    options: dict[str, Any]
    learn: Callable[..., dl.Learner]


def recipes(config: CompareDictionaries, d: int) -> dict[str, Recipe]:
    """The rows of the table by name."""
    k, width, steps = config.k, config.width, config.steps
    few = max(width // 16, 4)

    def plain(make: Callable, adam: Any) -> dl.Learner:
        return dl.learner(make(), adam)

    def steered(make: Callable, adam: Any) -> dl.Learner:
        return dl.target_l0(lambda weight: make(weight=weight), adam, k, ramp=steps // 4)

    def grown(make: Callable, adam: Any) -> dl.Learner:
        return grow(make(), 0.3 * d)  # rows have a mean square norm of d

    def counted(variant: str, **options: Any) -> Recipe:
        return Recipe(variant, {"k": k} | options, plain)

    def penalised(variant: str, **options: Any) -> Recipe:
        return Recipe(variant, options, steered)

    anneal = {"anneal_from": steps // 4, "anneal_until": steps * 3 // 4}
    archetypal = {"part": "archetypal", "candidates": width}
    prefixes, ranks = [width // 8, width // 4, width // 2, width], [min(width, d), d // 4, d // 4]
    return {
        "relu": penalised("relu"),
        "p_anneal": penalised("p_anneal", **anneal),
        "gated": penalised("gated"),
        "jumprelu": penalised("jumprelu", bandwidth=0.2),
        "topk": counted("topk"),
        "abs_topk": counted("abs_topk"),
        "multi_topk": counted("multi_topk"),
        "decaying_topk": counted("decaying_topk", first_k=4 * k, decay_steps=steps // 2),
        "group_max": counted("group_max"),
        "batch_topk": counted("batch_topk"),
        "matryoshka": counted("matryoshka", recipe="batch_topk", prefixes=prefixes),
        "row_normalised": counted("row_normalised", recipe="topk"),
        "mutual_choice": counted("mutual_choice"),
        "feature_choice": counted("feature_choice", choose_from=steps // 2),
        "archetypal topk": counted("topk", atoms=archetypal),
        "polynomial": counted("polynomial", recipe="topk", ranks=ranks),
        "structured": penalised("structured", **anneal),
        "variational": counted("variational"),
        "variational_mean": counted("variational_mean"),
        "matching_pursuit": counted("matching_pursuit"),
        "orthogonal_pursuit": counted("orthogonal_pursuit"),
        "itda": counted("itda")._replace(learn=grown),
        "vector_quantised": Recipe("vector_quantised", {"books": k}, plain),
        "binary": Recipe("binary", {"width": few}, plain),
        "latent_quantised": Recipe("latent_quantised", {"width": few}, plain),
        "finite_scalar": Recipe("finite_scalar", {"width": few}, plain),
        "predictive": Recipe("predictive", {"width": few, "groups": [d // 4] * 4}, plain),
        "dependency_sparse": Recipe("dependency_sparse", {"width": few, "hidden": d}, plain),
    }


# Of several activations at a time, or another thing than a dictionary.
ELSEWHERE = {"contrastive", "temporal", "transcoder", "skip_transcoder", "crosscoder"}


def row(
    config: CompareDictionaries, recipe: Recipe, encoder: encoders.Encoder, read: Sides
) -> dict[str, Any]:
    """Trains all seeds of a variant in one program, and measures each."""
    options = {"width": config.width} | recipe.options

    def make(**more: Any) -> dl.Dictionary:
        known = {name: registry.from_json(value) for name, value in options.items()}
        return registry.VARIANTS[recipe.variant](**known, **more)

    rate = dl.learning_rate(config.learning_rate, steps=config.steps, warmup=config.steps // 20)
    adam = dl.optimizer("adam", rate, clip=1.0)
    many = dl.sweep(lambda _: recipe.learn(make, adam), jnp.arange(config.seeds))
    keys = jax.random.split(jax.random.key(config.seed), config.seeds)
    x, held_out = jnp.asarray(read.held_in), jnp.asarray(read.held_out)
    state = jax.jit(many.init)(keys, x[:8192])
    how = {"steps": config.steps, "batch": config.batch, "seed": config.seed}
    begun = first = 0.0
    for at in dl.fit(many, state, x, **how, chunk=max(config.steps // 8, 1)):
        state = jax.block_until_ready(at.state)
        if not begun:  # what was compiled is behind us
            begun, first = time.perf_counter(), at.step
    seconds = (time.perf_counter() - begun) * config.steps / (config.steps - first)
    params, dictionary = jax.jit(many.params)(state), make()

    def measured(one: Any) -> tuple[jax.Array, ...]:
        codes = dictionary.encode(one, held_out)
        fit = metrics.fit(held_out, dictionary.decode(one, codes))
        used = metrics.usage(codes, dictionary.width)
        return fit.variance_explained(), used.l0(), used.dead()

    explained, l0, dead = jax.jit(partial(jax.lax.map, measured))(params)
    text = data.Rows(*(column[: config.spliced_rows] for column in read.text))
    spliced = []
    for seed in range(config.seeds):
        on_raw = dl.fold(dictionary, dl.member(params, seed), read.scale)
        found = behaviour.cross_entropy(
            encoder, *on_raw, text, config.site, read.mean, batch=config.spliced_rows
        )
        spliced.append(found.recovered())
    kept = {"explained": explained, "cross-entropy": spliced, "l0": l0, "dead": dead}
    agreed = None
    if params["decoder"].shape[1:] == (dictionary.width, x.shape[1]):
        agreed = stability.agreement(np.asarray(params["decoder"])).matched.tolist()
    per_seed = {name: np.asarray(values, np.float64).tolist() for name, values in kept.items()}
    return per_seed | {"agreement": agreed, "seconds": seconds / config.seeds}


def cells(found: dict[str, Any]) -> list[str]:
    """A row of the table, for a person."""
    shown = []
    for name in COLUMNS:
        values = np.asarray(found[name])
        half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
        shown.append(f"{values.mean():.3f} ± {half:.3f}")
    agreed = "-"
    if found["agreement"] is not None and len(found["agreement"]) > 2:
        interval = stability.interval(np.asarray(found["agreement"]))
        agreed = f"{interval.mean:.3f} ({interval.low:.3f} .. {interval.high:.3f})"
    return [*shown, agreed, f"{found['seconds']:.1f}"]


def main(config: CompareDictionaries) -> None:
    """Makes the rows that are missing, then the table of all that there are."""
    out = Path(config.out)
    # The model is spliced once for each seed: compile that once for a variant.
    jax.config.update("jax_compilation_cache_dir", str(out / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    settings = dataclasses.asdict(config) | {"variants": (), "out": ""}
    settings = {name: list(v) if isinstance(v, tuple) else v for name, v in settings.items()}
    encoder, documents = encoders.load(config.model), data.load_text(config.text)
    how = {"context": config.context, "rows": config.rows, "seed": config.seed}
    read = two_sides(encoder, documents, config.site, **how)
    table = recipes(config, read.held_in.shape[1])
    unknown = sorted(set(config.variants) - set(table))
    if unknown:
        raise ValueError(f"no recipe for {unknown}; known: {sorted(table)}")
    left = set(registry.VARIANTS) - {r.variant for r in table.values()} - ELSEWHERE
    left = sorted(name for name in left if "coder" not in name and "cross_layer" not in name)
    if left:
        print(f"variants without a recipe here: {', '.join(left)}")
    lines = [
        "| | " + " | ".join((*COLUMNS, "stability", "seconds")) + " |",
        "|---|" + "---:|" * (len(COLUMNS) + 2),
    ]
    found = {}
    for name in config.variants or table:
        path = out / "rows" / f"{name.replace(' ', '_')}.json"
        kept = files.read_json(path) if path.is_file() else {}
        if kept.get("settings") != settings or kept.get("options") != table[name].options:
            begun = time.perf_counter()
            kept = {"settings": settings, "options": table[name].options}
            kept |= row(config, table[name], encoder, read) | {"all": time.perf_counter() - begun}
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(path, kept)
        found[name] = kept
        lines.append(f"| {name} | " + " | ".join(cells(kept)) + " |")
        print(lines[-1], f"({kept['all']:.0f} s in all)", flush=True)
    files.write_json(out / "table.json", found)
    (out / "table.md").write_text("\n".join(lines) + "\n")
    print(f"written: {out / 'table.md'}, {out / 'table.json'}")


if __name__ == "__main__":
    main(tyro.cli(CompareDictionaries, description=__doc__))
