import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.encoders import adapters

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)


def make_function():
    def function(params, x, tap):
        h = tap("hidden", jnp.tanh(x @ params["a"]))
        h = tap("hidden", h * 2)
        return tap("out", h @ params["b"])

    keys = jax.random.split(jax.random.key(0))
    params = {"a": jax.random.normal(keys[0], (5, 7)), "b": jax.random.normal(keys[1], (7, 2))}
    encoder = adapters.from_function(function, params, X)
    return encoder, lambda x: jnp.tanh(x @ params["a"]) * 2 @ params["b"], "hidden", (3, 7)


def make_linen():
    linen = pytest.importorskip("flax.linen", reason="flax is not installed")

    class Block(linen.Module):
        @linen.compact
        def __call__(self, x):
            return x + linen.Dense(5, name="inner")(x)

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = Block(name="first")(x)
            return linen.Dense(2, name="last")(jnp.tanh(Block(name="second")(x)))

    net = Net()
    variables = net.init(jax.random.key(0), X)
    encoder = adapters.from_linen(net, variables, X)
    return encoder, lambda x: net.apply(variables, x), "first.inner", (3, 5)


def make_nnx():
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.blocks = nnx.List([nnx.Linear(5, 5, rngs=rngs) for _ in range(2)])
            self.last = nnx.Linear(5, 2, rngs=rngs)

        def __call__(self, x):
            for block in self.blocks:
                x = x + jnp.tanh(block(x))
            return self.last(x)

    net = Net(nnx.Rngs(0))
    return adapters.from_nnx(net, X), net, "blocks.0", (3, 5)


@pytest.fixture(params=[make_function, make_linen, make_nnx], ids=["function", "linen", "nnx"])
def adapted(request):
    return request.param()


def test_the_contract(adapted):
    encoder, original, site, shape = adapted
    run = jax.jit(encoder.forward, static_argnums=1, static_argnames=("capture", "return_logits"))
    output, got = run(encoder.params, encoder.config, X)
    np.testing.assert_allclose(output, original(X), rtol=1e-5, atol=1e-6)
    assert got == {}
    assert site in encoder.sites(encoder.config)
    nothing, got = run(encoder.params, encoder.config, X, capture=(site,), return_logits=False)
    assert nothing is None
    assert got[site].shape == shape
    _, all_of_them = run(encoder.params, encoder.config, X, capture=("*",))
    assert set(all_of_them) == set(encoder.sites(encoder.config))
    _, reduced = encoder.forward(
        encoder.params, encoder.config, X, capture=((site, lambda x: x.mean()),)
    )
    np.testing.assert_allclose(reduced[site], got[site].mean(), atol=1e-6)


def test_edits_and_gradients(adapted):
    encoder, original, site, shape = adapted

    def edited(delta):
        edits = {site: lambda x, layer: x + delta}
        return encoder.forward(encoder.params, encoder.config, X, edits=edits, capture=(site,))

    clean, got = edited(jnp.zeros(shape))
    np.testing.assert_allclose(clean, original(X), atol=1e-6)
    moved, after = edited(jnp.ones(shape))
    np.testing.assert_allclose(after[site], got[site] + 1, atol=1e-6)
    assert np.abs(moved - clean).max() > 1e-3
    gradient = jax.grad(lambda d: edited(d)[0].sum())(jnp.zeros(shape))
    step = 1e-2
    slope = (edited(jnp.full(shape, step))[0] - edited(jnp.full(shape, -step))[0]).sum()
    np.testing.assert_allclose(gradient.sum(), slope / (2 * step), rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(original(X), clean, atol=1e-6)  # the original is as it was


def test_names_of_all_modules(adapted):
    encoder, *_ = adapted
    assert encoder.config in (
        ("hidden", "hidden:1", "out"),
        ("first.inner", "first", "second.inner", "second", "last"),
        ("blocks.0", "blocks.1", "last"),
    )


def test_bad_requests(adapted):
    encoder, _, site, _ = adapted
    with pytest.raises(ValueError, match=f"did you mean {site!r}"):
        encoder.forward(encoder.params, encoder.config, X, capture=(site + "_",))
    with pytest.raises(ValueError, match="it must keep"):
        encoder.forward(encoder.params, encoder.config, X, edits={site: lambda x, i: x.sum()})
