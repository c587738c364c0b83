"""Similarities of representations: closed forms, what leaves them as they are, SVD oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.geometry import (
    linear_cka,
    relative_agreement,
    relative_representation,
    svcca,
)


def orthonormal(seed, n, d):
    """Centred orthonormal columns."""
    x = np.random.default_rng(seed).normal(size=(n, d))
    return np.linalg.qr(x - x.mean(0))[0]


def float32(*arrays):
    return [jnp.asarray(a, jnp.float32) for a in arrays]


@pytest.mark.parametrize("measure", [linear_cka, svcca])
def test_turning_moving_and_scaling_change_nothing(measure):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 6)), rng.normal(size=(200, 9))
    y[:, :4] += 2 * x[:, :4]
    turn = np.linalg.qr(rng.normal(size=(9, 9)))[0]
    plain = measure(*float32(x, y))
    other = measure(*float32(x, 300.0 * (y @ turn) + 5.0))
    assert 0.2 < float(plain) < 0.9
    np.testing.assert_allclose(other, plain, atol=1e-4)
    np.testing.assert_allclose(measure(*float32(x, x @ turn[:6, :6] * 0 + x)), 1, atol=1e-5)
    np.testing.assert_allclose(measure(*float32(y, y @ turn)), 1, atol=1e-4)


def test_cka_of_shared_and_private_columns_is_their_weighted_share():
    r"""Orthonormal columns, a of them shared with variances s: $\sum_{shared} s^2 / \sum s^2$."""
    q = orthonormal(1, 100, 12)
    sizes = np.array([3.0, 2.0, 1.0, 1.0, 0.5, 2.0])
    x = q[:, :6] * sizes
    y = np.concatenate([q[:, :3], q[:, 6:9]], 1) * sizes
    energy = sizes**4
    expected = energy[:3].sum() / energy.sum()
    np.testing.assert_allclose(linear_cka(*float32(x, y)), expected, rtol=1e-5)


def test_cka_does_not_overflow():
    x = orthonormal(2, 50, 4)
    np.testing.assert_allclose(linear_cka(*float32(1e15 * x, 1e-15 * x)), 1, rtol=1e-5)


def test_svcca_is_the_mean_cosine_of_the_principal_angles_of_what_is_kept():
    """Two planes at known angles, and directions of so little variance that they are not kept."""
    q = orthonormal(3, 300, 10)
    angles = np.array([0.3, 1.1])
    x = np.concatenate([q[:, :2] * [3.0, 2.0], 1e-2 * q[:, 2:4]], 1)
    turned = q[:, :2] * np.cos(angles) + q[:, 4:6] * np.sin(angles)
    y = np.concatenate([turned * [1.0, 2.0], 1e-2 * q[:, 2:4]], 1)
    found = svcca(*float32(x, y), explained=0.99)
    np.testing.assert_allclose(found, np.cos(angles).mean(), atol=1e-5)
    everything = svcca(*float32(x, y), explained=1.0)
    np.testing.assert_allclose(everything, (np.cos(angles).sum() + 2) / 4, atol=1e-4)


def test_a_constant_representation_has_no_similarity():
    x = jnp.asarray(orthonormal(4, 20, 3), jnp.float32)
    assert np.isnan(float(svcca(x, jnp.ones((20, 2)))))
    assert np.isnan(float(linear_cka(x, jnp.ones((20, 2)))))
    with pytest.raises(ValueError, match=r"explained=1\.5"):
        svcca(x, x, explained=1.5)


def test_relative_representations_are_cosines_that_a_rotation_and_a_scale_leave():
    x = jax.random.normal(jax.random.key(0), (30, 8))
    turn = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (8, 8)))[0]
    anchors = x[:5]
    relative = relative_representation(x, anchors)
    a, b = np.asarray(x), np.asarray(anchors)
    cosines = a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)[None]
    np.testing.assert_allclose(relative, cosines, atol=1e-5)
    other = relative_representation(7 * x @ turn, 3 * anchors @ turn)
    np.testing.assert_allclose(other, relative, atol=1e-5)
    np.testing.assert_allclose(relative_agreement(relative, other), 1, atol=1e-5)
    shuffled = float(relative_agreement(relative, relative[::-1]))
    rows = cosines / np.linalg.norm(cosines, axis=1)[:, None]
    np.testing.assert_allclose(shuffled, (rows * rows[::-1]).sum(1).mean(), atol=1e-5)
    assert not np.asarray(relative_representation(jnp.zeros((1, 8)), anchors)).any()
