import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.dictionaries import hyperdimensional as hd
from jaxinterp.evaluation import hyperdimensional_probe as probes


@pytest.fixture(scope="module")
def labelled():
    """2000 + 500 noisy activations in 64 dimensions of 3 roles with 10 of 30 fillers each."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, (2500, 3)) + 10 * np.arange(3)
    directions = rng.normal(size=(30, 64)) / 8
    x = directions[labels].sum(1) + 0.05 * rng.normal(size=(2500, 64)) + 3.0
    roles = hd.random_codebook(jax.random.key(1), 3, 2048)
    fillers = hd.random_codebook(jax.random.key(2), 30, 2048)
    return jnp.asarray(x, jnp.float32), labels, roles, fillers


def test_a_linear_probe_reads_every_role(labelled):
    x, labels, roles, fillers = labelled
    probe = probes.fit(x[:2000], labels[:2000], roles, fillers)
    read = probes.read(probe, x[2000:], roles, fillers)
    assert (np.asarray(read.index) == labels[2000:]).mean() > 0.95
    swapped = probes.read(probe, x[2000:], roles[::-1], fillers).index
    np.testing.assert_array_equal(swapped[:, ::-1], read.index)
    shuffled = np.random.default_rng(1).permutation(labels[:2000])
    blind = probes.read(probes.fit(x[:2000], shuffled, roles, fillers), x[2000:], roles, fillers)
    assert (np.asarray(blind.index) == labels[2000:]).mean() < 0.2


def test_the_probe_is_scikit_learn_s_ridge(labelled):
    from sklearn.linear_model import Ridge

    x, labels, roles, fillers = labelled
    x, labels, few = x[:300], labels[:300], slice(0, 40)
    probe = probes.fit(x, labels, roles, fillers, ridge=0.1)
    y = np.asarray(probes.records(labels, roles, fillers))[:, few]
    spread = np.asarray(x, np.float64).var(0).mean()
    oracle = Ridge(alpha=0.1 * spread * len(x)).fit(np.asarray(x, np.float64), y)
    np.testing.assert_allclose(probes.project(probe, x)[:, few], oracle.predict(x), atol=2e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x[:0], y[:0]), "no rows"),
        (lambda x, y: (x, np.where(np.arange(3) == 1, 12, y)), "role 1 has filler 12 in all 40"),
        (lambda x, y: (x, y + 5), "for 30 fillers"),
        (lambda x, y: (x, y[:, :2]), r"labels of shape \(40, 2\)"),
        (lambda x, y: (jnp.ones_like(x), y), "x tells nothing"),
    ],
)
def test_probes_that_can_learn_nothing_are_refused(labelled, change, said):
    x, labels, roles, fillers = labelled
    with pytest.raises(ValueError, match=said):
        probes.fit(*change(x[:40], labels[:40]), roles, fillers)
    with pytest.raises(ValueError, match=r"ridge=0\.0: give one above 0"):
        probes.fit(x[:40], labels[:40], roles, fillers, ridge=0.0)
