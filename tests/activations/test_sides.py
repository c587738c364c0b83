import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import data, encoders
from jaxinterp.activations.sides import two_sides

DOCUMENTS = [data.Document(f"page {i}", f"The {i}th page says hello. " * 40) for i in range(40)]


@pytest.fixture(scope="module")
def tiny():
    return encoders.load("tiny")


def test_sides_are_parted_by_document_and_scaled_alike(tiny):
    sides = two_sides(tiny, DOCUMENTS, "L2.resid_post", context=32, rows=20, seed=0)
    d = tiny.config.d_model
    np.testing.assert_allclose(np.linalg.norm(sides.held_in, axis=1).mean(), np.sqrt(d), rtol=1e-4)
    # The same scale, not one of its own, for what is held out.
    capture = ("L2.resid_post",)
    _, found = tiny.forward(
        tiny.params, tiny.config, jnp.asarray(sides.text.tokens), capture=capture
    )
    kept = sides.text.mask.copy()
    kept[:, 0] = False
    raw = np.asarray(found["L2.resid_post"])[kept]
    factor = float(sides.scale.matrix)
    np.testing.assert_allclose(sides.held_out, raw * factor, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(sides.mean * factor, sides.held_in.mean(0), rtol=1e-3, atol=1e-4)
    held_out = {i for i, doc in enumerate(DOCUMENTS) if data.is_held_out(doc.name)}
    assert 0 < len(held_out) < len(DOCUMENTS)
    assert len(sides.text.tokens) == 4


def test_the_same_seed_gives_the_same_rows(tiny):
    a, b = (
        two_sides(tiny, DOCUMENTS, "L0.resid_pre", context=16, rows=8, seed=3) for _ in range(2)
    )
    np.testing.assert_array_equal(a.held_in, b.held_in)
    np.testing.assert_array_equal(a.text.tokens, b.text.tokens)


def test_refuses_text_with_one_side_only(tiny):
    one = [doc for doc in DOCUMENTS if not data.is_held_out(doc.name)]
    with pytest.raises(ValueError, match=f"{len(one)} held in and 0 held out: give more text"):
        two_sides(tiny, one, "L0.resid_pre", context=16, rows=8, seed=0)


def test_refuses_a_model_without_a_tokenizer(tiny):
    with pytest.raises(ValueError, match="no tokenizer"):
        two_sides(
            tiny._replace(tokenizer=None), DOCUMENTS, "L0.resid_pre", context=16, rows=8, seed=0
        )
