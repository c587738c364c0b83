from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.dictionaries import base
from jaxinterp.dictionaries.cross_layer_jumprelu import cross_layer_jumprelu
from jaxinterp.dictionaries.cross_layer_topk import cross_layer_topk
from jaxinterp.dictionaries.crosscoder import batch_topk_crosscoder
from jaxinterp.dictionaries.feature_choice import feature_choice
from jaxinterp.dictionaries.jumprelu import jumprelu
from jaxinterp.dictionaries.learner import learner
from jaxinterp.dictionaries.optimizers import optimizer
from jaxinterp.dictionaries.p_anneal import p_anneal
from jaxinterp.dictionaries.precision import in_bfloat16
from jaxinterp.dictionaries.relu import relu
from jaxinterp.dictionaries.scores import uncentred
from jaxinterp.dictionaries.temporal import temporal
from jaxinterp.dictionaries.topk import topk
from jaxinterp.dictionaries.transcoder import skip_transcoder


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(512, 40)) * (rng.random((512, 40)) < 0.1)
    return jnp.asarray(codes @ rng.normal(size=(40, 16)), jnp.float32)


def train(dictionary, x, rate=3e-3, steps=150):
    one = learner(dictionary, optimizer("adam", rate))
    state = one.init(jax.random.key(0), x)
    return jax.jit(lambda s: jax.lax.scan(lambda s, _: one.step(s, x), s, length=steps))(state)


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: topk(64, 4), lambda: relu(64, weight=0.1)])
def test_half_precision_learns_as_well_with_everything_that_learns_in_float32(make, x):
    whole, info = train(make(), x)
    half, half_info = train(in_bfloat16(make()), x)
    for leaf in jax.tree.leaves((half.params, half.optimizer, half_info)):
        assert leaf.dtype in (jnp.float32, jnp.int32)
    explained = info["variance_explained"][-1], half_info["variance_explained"][-1]
    assert explained[0] > 0.5
    assert float(explained[1]) == pytest.approx(float(explained[0]), abs=0.02)
    assert not np.array_equal(whole.params["encoder"], half.params["encoder"])
    first = float(info["loss"][0]), float(half_info["loss"][0])
    assert first[1] == pytest.approx(first[0], rel=0.01)


def test_the_matrix_products_are_in_bfloat16(x):
    dictionary = in_bfloat16(relu(64))
    params = dictionary.init(jax.random.key(0), x)
    text = str(jax.make_jaxpr(dictionary.encode)(params, x))
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products
    assert all("bf16[512,64]" in line for line in products)
    assert dictionary.decode(params, dictionary.encode(params, x)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("make", "kept"),
    [
        (partial(feature_choice, 64, 4), {"threshold", "density"}),
        (partial(p_anneal, 64), {"penalty_scale", "penalty_history"}),
    ],
)
def test_what_a_loss_remembers_is_not_rounded(make, kept, x):
    """A step of a running mean of decay 0.99 or more would be lost, and errors add up."""

    def seen():
        """The parameters that the loss in bfloat16 is given."""
        given = {}
        plain = make()

        def loss(params, *rest):
            given.update(params)
            return plain.loss(params, *rest)

        params = plain.init(jax.random.key(0), x)
        half = in_bfloat16(plain._replace(loss=loss))
        half.loss(params, base.new_stats(64), x, x, jax.random.key(0))
        return given

    types = jax.tree.map(lambda leaf: leaf.dtype, jax.eval_shape(seen))
    assert {name for name, kind in types.items() if kind == jnp.float32} == kept
    assert types["decoder"] == jnp.bfloat16


FORMS = {
    "topk": (partial(topk, 16, 2, scores=uncentred), (32, 8)),
    "skip_transcoder": (partial(skip_transcoder, topk, width=16, k=2), ((32, 8), (32, 8))),
    "batch_topk_crosscoder": (partial(batch_topk_crosscoder, 16, 2), (32, 3, 8)),
    "cross_layer_topk": (partial(cross_layer_topk, 3, 16, 2), ((32, 3, 8), (32, 3, 8))),
    "temporal": (partial(temporal, 16, 2, heads=2, bottleneck=4), (4, 5, 8)),
}


@pytest.mark.parametrize("name", FORMS)
def test_on_bfloat16_activations_everything_that_learns_is_in_float32(name):
    make, shapes = FORMS[name]
    one, is_shape = learner(make(), optimizer("adam", 1e-3)), lambda s: isinstance(s[0], int)
    batch = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, jnp.bfloat16), shapes, is_leaf=is_shape)
    state = jax.eval_shape(one.init, jax.random.key(0), batch)
    after, info = jax.eval_shape(one.step, state, batch)
    assert {leaf.dtype for leaf in after.params.values()} == {jnp.dtype(jnp.float32)}
    types, types_before = ([leaf.dtype for leaf in jax.tree.leaves(s)] for s in (after, state))
    assert types == types_before
    assert info["loss"].dtype == jnp.float32


@pytest.mark.parametrize("name", ["batch_topk_crosscoder", "cross_layer_jumprelu", "temporal"])
def test_no_rows_have_no_codes(name):
    forms = FORMS | {"cross_layer_jumprelu": (partial(cross_layer_jumprelu, 3, 16), (2, 3, 8))}
    make, shape = forms[name]
    dictionary, x = make(), jnp.ones(shape)
    sample = (x, x) if name.startswith("cross_layer") else x

    def write(x):
        params = dictionary.init(jax.random.key(0), sample)
        return dictionary.decode(params, dictionary.encode(params, x))

    assert jax.eval_shape(write, x[:0]).shape == (0, *shape[1:])


def test_a_threshold_moves_by_steps_below_the_resolution_of_bfloat16(x):
    """At 0.5 bfloat16 resolves 0.002; a hundred steps of 1e-5 would all be lost."""
    dictionary = in_bfloat16(jumprelu(64, weight=1.0, first_threshold=0.5, bandwidth=1.0))
    state, _ = train(dictionary, x, rate=1e-5, steps=100)
    moved = jnp.abs(state.params["threshold"] - 0.5)
    assert 2e-4 < float(moved.max()) < 1.3e-3
