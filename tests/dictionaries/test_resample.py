from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.dictionaries import resample
from jaxinterp.dictionaries.base import unit_rows
from jaxinterp.dictionaries.optimizers import optimizer
from jaxinterp.dictionaries.relu import relu
from jaxinterp.dictionaries.scores import mlp, tied
from jaxinterp.dictionaries.topk import topk


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), (64, 8)) + 5.0


def with_dead(one, x, dead):
    """A state in which the given latents have long been silent and can't fire."""
    state = one.init(jax.random.key(0), x)
    params = state.params | {"encoder_bias": state.params["encoder_bias"].at[dead].set(-1e3)}
    silent = state.stats.silent.at[dead].set(10_000)
    return state._replace(params=params, stats=state.stats._replace(silent=silent))


def test_dead_latents_restart_at_rows_with_fresh_optimiser_memory(x):
    dictionary, adam = relu(16, weight=0.1), optimizer("adam", 1e-3)
    one = resample.resampled(dictionary, adam, every=3, until=100, dead_after=1000)
    plain = resample.resampled(dictionary, adam, every=100, until=100, dead_after=1000)
    dead = jnp.array([2, 7, 11])
    state, untouched = with_dead(one, x, dead), with_dead(one, x, dead)
    step, plain_step = jax.jit(one.step), jax.jit(plain.step)
    counts = []
    for _ in range(3):
        state, info = step(state, x)
        untouched, _ = plain_step(untouched, x)
        counts.append(float(info["resampled"]))
    assert counts == [0, 0, 3]
    params = state.params
    directions = x - params["decoder_bias"][None]
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    chosen = (params["decoder"][dead] @ directions.T).argmax(1)
    assert len(set(chosen.tolist())) == 3
    np.testing.assert_allclose(params["decoder"][dead], directions[chosen], atol=1e-5)
    live = np.setdiff1d(np.arange(16), dead)
    norm = jnp.linalg.norm(params["encoder"][live], axis=1).mean()
    np.testing.assert_allclose(params["encoder"][dead], 0.2 * norm * directions[chosen], atol=1e-5)
    np.testing.assert_array_equal(params["encoder_bias"][dead], 0.0)
    np.testing.assert_array_equal(state.stats.silent[dead], 0)
    moments = state.optimizer[0][0]
    for moment, before in ((moments.mu, untouched.optimizer[0][0].mu), (moments.nu, None)):
        for name in ("encoder", "encoder_bias", "decoder"):
            assert not moment[name][dead].any()
            if before:
                np.testing.assert_array_equal(moment[name][live], before[name][live])
                assert moment[name][live].any()
    for name, value in untouched.params.items():
        rows = live if name != "decoder_bias" else slice(None)
        np.testing.assert_array_equal(params[name][rows], value[rows])
    assert int(moments.count) == 3
    state, _ = step(state, x)
    assert (state.stats.silent[dead] == 0).all()  # they fire on the next batch


@pytest.mark.parametrize("name", ["schedule_free", "muon", "sign_momentum", "adam"])
def test_every_optimiser_keeps_the_new_weights(name, x):
    """An iterate or average that still held the old weights would pull the latent back."""
    dictionary = relu(16, weight=0.1)
    made = optimizer(name, 1e-6, clip=1.0, average=0.9 if name == "adam" else None, accumulate=1)
    one = resample.resampled(dictionary, made, every=1, until=2, dead_after=1000)
    dead = jnp.array([2, 7])
    state, _ = jax.jit(one.step)(with_dead(one, x, dead), x)
    np.testing.assert_allclose(
        one.params(state)["encoder"][dead], state.params["encoder"][dead], atol=1e-4
    )
    np.testing.assert_allclose(one.params(state)["encoder_bias"][dead], 0.0, atol=1e-4)


def test_rows_are_drawn_in_proportion_to_the_squared_loss():
    losses = jnp.array([1.0, 2.0, 3.0, 0.0])
    keys = jax.random.split(jax.random.key(0), 20_000)
    first = jax.vmap(lambda key: resample._rows_by_loss(key, losses)[0])(keys)
    share = np.bincount(np.asarray(first), minlength=4) / len(keys)
    np.testing.assert_allclose(share, [1 / 14, 4 / 14, 9 / 14, 0.0], atol=0.015)


def test_more_dead_latents_than_rows_wait_for_the_next_time(x):
    one = resample.resampled(relu(16), optax.sgd(1e-6), every=1, until=9, dead_after=1000)
    state = with_dead(one, x, jnp.arange(10))
    state, info = jax.jit(one.step)(state, x[:4])
    assert float(info["resampled"]) == 4
    assert int((state.stats.silent > 1000).sum()) == 6


@pytest.mark.parametrize(
    ("all_dead", "norm"), [(False, 0.2 * 3.0), (True, 0.2 * (4 * 3.0 + 12 * 1e-3) / 16)]
)
def test_the_norm_of_new_rows_is_that_of_live_latents_and_else_of_all(all_dead, norm, x):
    """Twelve of sixteen latents are dead, or all; only two rows are there for them."""
    one = resample.resampled(relu(16), optax.sgd(0.0), every=1, until=9, dead_after=1000)
    small = jnp.arange(16) >= 4
    state = with_dead(one, x, jnp.flatnonzero(small | all_dead))
    lengths = jnp.where(small, 1e-3, 3.0)[:, None]
    encoder = lengths * unit_rows(state.params["decoder"])
    state = state._replace(params=state.params | {"encoder": encoder})
    state, info = jax.jit(one.step)(state, x[:2])
    assert float(info["resampled"]) == 2
    fresh = jnp.linalg.norm(state.params["encoder"], axis=1)[state.stats.silent == 0]
    np.testing.assert_allclose(jnp.sort(fresh)[:2], norm, rtol=1e-4)


@pytest.mark.parametrize(
    ("dictionary", "message"),
    [
        (topk(16, 2, scores=tied), r"encoder is not there and would have to be \(16, 8\)"),
        (topk(16, 2, scores=partial(mlp, 6)), r"encoder is \(16, 6\) and would have"),
    ],
)
def test_dictionaries_whose_encoders_are_no_directions_are_refused(dictionary, message, x):
    one = resample.resampled(dictionary, optax.sgd(0.1), every=1, until=10)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(one.init, jax.random.key(0), x)


def test_resampling_at_no_step_is_refused():
    with pytest.raises(ValueError, match="every is 0"):
        resample.resampled(relu(16), optax.sgd(0.1), every=0, until=10)
