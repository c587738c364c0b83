"""A folded dictionary on raw activations is the dictionary on normalised ones: every variant."""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from jaxinterp.activations import normalise
from jaxinterp.activations.moments import moments
from jaxinterp.dictionaries import base, scores, thresholds
from jaxinterp.dictionaries.batch_topk import batch_topk
from jaxinterp.dictionaries.crosscoder import l1_crosscoder
from jaxinterp.dictionaries.fold import fold, normalised, unit_norms
from jaxinterp.dictionaries.gated import gated
from jaxinterp.dictionaries.jumprelu import jumprelu
from jaxinterp.dictionaries.registry import VARIANTS
from jaxinterp.dictionaries.relu import relu
from jaxinterp.dictionaries.topk import topk
from jaxinterp.dictionaries.transcoder import skip_transcoder, transcoder

D, T, SITES, WIDTH, ROWS, DROPPED = 8, 7, 3, 24, 24, 2
KINDS = {
    "centring": normalise.centring,
    "mean_norm": normalise.mean_norm,
    "unit_variance": normalise.unit_variance,
    "standardising": normalise.standardising,
    "whitening": lambda m: normalise.whitening(m, shrinkage=0.05),
    "without_top": lambda m: normalise.without_top(m, DROPPED),
    "composed": lambda m: normalise.compose(
        drop := normalise.without_top(m, DROPPED),
        normalise.standardising(normalise.transformed(m, drop)),
    ),
}
# Arguments that have no default; a variant with another such argument needs a line here.
REQUIRED = {
    "width": WIDTH,
    "k": 4,
    "first_k": 8,
    "decay_steps": 100,
    "layers": SITES,
    "prefixes": (WIDTH // 4, WIDTH),
    "recipe": relu,
    "ranks": (6, 4, 2),
    "groups": (D - 3, 3),
    "hidden": 12,
}
SMALL = {"temporal": {"heads": 2, "bottleneck": 4}}
OTHERS = {
    "relu_tied": functools.partial(relu, scores=scores.tied),
    "relu_uncentred": functools.partial(relu, scores=scores.uncentred),
    "gated_uncentred": functools.partial(gated, scores=scores.uncentred),
    "topk_mlp": functools.partial(topk, scores=functools.partial(scores.mlp, 16)),
    "topk_transcoder": lambda: transcoder(topk, width=WIDTH, k=4),
    "gated_transcoder": lambda: transcoder(gated, width=WIDTH),
    "jumprelu_skip_transcoder": lambda: skip_transcoder(jumprelu, width=WIDTH),
}
ALL = VARIANTS | OTHERS
# Encoders that read the decoder, normalise rows themselves or have parts besides those that fold
# knows, and several layers: all others fold into their weights.
AROUND = {
    *("relu_tied", "temporal", *(name for name in VARIANTS if "cross" in name)),
    *("itda", "matching_pursuit", "orthogonal_pursuit", "row_normalised"),
    *("dependency_sparse", "latent_quantised", "polynomial", "structured", "vector_quantised"),
}
# One of each role that parameters play; the others have the same roles.
FAST = {
    *("topk", "relu_tied", "jumprelu", "gated", "p_anneal", "topk_mlp", "skip_transcoder"),
    *("crosscoder", "cross_layer_topk", "temporal", "matching_pursuit", "vector_quantised"),
}
# What variants read, and write where that is another space.
SHAPES = [((D,), None), ((SITES, D), None), ((D,), (T,)), ((SITES, D), (SITES, T))]


class Case(NamedTuple):
    """A variant, the shapes of a row of its input and target, and its functions, compiled once."""

    dictionary: base.Dictionary
    shape: tuple[int, ...]
    target: tuple[int, ...] | None
    init: Callable
    run: Callable


def fast_first(names):
    ordered = sorted(names, key=lambda name: (name not in FAST, name))
    return [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in ordered]


def build(name):
    parameters = inspect.signature(ALL[name]).parameters.values()
    needed = {p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
    named = {p.name for p in parameters}
    needed |= {"width"} if "recipe" in named and "width" not in named else set()
    return ALL[name](**{p: REQUIRED[p] for p in needed}, **SMALL.get(name, {}))


def runner(dictionary):
    """`(params, x) -> (dense codes, reconstruction)`, jitted."""

    def run(params, x):
        codes = dictionary.encode(params, x)
        latents = base.latents(codes)
        if isinstance(latents, base.Codes):
            latents = base.densify(latents, dictionary.width)
        return latents, dictionary.decode(params, codes)

    return jax.jit(run)


@functools.cache
def case(name):
    """The variant with the first of the shapes that it can start from and encode."""
    dictionary = build(name)
    for shape, target in SHAPES:
        x = jnp.ones((8, *shape))
        try:
            sample = x if target is None else (x, jnp.ones((8, *target)))
            params = jax.eval_shape(dictionary.init, jax.random.key(0), sample)
            jax.eval_shape(dictionary.encode, params, x)
        except Exception:
            continue
        return Case(dictionary, shape, target, jax.jit(dictionary.init), runner(dictionary))
    raise AssertionError(f"{name} starts from none of the shapes {SHAPES}: add its own")


def rows(seed, *shape):
    """Activations with correlated coordinates and a mean several times the spread."""
    rng = np.random.default_rng(seed)
    *leading, d = shape
    mixing = np.linalg.qr(rng.normal(size=(d, d)))[0] * np.linspace(0.5, 2.5, d)
    return (rng.normal(size=(*leading, d)) @ mixing + 3 * rng.normal(size=d)).astype(np.float32)


def wide(map_one, affine, x):
    """One affine, or one for each site, in float64."""
    if isinstance(affine, normalise.Affine):
        return map_one(affine, np.asarray(x, np.float64))
    parts = [map_one(a, np.asarray(x[..., i, :], np.float64)) for i, a in enumerate(affine)]
    return np.stack(parts, -2)


def forward(affine, x):
    return normalise.times(x - affine.centre, affine.matrix)


def back(affine, y):
    return normalise.times(y, affine.inverse) + affine.centre


def raw(kind, seed, shape):
    """Rows that the normalisation brings to `shape`."""
    *sites, d = shape
    return rows(seed, 40, *sites, d + DROPPED * (kind in ("without_top", "composed")))


def affine_for(kind, x, by_site):
    if not by_site:
        return KINDS[kind](moments(x.reshape(-1, x.shape[-1])))
    same = kind in ("without_top", "composed")  # all sites keep one width
    kinds = [kind] * SITES if same else [kind, "standardising", "unit_variance"]
    return [KINDS[k](moments(x[:, i])) for i, k in enumerate(kinds)]


def noisy(params, seed):
    """Parameters as after training: none at its start, thresholds positive, biases mixed."""
    rng = np.random.default_rng(seed)

    def shaken(name, value):
        noise = rng.normal(size=value.shape)
        level = np.minimum(0.05 + 0.2 * np.abs(noise), 0.4)  # leaves some latents active
        levels = {"threshold": level, "log_threshold": np.log(level)}
        return jnp.asarray(np.asarray(levels.get(name, value + 0.3 * noise), value.dtype))

    return {name: shaken(name, value) for name, value in params.items()}


def rows_that_differ(found, expected, tolerance=1e-5):
    """Rows apart by more than a share of the largest entry: a tie may fall the other way."""
    expected = np.asarray(expected, np.float64)
    apart = np.abs(np.asarray(found, np.float64) - expected).reshape(len(expected), -1).max(1)
    return int((apart > tolerance * np.abs(expected).max()).sum())


def compare(name, kind, seed, change, *, by_site=False):
    """Codes and reconstructions of what `change` makes of a dictionary, on raw activations.

    Returns:
        (the dictionary, what became of it).
    """
    made = case(name)
    x = raw(kind, seed, made.shape)
    affine = affine_for(kind, x, by_site)
    y = wide(forward, affine, x).astype(np.float32)
    wanted, target, sample = affine, None, y
    if made.target is not None:
        t = rows(seed + 1, 40, *made.target)
        wanted = target = affine_for("standardising", t, by_site)
        sample = (y, wide(forward, target, t).astype(np.float32))
    params = noisy(made.init(jax.random.key(seed), sample), seed)
    expected, restored = made.run(params, y[:ROWS])
    assert (np.asarray(expected) != 0).any()
    changed, new = change(made.dictionary, params, affine, target)
    run = made.run if changed is made.dictionary else runner(changed)
    codes, found = run(new, x[:ROWS])
    assert rows_that_differ(codes, expected) <= 1
    assert rows_that_differ(found, wide(back, wanted, np.asarray(restored))) <= 1
    return made.dictionary, changed


def folded(dictionary, params, affine, target):
    return fold(dictionary, params, affine, target=target)


@pytest.mark.parametrize("name", fast_first(set(ALL) - AROUND))
@settings(deadline=None, max_examples=6, derandomize=True, phases=[Phase.generate])
@given(kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 10**6))
def test_folded_on_raw_equals_itself_on_normalised(name, kind, seed):
    dictionary, changed = compare(name, kind, seed, folded)
    assert changed is dictionary


def around(dictionary, params, affine, target):
    return normalised(dictionary, affine, target=target), params


@pytest.mark.parametrize("name", fast_first(ALL))
def test_normalising_around_a_dictionary_is_exact_too(name):
    change = folded if name in AROUND else around
    dictionary, changed = compare(name, "whitening", 5, change)
    assert changed is not dictionary


@pytest.mark.parametrize("name", [name for name in ALL if "cross" in name])
@pytest.mark.parametrize("kind", ["centring", "composed"])
def test_every_site_has_its_own_normalisation(name, kind):
    compare(name, kind, 3, folded, by_site=True)


def setting(dictionary, seed=0):
    x = rows(seed, 60, D)
    affine = normalise.whitening(moments(x), shrinkage=0.05)
    y = normalise.apply(affine, x)
    return jnp.asarray(x), affine, y, noisy(dictionary.init(jax.random.key(0), y), seed)


def test_a_tied_encoder_folds_once_it_is_untied():
    tied, untied = relu(WIDTH, scores=scores.tied), relu(WIDTH)
    x, affine, y, params = setting(tied)
    same, new = fold(untied, params | {"encoder": params["decoder"]}, affine)
    assert same is untied
    assert rows_that_differ(untied.encode(new, x), tied.encode(params, y)) == 0


def test_the_bias_of_what_drops_components_holds_their_mean():
    x = rows(1, 500, D)
    statistics = moments(x)
    affine = normalise.without_top(statistics, 3)
    dictionary = topk(WIDTH, 4)
    params = noisy(dictionary.init(jax.random.key(0), normalise.apply(affine, x)), 0)
    _, new = fold(dictionary, params, affine)
    top = np.linalg.eigh(statistics.covariance())[1][:, -3:]
    assert new["decoder"].shape == (WIDTH, D)
    np.testing.assert_allclose(new["decoder"] @ top, 0.0, atol=1e-5)
    np.testing.assert_allclose(new["encoder"] @ top, 0.0, atol=1e-5)
    np.testing.assert_allclose(new["decoder_bias"] @ top, statistics.mean @ top, rtol=1e-4)


def test_folding_keeps_types():
    dictionary = jumprelu(WIDTH)
    _, affine, _, params = setting(dictionary)
    low = params | {"decoder": params["decoder"].astype(jnp.bfloat16)}
    _, new = fold(dictionary, low, affine)
    assert {n: v.dtype for n, v in new.items()} == {n: v.dtype for n, v in low.items()}


def test_a_wrong_number_of_sites_is_refused():
    affine = normalise.identity(D)
    several = normalised(l1_crosscoder(WIDTH), [affine, affine])
    with pytest.raises(ValueError, match="2 normalisations for 3 sites"):
        several.init(jax.random.key(0), jnp.ones((4, SITES, D)))


def test_training_inside_the_normalisation_is_training_on_normalised_rows():
    plain = topk(WIDTH, 4)
    x, affine, y, params = setting(plain)
    inside, key = normalised(plain, affine), jax.random.key(0)
    starts = (jax.jit(plain.init)(key, y), jax.jit(inside.init)(key, x))
    for one, two in zip(*map(jax.tree.leaves, starts), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    stats = base.new_stats(WIDTH)
    expected, _ = jax.jit(plain.loss)(params, stats, y, y, key)
    found, _ = jax.jit(inside.loss)(params, stats, x, x, key)
    assert abs(float(found - expected)) < 1e-5 * float(expected)


LOGARITHMIC = functools.partial(jumprelu, threshold=thresholds.logarithmic)


@pytest.mark.parametrize(
    "make",
    [relu, jumprelu, LOGARITHMIC, gated, functools.partial(relu, scores=scores.uncentred)],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_atoms_of_length_one_and_the_same_reconstruction(make, seed):
    dictionary = make(WIDTH)
    x, _, _, params = setting(dictionary, seed)
    params["decoder"] = params["decoder"].at[5].set(0.0)
    new = unit_norms(dictionary, params)
    lengths = np.linalg.norm(params["decoder"], axis=1)
    lengths[5] = 1.0
    found = np.linalg.norm(new["decoder"], axis=1)
    np.testing.assert_allclose(np.delete(found, 5), 1.0, rtol=1e-5)
    assert found[5] == 0
    run = runner(dictionary)
    (before, restored), (after, same) = run(params, x), run(new, x)
    assert rows_that_differ(after, before * lengths[None]) <= 1
    assert rows_that_differ(same, restored) <= 1


def test_lengths_that_decide_which_latents_are_kept_are_not_moved():
    dictionary = topk(WIDTH, 4)
    x, _, _, params = setting(dictionary)
    fresh = dictionary.init(jax.random.key(0), x)
    np.testing.assert_allclose(
        unit_norms(dictionary, fresh)["decoder"], fresh["decoder"], atol=1e-6
    )
    for refused, message in (
        (dictionary, "keeps the k largest codes"),
        (relu(WIDTH, scores=scores.tied), "reads the decoder"),
        (batch_topk(WIDTH, 4), "one threshold for all"),
    ):
        with pytest.raises(ValueError, match=message):
            unit_norms(refused, setting(refused)[3])
