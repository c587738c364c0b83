"""The places of the largest numbers, against NumPy's stable sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import selection
from jaxinterp.selection import ascending_places, largest_places

SHAPES = [(256, 8), (1250, 300), (200, 200), (97, 5), (9000, 9)]
SHAPES += [
    pytest.param(*size, marks=pytest.mark.slow) for size in [(448, 28), (1000, 33), (4096, 32)]
]


def expected(scores, k):
    """Places of the k largest, the first of equal ones, in ascending order."""
    order = np.argsort(-np.asarray(scores, np.float64), axis=1, kind="stable")
    return np.sort(order[:, :k], axis=1)


def rows(m, kind):
    x = np.random.default_rng(m).standard_normal((7, m)).astype(np.float32)
    if kind == "tied":
        return np.round(2 * x)
    if kind == "infinite":
        x[:, ::3], x[:, 1::3] = -np.inf, np.inf
        x[0], x[1], x[2, 1:] = -np.inf, np.inf, -np.inf
    if kind == "constant":
        return np.zeros_like(x) + np.arange(-3, 4, dtype=np.float32)[:, None]
    if kind == "wide":  # from 1e-36 to 1e36, of both signs
        return np.sign(x) * (10 ** (12 * np.clip(x, -3, 3))).astype(np.float32)
    return x


@pytest.mark.parametrize(("m", "k"), SHAPES)
@pytest.mark.parametrize("kind", ["plain", "tied", "infinite", "constant", "wide"])
def test_the_largest_and_of_equal_ones_the_first(m, k, kind):
    x = rows(m, kind)
    np.testing.assert_array_equal(largest_places(jnp.asarray(x), k), expected(x, k))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_short_numbers_are_compared_as_they_are(dtype):
    x = jnp.asarray(rows(448, "plain"), dtype)
    np.testing.assert_array_equal(largest_places(x, 30), expected(x, 30))


def test_double_precision_decides_where_single_is_tied():
    with jax.enable_x64(True):
        x = 1 + 1e-12 * np.random.default_rng(0).standard_normal((5, 448))
        np.testing.assert_array_equal(largest_places(jnp.asarray(x), 30), expected(x, 30))


@pytest.mark.parametrize("m", [50, 448])
def test_nan_is_among_the_largest(m):
    x = rows(m, "plain")
    x[:, m - 3] = np.nan
    x[0] = np.nan
    found = np.asarray(largest_places(jnp.asarray(x), 10))
    assert (found == m - 3)[1:].any(1).all()
    np.testing.assert_array_equal(found[0], np.arange(10))


def test_a_batch_of_matrices_and_a_shard_of_one():
    x = np.stack([rows(448, "plain"), rows(448, "tied")])
    many = jax.vmap(lambda x: largest_places(x, 20))(jnp.asarray(x))
    for found, one in zip(many, x, strict=True):
        np.testing.assert_array_equal(found, expected(one, 20))
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    lies = jax.P("data")
    spread = jax.shard_map(
        lambda x: (largest_places(x, 20), ascending_places(x[:, :20])),
        mesh=mesh,
        in_specs=lies,
        out_specs=lies,
    )
    found, order = jax.jit(spread)(jnp.asarray(x[1][:6]))
    np.testing.assert_array_equal(found, expected(x[1][:6], 20))
    np.testing.assert_array_equal(order, np.argsort(x[1][:6, :20], axis=1, kind="stable"))


@pytest.mark.parametrize("m", [1, 28, 256, 257])
@pytest.mark.parametrize("kind", ["plain", "tied", "infinite", "constant"])
def test_ascending_order_is_stable(m, kind):
    x = rows(m, kind)
    found = ascending_places(jnp.asarray(x))
    np.testing.assert_array_equal(found, np.argsort(x, axis=1, kind="stable"))


def test_halving_takes_few_steps_and_ends_at_ties():
    """What all is about: not one step a bit, and no endless loop where numbers are equal."""
    steps = []
    counted = selection.count_true

    def counting(mask, axis):
        jax.debug.callback(lambda: steps.append(1))
        return counted(mask, axis)

    for kind, most in (("plain", 24), ("tied", 60), ("infinite", 60), ("wide", 60)):
        steps.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(selection, "count_true", counting)
            jax.block_until_ready(
                jax.jit(lambda x: selection._bracket(x, 28))(jnp.asarray(rows(448, kind)))
            )
            jax.effects_barrier()
        assert 0 < len(steps) <= most, kind
