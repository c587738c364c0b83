"""Which dictionaries find features that are known? A table, with intervals over seeds.

    python experiments/recovery.py
    python experiments/recovery.py --trees 12 --correlation 0.2 --exponent 1
    python experiments/recovery.py --width 512 --variants topk "topk, no revival"   # dead latents

All dictionaries of a variant see the same batches and differ in their first weights only. Every
variant is given the mean number of active features: as its k, or as the L0 that its penalty's
weight is steered to. Numbers are means over seeds with the half-width of Student's 95 % interval.
`found`: share of the features that are not rare whose matched atom has a cosine above 0.9. `cosine`
and `F1` are means over these features, `shrinkage` over those found, `unique` the share of features
that are some latent's nearest, `dead` the latents without activity on the test rows.

Outcome (defaults, 5 seeds; `found` and `shrinkage`):

    abs_topk          0.992 ±0.000    0.094
    multi_topk        0.988 ±0.004    0.095
    group_max         0.966 ±0.006    0.106
    topk              0.966 ±0.006    0.076
    decaying_topk     0.956 ±0.013    0.076
    topk, no revival  0.890 ±0.008    0.075
    gated             0.891 ±0.011    0.115
    batch_topk        0.886 ±0.018    0.104
    relu              0.872 ±0.014    0.496
    jumprelu          0.843 ±0.017    0.095
    matryoshka        0.827 ±0.032    0.105
    p_anneal          0.822 ±0.023    0.161

TopK and its kin find most, and reviving dead latents is what makes the difference. The L1 penalty
halves the codes; gates, thresholds and a falling p undo most of that. `group_max` has 8 groups,
since 5 do not divide its width, so 7.6 active latents where the others have 5, and an F1 of 0.56
where TopK's kin have 0.78 to 0.84.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from scipy import stats

from configs.recovery import Recovery
from jaxinterp import dictionaries as dl
from jaxinterp.activations import synthetic
from jaxinterp.dictionaries import metrics
from jaxinterp.evaluation import recovery as truth_metrics

Recipe = tuple[dl.Dictionary, dl.Learner]
COLUMNS = ("found", "cosine", "F1", "shrinkage", "unique", "L0", "explained", "dead")


def recipes(config: Recovery) -> dict[str, Callable[[], Recipe]]:
    """What is compared: the dictionary, whose `encode` is tested, and how it learns."""
    width, k, quiet = config.width, round(config.active), {"dead_after": 50 * config.batch}
    rate = dl.learning_rate(config.rate, steps=config.steps, warmup=100, decay="linear")
    adam = partial(dl.optimizer, "adam", rate, clip=1.0)

    def counted(variant: Callable[..., dl.Dictionary], *args, **options) -> Callable[[], Recipe]:
        def make() -> Recipe:
            dictionary = variant(*args, **quiet, **options)
            return dictionary, dl.learner(dictionary, adam())

        return make

    def steered(variant: Callable[..., dl.Dictionary], **options) -> Callable[[], Recipe]:
        def make() -> Recipe:
            weighed = lambda weight: variant(width, weight=weight, **quiet, **options)  # noqa: E731
            return weighed(1.0), dl.target_l0(weighed, adam(), config.active)

        return make

    nested = [width // 8, width // 4, width // 2, width]
    groups = next(n for n in range(k, width + 1) if width % n == 0)
    anneal = {"anneal_from": config.steps // 4, "anneal_until": config.steps * 3 // 4}
    return {
        "relu": steered(dl.relu),
        "p_anneal": steered(dl.p_anneal, **anneal),
        "gated": steered(dl.gated),
        "jumprelu": steered(dl.jumprelu),
        "topk": counted(dl.topk, width, k),
        "topk, no revival": counted(dl.topk, width, k, aux_weight=0.0),
        "multi_topk": counted(dl.multi_topk, width, k),
        "decaying_topk": counted(
            dl.decaying_topk, width, k, first_k=4 * k, decay_steps=config.steps // 2
        ),
        "abs_topk": counted(dl.abs_topk, width, k),
        "group_max": counted(dl.group_max, width, groups),
        "batch_topk": counted(dl.batch_topk, width, config.active),
        "matryoshka": counted(
            dl.matryoshka, partial(dl.batch_topk, width=width, k=config.active), nested
        ),
    }


def train(config: Recovery, world: synthetic.Truth, scale: jax.Array, learner: dl.Learner):
    """Parameters of all seeds, with a leading axis."""
    many = dl.sweep(lambda _: learner, jnp.arange(config.seeds))

    @jax.jit
    def run(key: jax.Array):
        start, sample, draws = jax.random.split(key, 3)

        def rows(key: jax.Array, n: int) -> jax.Array:
            return synthetic.draw(world, key, n).x * scale

        state = many.init(jax.random.split(start, config.seeds), rows(sample, 4096))
        keys = jax.random.split(draws, config.steps)
        state, _ = jax.lax.scan(lambda s, key: many.step(s, rows(key, config.batch)), state, keys)
        return many.params(state)

    return run(jax.random.key(1))


def measure(
    config: Recovery,
    world: synthetic.Truth,
    test: synthetic.Labelled,
    dictionary: dl.Dictionary,
    params,
) -> list[float]:
    """The table's numbers of one dictionary."""
    codes = jax.jit(dictionary.encode)(params, test.x)
    explained = metrics.fit(test.x, dictionary.decode(params, codes)).variance_explained()
    dense = dl.densify(codes, config.width) if isinstance(codes, dl.Codes) else codes
    decoder = params["decoder"]
    cosines = truth_metrics.cosines(decoder, world.atoms)
    match = truth_metrics.match_atoms(jnp.abs(cosines) if (dense < 0).any() else cosines)
    norms = jnp.linalg.norm(decoder, axis=1)
    agreement = truth_metrics.agree(dense, test.sizes, match.latent, norms)
    result = truth_metrics.recovery(match, agreement)
    asked = np.asarray(world.frequency) * config.steps * config.batch >= config.rare
    found = result.cosine > config.found
    return [
        found[asked].mean(),
        result.cosine[asked].mean(),
        result.f1[asked].mean(),
        result.shrinkage[asked & found].mean() if (asked & found).any() else np.nan,
        match.uniqueness,
        float((dense != 0).sum(1).mean()),
        float(explained),
        float((dense == 0).all(0).mean()),
    ]


