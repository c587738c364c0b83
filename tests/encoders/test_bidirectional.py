"""The contract on encoders of text, of images and of both; no oracle needed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.encoders import bidirectional, dual, sites
from jaxinterp.encoders.bidirectional import BidirectionalConfig
from jaxinterp.encoders.dual import DualConfig, DualInputs

from .models import QUICK

BLOCKS = dict(n_layers=3, d_model=24, n_heads=4, n_kv_heads=4, d_head=6, d_mlp=40)
BERT = BidirectionalConfig(
    **BLOCKS,
    activation="gelu",
    norm_after=True,
    embed_norm=True,
    vocab_size=31,
    context=16,
    token_types=2,
    pooling="first",
    pooler=True,
)
DINO = BidirectionalConfig(
    **BLOCKS,
    activation="silu",
    gated=True,
    layer_scale=True,
    final_norm=True,
    image_size=(16, 16),
    patch_size=(4, 4),
    class_token=True,
    registers=2,
    antialias=True,
    pooling="first",
)
SIGLIP = DualConfig(
    text=BidirectionalConfig(
        **BLOCKS,
        activation="gelu_tanh",
        final_norm=True,
        vocab_size=31,
        context=16,
        pooling="last",
        d_out=24,
    ),
    image=BidirectionalConfig(
        **BLOCKS,
        activation="gelu_tanh",
        final_norm=True,
        image_size=(16, 16),
        patch_size=(4, 4),
        pooling="attention",
    ),
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 31, (2, 9)))
IMAGES = jnp.asarray(np.random.default_rng(1).normal(size=(2, 20, 12, 3)), jnp.float32)
MODELS = {
    "bert": (bidirectional, BERT, TOKENS),
    "dino": (bidirectional, DINO, IMAGES),
    "siglip": (dual, SIGLIP, DualInputs(TOKENS, IMAGES)),
}


def random_params(module, config):
    """Every parameter that the config may have, so that none is missing."""
    params = {}
    for i, (path, shape) in enumerate(module.shapes(config).items()):
        gated = getattr(config, "gated", False)
        if ".gate." in path and not gated:
            continue
        value = 0.3 * np.random.default_rng(i).normal(size=shape).astype(np.float32)
        *parents, leaf = path.split(".")
        tree = params
        for key in parents:
            tree = tree.setdefault(key, {})
        tree[leaf] = jnp.asarray(value + (leaf == "scale"))
    return params


@pytest.fixture(scope="module", params=list(MODELS))
def model(request):
    module, config, inputs = MODELS[request.param]
    params = random_params(module, config)
    capture = module.sites(config)
    run = jax.jit(
        lambda p, x: module.forward(p, config, x, capture=capture), compiler_options=QUICK
    )
    return module, config, params, inputs, run(params, inputs)


def test_every_site_is_captured(model):
    module, config, _, _, (output, captured) = model
    assert set(captured) == set(module.sites(config))
    stream = [v for k, v in captured.items() if k.endswith("resid_post")]
    assert all(v.shape[:2] == (3, 2) and v.shape[-1] == 24 for v in stream)
    assert all(np.isfinite(v).all() for v in jax.tree.leaves((output, captured)))


def test_patching_every_site_with_its_own_value_changes_nothing(model):
    module, config, params, inputs, (clean, captured) = model

    @partial(jax.jit, compiler_options=QUICK)
    def patched(params, captured):
        def edit(site):
            value = captured[site]
            layered = site.rpartition("/")[2] in sites.BLOCK_SITES
            return lambda x, layer: value[layer] if layered else value

        edits = {site: edit(site) for site in captured}
        return module.forward(params, config, inputs, edits=edits)[0]

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        patched(params, captured),
        clean,
    )


def test_an_edit_reaches_the_output(model):
    module, config, params, inputs, (clean, _) = model
    tower = "image/" if module is dual else ""

    @jax.jit
    def edited(amount):
        edits = {f"{tower}L1.z": lambda x, layer: x * amount}
        return module.forward(params, config, inputs, edits=edits)[0]

    def output(result):
        return result.image.pooled if module is dual else result.tokens

    np.testing.assert_allclose(output(edited(1.0)), output(clean), atol=1e-5)
    assert np.abs(output(edited(0.0)) - output(clean)).max() > 1e-3
    gradient = jax.grad(lambda a: output(edited(a)).sum())(0.5)
    slope = (output(edited(0.52)).sum() - output(edited(0.48)).sum()) / 0.04
    np.testing.assert_allclose(gradient, slope, rtol=2e-2, atol=2e-2)
    if module is dual:
        np.testing.assert_allclose(edited(0.0).text.pooled, clean.text.pooled, atol=1e-5)


def test_segments_join():
    params = random_params(bidirectional, BERT)

    @partial(jax.jit, compiler_options=QUICK)
    def both(params):
        x = bidirectional.embed(params, BERT, TOKENS)
        x, _ = bidirectional.run_layers(params, BERT, x, 0, 1)
        x, got = bidirectional.run_layers(params, BERT, x, 1, 3, capture=("L2.ln2",))
        return x, got["L2.ln2"], bidirectional.forward(params, BERT, TOKENS)[0].tokens

    joined, last, whole = both(params)
    np.testing.assert_allclose(joined, whole, atol=1e-5)
    np.testing.assert_allclose(last, whole, atol=1e-5)
    with pytest.raises(ValueError, match="need 0 <= start <= stop <= 3"):
        bidirectional.run_layers(params, BERT, joined, 2, 1)


def test_without_output_nothing_is_pooled():
    params = random_params(bidirectional, DINO)
    output, got = jax.eval_shape(
        lambda p: bidirectional.forward(
            p, DINO, IMAGES, capture=("L0.resid_post",), return_logits=False
        ),
        params,
    )
    assert output is None
    assert got["L0.resid_post"].shape == (2, 5 * 3 + 1 + 2, 24)


def test_bad_inputs():
    params = random_params(bidirectional, BERT)
    with pytest.raises(ValueError, match="sequence of 17 tokens, learned positions for 16"):
        bidirectional.forward(params, BERT, jnp.zeros((1, 17), int))
    with pytest.raises(ValueError, match=r"token ids of shape \(1, 4, 4, 3\)"):
        bidirectional.forward(params, BERT, jnp.zeros((1, 4, 4, 3)))
    with pytest.raises(ValueError, match="token id 31"):
        bidirectional.embed(params, BERT, jnp.full((1, 2), 31))
    with pytest.raises(ValueError, match="type int32: normalised"):
        bidirectional.forward(params, DINO, TOKENS)
    with pytest.raises(ValueError, match="did you mean 'resid_post'"):
        bidirectional.forward(params, BERT, TOKENS, capture=("L0.resid_pots",))
    with pytest.raises(ValueError, match="needs a way of pooling"):
        BidirectionalConfig(**BLOCKS, activation="gelu", d_out=3)
