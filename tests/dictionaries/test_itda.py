"""ITDA: which activations become atoms, labels, a full dictionary, files, resuming, shards."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import dictionaries
from jaxinterp.checkpoint import Checkpoints
from jaxinterp.dictionaries import base, formats
from jaxinterp.dictionaries.itda import EMPTY
from jaxinterp.dictionaries.refitting import orthogonal_codes
from jaxinterp.evaluation import jaccard

D, PLACES, K, BATCH = 32, 200, 8, 40


@cache
def mixtures(seed=0, sparse=True):
    """600 unit rows, each of three of 24 features; or noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(24, D))
    chosen = np.random.default_rng(7).permuted(np.tile(np.arange(24), (600, 1)), axis=1)[:, :3]
    sizes = np.random.default_rng(8).uniform(0.5, 1.5, (600, 3))
    x = np.einsum("nk,nkd->nd", sizes, features[chosen]) if sparse else rng.normal(size=(600, D))
    return jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), jnp.float32)


@cache
def grown(threshold=0.15, places=PLACES):
    """A step that grows, and the function that grows over all rows in order."""
    learner = dictionaries.grow(dictionaries.itda(places, K), threshold)
    step = jax.jit(learner.step)

    @jax.jit
    def over(x):
        batches = x.reshape(-1, BATCH, x.shape[1])
        return jax.lax.scan(learner.step, learner.init(jax.random.key(0), x), batches)

    return learner, step, over


def test_a_lower_threshold_gives_a_larger_dictionary():
    sizes = []
    for threshold in (0.05, 0.15, 0.3):
        state, _ = sized(mixtures(), threshold)
        sizes.append(int(state.count))
        used = np.asarray(state.params["label"]) != EMPTY
        assert used.sum() == state.count
        assert not np.asarray(state.params["decoder"])[~used].any()
    assert PLACES > sizes[0] > sizes[1] > sizes[2] > BATCH
    assert sizes[0] > 1.5 * sizes[2]


@jax.jit
def sized(x, threshold):
    learner = dictionaries.grow(dictionaries.itda(PLACES, K), threshold)
    return jax.lax.scan(learner.step, learner.init(jax.random.key(0), x), x.reshape(-1, BATCH, D))


def test_atoms_are_the_badly_reconstructed_rows_and_bear_their_number():
    """Step by step: a row is added if and only if the dictionary before missed it."""
    learner, step, _ = grown()
    dictionary = dictionaries.itda(PLACES, K)
    x = mixtures()
    state = learner.init(jax.random.key(0), x)
    for at in range(3):
        rows = x[at * BATCH : (at + 1) * BATCH]
        codes = dictionary.encode(state.params, rows)
        left = np.asarray(rows - dictionary.decode(state.params, codes))
        wanted = at * BATCH + np.flatnonzero(np.square(left).sum(1) > 0.15)
        before = int(state.count)
        state, info = step(state, rows)
        assert int(state.count) == before + len(wanted)
        np.testing.assert_array_equal(state.params["label"][before : int(state.count)], wanted)
        np.testing.assert_allclose(info["loss"], np.square(left).sum(1).mean(), rtol=1e-5)
        atoms = state.params["decoder"][before : int(state.count)]
        np.testing.assert_allclose(atoms, x[wanted], atol=1e-6)
        assert at == 0 or 0 < len(wanted) < BATCH


def test_rows_of_one_direction_are_added_once_and_rows_of_zeros_never():
    _, step, _ = grown()
    learner = grown()[0]
    x = mixtures()[:BATCH]
    x = x.at[5].set(2 * x[3]).at[6].set(-x[3]).at[7].set(0.0).at[9].set(x[8] + 1e-2 * x[0])
    labels = 100 + jnp.arange(BATCH)
    state, info = step(learner.init(jax.random.key(0), (x, labels)), (x, labels))
    assert int(state.count) == BATCH - 3
    assert not {105, 106, 107} & set(np.asarray(state.params["label"]).tolist())
    np.testing.assert_allclose(jnp.linalg.norm(state.params["decoder"][:37], axis=1), 1, rtol=1e-6)
    assert bool(jnp.isfinite(info["loss"]))


def test_turning_the_space_changes_no_label_and_other_data_do():
    x = mixtures()
    turn = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (D, D)))[0]
    over = grown()[2]
    label = over(x)[0].params["label"]
    same = over(jnp.matmul(x, turn, precision="highest"))[0].params["label"]
    other, noise = (over(rows)[0].params["label"] for rows in (mixtures(1), mixtures(2, False)))
    assert float(jaccard(label, same)) == 1.0
    assert float(jaccard(label, other)) < 0.6
    assert float(jaccard(label, noise)) < 0.4


