"""Sets of labels and layers that should find each other."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.evaluation import jaccard, matching_accuracy


def test_jaccard_is_that_of_the_sets_without_empty_places():
    first, second = [4, 1, 9, 9, -1, -1, 7], [9, 2, 4, -1, 30]
    a, b = {4, 1, 9, 7}, {9, 2, 4, 30}
    found = jaccard(jnp.array(first), jnp.array(second))
    np.testing.assert_allclose(found, len(a & b) / len(a | b), rtol=1e-6)
    assert float(jaccard(jnp.array(first), jnp.array(first))) == 1.0
    assert float(jaccard(jnp.array([-1, -1]), jnp.array([-1]))) == 0.0
    assert float(jaccard(jnp.array([0]), jnp.array([-1, 0]))) == 1.0


def test_matching_accuracy_counts_layers_that_find_themselves():
    """Layers of the first model, rows: the other way round all three would match."""
    similarity = jnp.array([[0.9, 0.1, 0.2], [0.8, 0.7, 0.1], [0.0, 0.1, 0.3]])
    np.testing.assert_allclose(matching_accuracy(similarity), 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(matching_accuracy(similarity.at[0, 0].set(jnp.nan)), 1 / 3)
    with pytest.raises(ValueError, match="3 to 2 layers"):
        matching_accuracy(similarity[:, :2])
