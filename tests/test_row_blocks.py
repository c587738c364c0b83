import jax.numpy as jnp
import numpy as np

from jaxinterp.row_blocks import fold_row_blocks, map_row_blocks


def test_blocks_of_rows_are_put_together_in_order():
    x = jnp.arange(46.0).reshape(23, 2)
    for block in (1, 4, 23, 50):
        doubled, total = map_row_blocks(lambda a, b: (2 * a, (a + b).sum(1)), (x, x), block)
        np.testing.assert_array_equal(doubled, 2 * x)
        np.testing.assert_array_equal(total, 2 * x.sum(1))


def test_a_sum_over_blocks_takes_each_row_once():
    x = jnp.arange(23.0)

    def add(total, rows):
        return total + rows.sum(), 2 * rows

    for block in (1, 4, 23):
        total, doubled = fold_row_blocks(add, jnp.float32(1), (x,), block)
        assert float(total) == 1 + 253
        np.testing.assert_array_equal(doubled, 2 * x)