def main(config: Recovery) -> None:
    world = synthetic.invent(
        jax.random.key(0),
        config.features,
        config.d,
        active=config.active,
        exponent=config.exponent,
        trees=config.trees,
        correlation=config.correlation,
        noise=config.noise,
    )
    test = jax.jit(synthetic.draw, static_argnums=2)(world, jax.random.key(2), config.test)
    scale = 1 / jnp.sqrt(jnp.square(test.x).mean())  # unit mean square in each coordinate
    test = jax.tree.map(lambda a: a * scale, test)
    print(
        f"{config.features} features in {config.d} dimensions, {config.active} active, width ",
        end="",
    )
    print(f"{config.width}, {config.steps * config.batch:,} rows, {config.seeds} seeds")
    print(f"{'':18}" + "".join(f"{name:>14}" for name in COLUMNS))
    student = stats.t.ppf(0.975, config.seeds - 1) / np.sqrt(config.seeds)
    for name, recipe in recipes(config).items():
        if config.variants and name not in config.variants:
            continue
        dictionary, learner = recipe()
        params = train(config, world, scale, learner)
        table = np.array(
            [
                measure(config, world, test, dictionary, dl.member(params, seed))
                for seed in range(config.seeds)
            ]
        )
        half = student * table.std(0, ddof=1)
        cells = [f"{m:8.3f} ±{h:.3f}" for m, h in zip(table.mean(0), half, strict=True)]
        print(f"{name:18}" + "".join(f"{cell:>14}" for cell in cells), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Recovery, description=__doc__))
