import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.dictionaries.branching import beside, if_needed


def counted(calls):
    """What is computed here is counted as it runs, and not as it is traced."""

    def f(x, scale):
        jax.debug.callback(lambda: calls.append(1))
        return {"a": x * scale, "b": jnp.sum(x * scale)}

    return f


@pytest.mark.parametrize("needed", [[], [1], [0, 2]])
def test_a_sweep_computes_it_for_all_members_or_for_none(needed):
    calls, members = [], 3
    mask = jnp.zeros(members, bool).at[jnp.array(needed, int)].set(True)
    scale = mask.astype(jnp.float32)  # of members that do not need it, it gives zeros by itself
    x = jnp.arange(4.0)  # one for all

    def direct(needed, x, scale):
        return if_needed(needed, counted(calls), x, scale)

    for form in (jax.jit(jax.vmap(direct, (0, None, 0))), jax.vmap(direct, (0, None, 0))):
        calls.clear()
        got = form(mask, x, scale)
        jax.effects_barrier()
        np.testing.assert_array_equal(got["a"], x[None] * scale[:, None])
        np.testing.assert_array_equal(got["b"], 6 * scale)
        assert bool(calls) == bool(needed)


def test_members_of_members_share_one_branch():
    calls = []

    def run(needed, x):
        return if_needed(needed, counted(calls), x, jnp.ones(()))["b"]

    nested = jax.jit(jax.vmap(jax.vmap(run)))
    x = jnp.ones((2, 3, 4))
    np.testing.assert_array_equal(nested(jnp.zeros((2, 3), bool), x), jnp.zeros((2, 3)))
    jax.effects_barrier()
    assert not calls
    np.testing.assert_array_equal(nested(jnp.ones((2, 3), bool), x), jnp.full((2, 3), 4.0))


def test_outside_of_a_sweep_it_is_a_branch():
    calls = []
    run = jax.jit(lambda needed, x: if_needed(needed, counted(calls), x, 2.0))
    np.testing.assert_array_equal(run(False, jnp.ones(3))["a"], jnp.zeros(3))
    jax.effects_barrier()
    assert not calls
    np.testing.assert_array_equal(run(True, jnp.ones(3))["a"], jnp.full(3, 2.0))
    jax.effects_barrier()
    assert len(calls) == 1


def cube(fixed, learned):
    return jnp.sum(fixed * learned["a"] ** 3)


@pytest.mark.parametrize("compiled", [False, True])
def test_beside_gives_the_gradients_of_both_where_it_is_needed(compiled):
    learned, fixed = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}, jnp.array([1.0, 10.0])

    def loss(learned, needed):
        (learned,), extra = beside(needed, cube, fixed, learned)
        return learned["b"] * learned["a"].sum() + extra**2

    value_and_grad = jax.value_and_grad(loss)
    value_and_grad = jax.jit(value_and_grad) if compiled else value_and_grad
    value, gradient = value_and_grad(learned, jnp.array(True))
    assert float(value) == 9 + 81**2
    np.testing.assert_allclose(gradient["a"], [3 + 2 * 81 * 3, 3 + 2 * 81 * 120])
    assert float(gradient["b"]) == 3
    value, gradient = value_and_grad(learned, jnp.array(False))
    assert float(value) == 9
    np.testing.assert_array_equal(gradient["a"], [3, 3])


def test_beside_keeps_what_is_no_number_away_from_members_that_do_not_need_it():
    def loss(a, needed):
        (learned,), extra = beside(needed, cube, jnp.ones(2), {"a": a})
        return learned["a"].sum() + jnp.where(needed, jnp.log(extra), 0.0)  # infinite slope at 0

    a = jnp.array([[1.0, 2.0], [3.0, 4.0], [1.0, 1.0]])
    gradients = jax.jit(jax.vmap(jax.grad(loss)))(a, jnp.array([True, False, True]))
    expected = [[1 + 3 / 9, 1 + 12 / 9], [1, 1], [1 + 3 / 2, 1 + 3 / 2]]
    np.testing.assert_allclose(gradients, expected, rtol=1e-6)