def test_a_full_dictionary_goes_on_or_stops_by_choice():
    x = np.asarray(mixtures())
    learner = dictionaries.grow(dictionaries.itda(60, K), 0.05)
    rows = {"steps": 10, "batch": BATCH, "seed": 0, "chunk": 2}

    def run(through):
        state = learner.init(jax.random.key(0), x)
        *_, last = through(dictionaries.fit(learner, state, x, **rows))
        return last

    last = run(lambda progress: progress)
    assert last.step == 10
    assert int(last.state.count) == 60
    assert int(last.state.refused) > 20
    assert last.info["refused"].min() >= 0
    with pytest.raises(
        dictionaries.Stopped, match="full: .* rows up to step 2 found no place"
    ) as e:
        run(dictionaries.until_full)
    assert e.value.step == 2
    assert int(e.value.state.count) == 60
    decoder = e.value.state.params["decoder"]
    np.testing.assert_array_equal(decoder[:BATCH], last.state.params["decoder"][:BATCH])


def test_a_resumed_run_is_the_run(tmp_path):
    """The same bits from a checkpoint in the middle."""
    x = np.asarray(mixtures())
    learner = grown()[0]

    def run(folder, steps):
        state = learner.init(jax.random.key(0), x)
        how = {"batch": BATCH, "seed": 3, "chunk": 3}

        def go(state, position):
            return dictionaries.fit(learner, state, x, steps=steps, **how)

        with Checkpoints(folder, keep=1) as checkpoints:
            *_, last = dictionaries.run(go, state, checkpoints, every=3)
        return last.state

    whole = run(tmp_path / "whole", 9)
    run(tmp_path / "parts", 6)
    parts = run(tmp_path / "parts", 9)
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    assert int(whole.rows) == 9 * BATCH


@pytest.mark.parametrize(
    "options",
    [
        {"pursuit": "orthogonal_codes"},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param(
            {"pursuit": {"part": "matching_codes", "signed": False}}, marks=pytest.mark.slow
        ),
    ],
    ids=["orthogonal", "default", "with a setting"],
)
def test_a_file_gives_back_atoms_and_labels(options, tmp_path):
    x = mixtures()
    params = grown()[2](x)[0].params
    params = params | {"label": params["label"] + 2**30 * (params["label"] > 0)}  # no float holds
    dictionary = dictionaries.build("itda", {"width": PLACES, "k": 4} | options)
    formats.save(tmp_path, "itda", {"width": PLACES, "k": 4} | options, params)
    loaded, again, _ = formats.load(tmp_path)
    for name, value in params.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
        assert again[name].dtype == value.dtype
    codes = loaded.encode(again, x[:20])
    jax.tree.map(np.testing.assert_array_equal, codes, dictionary.encode(params, x[:20]))
    if options == {"pursuit": "orthogonal_codes"}:
        direct = orthogonal_codes(x[:20], params["decoder"], 4)
        assert set(np.asarray(codes.indices[0])) == set(np.asarray(direct.indices[0]))


def test_codes_are_signed_take_any_shape_and_do_not_depend_on_the_batch():
    x = mixtures()[::-1]  # the last ones are no atoms themselves
    params = grown()[2](mixtures())[0].params
    dictionary = dictionaries.itda(PLACES, K)
    encode = jax.jit(dictionary.encode)
    codes = encode(params, x[:12])
    assert bool((codes.values < 0).any())
    assert bool((params["label"][codes.indices[codes.values != 0]] != EMPTY).all())
    cube = encode(params, x[:12].reshape(3, 4, D))
    np.testing.assert_allclose(
        base.densify(cube, PLACES).reshape(12, -1), base.densify(codes, PLACES), atol=1e-5
    )
    beside = encode(params, x[:12].at[6:].mul(100.0))
    np.testing.assert_allclose(beside.values[:6], codes.values[:6], atol=1e-5)
    stats, key = base.new_stats(PLACES), jax.random.key(0)
    loss, info = jax.jit(dictionary.loss)(params, stats, x, x, key)
    left = x - dictionary.decode(params, encode(params, x))
    np.testing.assert_allclose(loss, jnp.square(left).sum(1).mean(), rtol=1e-5)
    assert float(info.metrics["variance_explained"]) > 0.8


def test_a_negative_threshold_is_refused():
    with pytest.raises(ValueError, match=r"threshold=-0\.1: squared errors"):
        dictionaries.grow(dictionaries.itda(PLACES, K), -0.1)
    with pytest.raises(ValueError, match=f"k=0.*width={PLACES}"):
        dictionaries.build("itda", {"width": PLACES, "k": 0})
