import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.layer_dimension import dimension_of
from jaxinterp.report import LayerDimension, Report, write_page


@pytest.mark.parametrize(("different", "known"), [(15, False), (40, True)])
def test_levina_bickel_needs_more_points_than_neighbours(different, known, rng, tmp_path):
    points = rng.normal(size=(different, 3))
    found = dimension_of(jnp.asarray(points[np.arange(80) % different], jnp.float32), 20)
    assert found["points"] == different
    assert (found["mle"] is not None) == (found["mle_error"] is not None) == known
    if known:
        assert 1 < found["mle"] < 6
    names = ("two_nn", "two_nn_error", "mle", "mle_error", "points")
    layer = LayerDimension("0", **{name: found[name] for name in names})
    write_page(tmp_path / "page.html", Report("t", profile=(layer,)))
    assert ("<td>n/a</td>" in (tmp_path / "page.html").read_text()) != known
