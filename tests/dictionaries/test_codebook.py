"""Codebooks that are fitted: Lloyd's step, running means, restarts, more than one book."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import parallel
from jaxinterp.checkpoint import Checkpoints
from jaxinterp.dictionaries import train
from jaxinterp.dictionaries.codebook import moving_average
from jaxinterp.dictionaries.run import run
from jaxinterp.dictionaries.sharding import sharded
from jaxinterp.dictionaries.vector_quantised import choose, vector_quantised

D, WIDTH = 6, 24


@cache
def rows(key, n=256):
    """A smooth set of three dimensions in six, away from the origin."""
    inner = jax.random.uniform(jax.random.key(key), (n, 3), minval=-1.0)
    frame = jax.random.normal(jax.random.key(42), (3, D))
    return jnp.tanh(inner @ frame) + 2.0


def test_a_step_without_memory_is_a_step_of_lloyd():
    x = rows(3, 500)
    ours = moving_average(10, decay=0.0, restart_below=0.0)
    state = jax.jit(ours.init)(jax.random.key(1), x)
    words = np.asarray(state.params["decoder"] + state.params["decoder_bias"][None], np.float64)
    chosen = np.square(np.asarray(x)[:, None] - words[None]).sum(-1).argmin(1)
    for word in np.unique(chosen):
        words[word] = np.asarray(x, np.float64)[chosen == word].mean(0)
    state, info = jax.jit(ours.step)(state, x)
    found = state.params["decoder"] + state.params["decoder_bias"][None]
    np.testing.assert_allclose(found, words, atol=1e-5)
    counts = np.bincount(chosen, minlength=10) / 500
    used = np.exp(-(counts * np.log(np.maximum(counts, 1e-9))).sum())
    np.testing.assert_allclose(info["perplexity"], used, rtol=1e-5)


def test_moving_averages_follow_their_recursion_and_dead_words_start_again():
    x, width, decay = rows(3, 60), 4, 0.9
    ours = moving_average(width, decay=decay, restart_below=0.05)
    state = jax.jit(ours.init)(jax.random.key(1), x)
    far = state.params["decoder"].at[2].set(20.0)  # a word that no row will choose
    state = state._replace(params=state.params | {"decoder": far}, sums=far + 0.0)
    n, total = np.full(width, 15.0), 15 * np.asarray(far, np.float64)
    centred = np.asarray(x - state.params["decoder_bias"][None], np.float64)
    step = jax.jit(ours.step)
    for _ in range(28):  # 0.9 ** 29 < 0.05 < 0.9 ** 28
        words = np.asarray(state.params["decoder"], np.float64)
        chosen = np.square(centred[:, None] - words[None]).sum(-1).argmin(1)
        n = decay * n + (1 - decay) * np.bincount(chosen, minlength=width)
        total = decay * total
        np.add.at(total, chosen, (1 - decay) * centred)
        state, info = step(state, x)
        np.testing.assert_allclose(
            state.params["decoder"], total / n[:, None], rtol=1e-3, atol=1e-4
        )
        assert info["restarted"] == 0
    state, info = step(state, x)
    assert info["restarted"] == 1
    again = np.asarray(state.params["decoder"][2])
    assert np.abs(centred - again[None]).max(1).min() < 1e-6  # it is a row now
    assert float(state.rows[2]) == 15
    state, info = step(state, x)
    assert info["dead"] == 0
    assert float(jnp.zeros(width).at[choose(state.params, x, 1)[0][:, 0]].add(1.0)[2]) > 0


@pytest.mark.slow
def test_later_books_code_what_the_earlier_ones_left():
    x = rows(5, 512)
    errors = []
    for books in (1, 4):
        ours = moving_average(8 * books, books=books, decay=0.5)

        @jax.jit
        def go(x, ours=ours):
            state = ours.init(jax.random.key(0), x)
            return jax.lax.scan(lambda s, _: ours.step(s, x), state, length=30)

        state, info = go(x)
        errors.append(float(info["loss"][-1]))
    assert errors[1] < 0.2 * errors[0]
    dictionary, params = vector_quantised(32, books=4), state.params
    codes = dictionary.encode(params, x)
    assert np.array_equal(codes.indices // 8, np.tile(np.arange(4), (512, 1)))
    rest = x - params["decoder_bias"][None]
    for book in range(4):
        own = params["decoder"][8 * book : 8 * book + 8]
        place = jnp.square(rest[:, None] - own[None]).sum(-1).argmin(1)
        np.testing.assert_array_equal(codes.indices[:, book], place + 8 * book)
        rest = rest - own[place]
    np.testing.assert_allclose(dictionary.decode(params, codes), x - rest, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["data=2,model=4", "data=8"])
def test_steps_on_a_mesh_are_those_of_one_device(mesh):
    """Rows of the batch over `data`, words over `model`; three books, a word that restarts."""
    plain = moving_average(WIDTH, books=3, decay=0.5, restart_below=0.5)
    on_mesh = sharded(plain, parallel.make_mesh(mesh))
    state, placed = plain.init(jax.random.key(0), rows(0)), on_mesh.init(jax.random.key(0), rows(0))
    step, mesh_step = jax.jit(plain.step), jax.jit(on_mesh.step)
    restarted = 0.0
    for i in range(4):
        state, info = step(state, rows(20 + i))
        placed, placed_info = mesh_step(placed, on_mesh.place(rows(20 + i)))
        restarted += float(info["restarted"])
        np.testing.assert_allclose(placed_info["loss"], info["loss"], rtol=1e-4)
        np.testing.assert_array_equal(placed_info["restarted"], info["restarted"])
    assert restarted > 0
    for name in ("decoder", "decoder_bias"):
        np.testing.assert_allclose(placed.params[name], state.params[name], atol=1e-5)
    np.testing.assert_allclose(placed.sums, state.sums, rtol=1e-4, atol=1e-4)
    assert placed.params["decoder"].sharding.is_fully_replicated is (mesh == "data=8")


def test_a_fitted_codebook_goes_on_where_it_was_stopped(tmp_path):
    ours, x = moving_average(12, books=2, decay=0.8), rows(0)

    def go(folder, stops):
        for stop in stops:
            state = jax.jit(ours.init)(jax.random.key(0), x)
            with Checkpoints(tmp_path / folder, keep=1, config={}) as checkpoints:
                fit = lambda s, _, stop=stop: train.fit(  # noqa: E731
                    ours, s, x, steps=stop, batch=64, seed=0, chunk=5
                )
                for at in run(fit, state, checkpoints, every=5):
                    state = at.state
        return state

    whole, resumed = go("whole", [15]), go("parts", [5, 15])
    assert int(resumed.step) == 15
    jax.tree.map(np.testing.assert_array_equal, whole.params, resumed.params)


def test_impossible_averages_are_refused():
    with pytest.raises(ValueError, match="decay=1"):
        moving_average(4, decay=1.0)
