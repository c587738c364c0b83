"""The contract of every forward: capture, edits, segments, and what unused parts cost."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.encoders import causal, sites, stack

from .models import CONFIGS, QUICK, random_params, tokens

TOKENS = tokens()
# The second row is padded in front: what lies behind a causal model never sees.
MASK = np.arange(12)[None, :] >= np.asarray([0, 4])[:, None]


# Between them these two have every option of the blocks; Llama has the fewest.
@pytest.fixture(scope="module", params=["gemma", "neox"])
def model(request):
    config = CONFIGS[request.param]
    return random_params(config), config


def run(config, params, tokens=TOKENS, **options):
    """The forward, compiled whole: operation by operation takes longer."""
    forward = jax.jit(lambda p, t: causal.forward(p, config, t, **options), compiler_options=QUICK)
    return forward(params, jnp.asarray(tokens))


@pytest.fixture(scope="module")
def everything(model):
    """One run that captures every site of every layer."""
    params, config = model
    return run(config, params, capture=causal.sites(config))


def test_shapes_of_all_sites(model, everything):
    _, config = model
    _, captured = everything
    b, s, n = 2, 12, config.n_layers
    stream, heads, kv = (b, s, 32), (b, s, 4, 8), (b, s, config.n_kv_heads, 8)
    scores, hidden, one = (b, 4, s, s), (b, s, 48), (b, s, 1)
    expected = dict.fromkeys(
        "resid_pre ln1 ln1_post attn_out resid_mid ln2 ln2_post mlp_out resid_post".split(), stream
    )
    expected |= dict.fromkeys("ln1_scale ln1_post_scale ln2_scale ln2_post_scale".split(), one)
    expected |= dict(q=heads, k=kv, v=kv, rot_q=heads, rot_k=kv, z=heads)
    expected |= dict(scores=scores, pattern=scores, result=(b, s, 4, 32))
    expected |= dict(pre=hidden, pre_linear=hidden, post=hidden)
    outer = dict(embed=stream, pos_embed=stream, ln_final=stream, ln_final_scale=one)
    outer["logits"] = (b, s, 61)
    assert set(captured) == set(causal.sites(config))
    for site, value in captured.items():
        assert value.shape == (outer[site] if site in outer else (n, *expected[site])), site


def test_captured_values_fit_together(model, everything):
    _, config = model
    logits, got = everything
    np.testing.assert_array_equal(got["logits"], logits)
    np.testing.assert_array_equal(got["resid_pre"][1:], got["resid_post"][:-1])
    middle = got["resid_pre"] if config.parallel else got["resid_mid"]
    total = middle + got["mlp_out"] + (got["attn_out"] if config.parallel else 0)
    np.testing.assert_allclose(total, got["resid_post"], atol=1e-5)
    np.testing.assert_allclose(got["pattern"].sum(-1), 1, atol=1e-5)
    if not config.post_norms:
        np.testing.assert_allclose(got["result"].sum(3), got["attn_out"], atol=1e-5)


def test_capture_does_not_change_the_logits(model, everything):
    params, config = model
    plain, captured = run(config, params)
    assert captured == {}
    np.testing.assert_allclose(plain, everything[0], atol=1e-5)


def test_scan_equals_the_unrolled_loop(model):
    params, config = model
    wanted = sites.Plan((), ())

    def unrolled(params, x):
        for layer in range(config.n_layers):
            x, _ = stack.run_stack(params["layers"], config, x, layer, layer + 1, None, wanted)
        return x

    def scanned(params, x):
        return stack.run_stack(params["layers"], config, x, 0, config.n_layers, None, wanted)[0]

    x = jax.random.normal(jax.random.key(0), (2, 12, 32))
    # Without the optimiser, which fuses the two programs differently, they are equal bit for bit;
    # the compiler of JAX 0.11 fuses some even so.
    exact = [jax.jit(f, compiler_options=QUICK)(params, x) for f in (unrolled, scanned)]
    tolerance = 0.0 if jax.__version_info__ < (0, 11) else 1e-5
    np.testing.assert_allclose(*exact, rtol=0, atol=tolerance)
    np.testing.assert_allclose(jax.jit(scanned)(params, x), exact[0], atol=1e-5)


def test_one_layer_equals_its_part_of_all_layers(model, everything):
    params, config = model
    capture = ("L2.z", "L1-2.pattern", "L*.resid_mid" if not config.parallel else "L*.ln1")
    _, got = run(config, params, capture=capture)
    np.testing.assert_allclose(got["L2.z"], everything[1]["z"][2], atol=1e-5)
    np.testing.assert_allclose(got["L1-2.pattern"], everything[1]["pattern"][1:3], atol=1e-5)


def test_segments_join(model, everything):
    params, config = model

    @partial(jax.jit, compiler_options=QUICK)
    def joined(params):
        x = causal.embed(params, config, jnp.asarray(TOKENS))
        x, first = causal.run_layers(params, config, x, 0, 2, capture=("L1.resid_post",))
        x, _ = causal.run_layers(params, config, x, 2, config.n_layers)
        return causal.unembed(params, config, x), first["L1.resid_post"], x

    logits, first, x = joined(params)
    np.testing.assert_allclose(first, everything[1]["resid_post"][1], atol=1e-5)
    np.testing.assert_allclose(logits, everything[0], atol=2e-5)
    with pytest.raises(ValueError, match="need 0 <= start <= stop <= 3"):
        causal.run_layers(params, config, x, 2, 4)
    zero = lambda value, layer: 0 * value  # noqa: E731
    for elsewhere in ("embed", "L0.z", "L0-1.z", "ln_final"):
        with pytest.raises(ValueError, match="only the blocks 1 to 1 run here"):
            causal.run_layers(params, config, x, 1, 2, edits={elsewhere: zero})
        with pytest.raises(ValueError, match="only the blocks 1 to 1 run here"):
            causal.run_layers(params, config, x, 1, 2, capture=(elsewhere,))


def test_without_logits_later_layers_are_not_run(model):
    params, config = model

    for capture, loops in ((("L0.resid_pre",), 1), (("embed",), 0)):

        def forward(params, tokens, capture=capture):
            return causal.forward(params, config, tokens, capture=capture, return_logits=False)

        text = jax.jit(forward).lower(params, TOKENS).as_text()
        logits, got = jax.eval_shape(forward, params, TOKENS)
        assert logits is None
        assert got[capture[0]].shape == (2, 12, 32)
        assert text.count("stablehlo.while") == loops
        assert "x61xf32" not in text.replace("61x32xf32", "")


def test_a_reducer_keeps_what_it_returns(model, everything):
    params, config = model
    capture = (
        ("resid_post", lambda x: x.mean(1)),
        ("L2.post", lambda x: jax.lax.top_k(x, 3)),
    )
    _, got = run(config, params, capture=capture)
    np.testing.assert_allclose(got["resid_post"], everything[1]["resid_post"].mean(2), atol=1e-5)
    values, indices = got["L2.post"]
    assert values.shape == indices.shape == (2, 12, 3)


def test_patching_a_site_with_its_own_value_changes_nothing(model, everything):
    params, config = model
    logits, clean = everything

    @partial(jax.jit, compiler_options=QUICK)
    def patched(params, clean):
        def edit(site):
            return lambda value, layer: (
                clean[site][layer] if clean[site].ndim > value.ndim else clean[site]
            )

        edits = {site: edit(site) for site in clean}
        return causal.forward(params, config, jnp.asarray(TOKENS), edits=edits)[0]

    np.testing.assert_allclose(patched(params, clean), logits, atol=1e-6)


def test_an_edit_acts_where_it_says_and_only_there(model, everything):
    params, config = model
    shift = np.arange(32, dtype=np.float32) / 16
    for request in ("L1.resid_pre", "blocks.1.hook_resid_pre"):
        _, got = run(
            config,
            params,
            edits={request: lambda x, layer: x + shift[None, None]},
            capture=("resid_pre",),
        )
        clean = everything[1]["resid_pre"]
        np.testing.assert_allclose(got["resid_pre"][0], clean[0], atol=1e-5)
        np.testing.assert_allclose(got["resid_pre"][1], clean[1] + shift[None, None], atol=1e-5)
        assert np.abs(got["resid_pre"][2] - clean[2] - shift[None, None]).max() > 0.01


def test_a_sweep_over_layers_and_directions_compiles_once(model):
    params, config = model

    traces = []

    @jax.jit
    def steered(layer, direction, amount):
        traces.append(layer)
        edit = sites.at_layer(layer, lambda x: x + amount * direction[None, None])
        return causal.forward(params, config, jnp.asarray(TOKENS), edits={"resid_post": edit})[0]

    results = [steered(layer, jnp.ones(32) * layer, 0.5 + layer) for layer in range(3)]
    assert len({float(r.sum()) for r in results}) == 3
    assert len(traces) == 1
    swept = jax.vmap(lambda layer: steered(layer, jnp.ones(32), 1.0))(jnp.arange(3))
    np.testing.assert_allclose(swept[2], steered(2, jnp.ones(32), 1.0), atol=2e-5)


def test_gradients_through_an_edit(model):
    params, config = model

    @jax.jit
    def loss(delta):
        edits = {"resid_mid" if not config.parallel else "attn_out": lambda x, i: x + delta[i]}
        logits, _ = causal.forward(params, config, jnp.asarray(TOKENS), edits=edits)
        return jax.nn.log_softmax(logits)[..., 3].mean()

    delta = 0.1 * jax.random.normal(jax.random.key(0), (config.n_layers, 2, 12, 32))
    gradient = jax.grad(loss)(delta)
    direction = jax.random.normal(jax.random.key(1), delta.shape)
    step = 1e-2
    slope = (loss(delta + step * direction) - loss(delta - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, (gradient * direction).sum(), rtol=2e-2, atol=1e-3)
    rematerialised = jax.grad(jax.checkpoint(loss))(delta)
    np.testing.assert_allclose(rematerialised, gradient, atol=1e-6)


def test_padding_does_not_reach_real_tokens(model):
    params, config = model
    masked = jax.jit(lambda t: causal.forward(params, config, t, mask=jnp.asarray(MASK))[0])
    other = np.where(MASK, TOKENS, (TOKENS + 1) % 61)
    one, two = masked(jnp.asarray(TOKENS)), masked(jnp.asarray(other))
    np.testing.assert_allclose(one[MASK], two[MASK], atol=1e-6)


def test_bfloat16_is_close_to_float32(model, everything):
    params, config = model
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    logits, _ = run(config, half)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), half)
    exact, _ = run(config, wide)
    assert logits.dtype == jnp.bfloat16
    error = jnp.linalg.norm(logits.astype(jnp.float32) - exact) / jnp.linalg.norm(exact)
    print(f"bfloat16: {error:.1e}")
    assert error < 2e-2


def test_bad_inputs():
    config = CONFIGS["gpt2"]
    params = random_params(config)
    with pytest.raises(ValueError, match="token id 61 at row 0, position 1 is outside"):
        causal.forward(params, config, jnp.asarray([[0, 61]]))
    with pytest.raises(ValueError, match="token id -1"):
        causal.forward(params, config, jnp.asarray([[-1, 0]]))
    with pytest.raises(ValueError, match="sequence of 33 tokens, learned positions for 32"):
        causal.forward(params, config, jnp.zeros((1, 33), int))
    with pytest.raises(ValueError, match=r"'L1.z' returned shape \(1, 2, 4\); it must keep"):
        causal.forward(
            params, config, jnp.zeros((1, 2), int), edits={"L1.z": lambda x, layer: x.sum(-1)}
        )
    with pytest.raises(ValueError, match=r"write capture=\('z',\)"):
        causal.forward(params, config, jnp.zeros((1, 2), int), capture="z")
    with pytest.raises(ValueError, match="is not a multiple of"):
        causal.CausalConfig(
            vocab_size=1,
            context=1,
            n_layers=1,
            d_model=4,
            n_heads=3,
            n_kv_heads=2,
            d_head=2,
            d_mlp=4,
        )


def test_an_id_that_cannot_be_checked_shows_as_nan():
    config = CONFIGS["llama"]
    params = random_params(config)
    logits, _ = run(config, params, jnp.asarray([[0, 61], [1, -1], [2, 3]]))
    assert np.isnan(logits[:2]).all(axis=(1, 2)).all()
    assert np.isfinite(logits[2]).all()
