import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.dictionaries import base, formats, registry
from jaxinterp.dictionaries.crosscoder import (
    batch_topk_crosscoder,
    crosscoder,
    l1_crosscoder,
)
from jaxinterp.dictionaries.jumprelu import jumprelu
from jaxinterp.dictionaries.learner import learner
from jaxinterp.dictionaries.sites import learn_from, stacked
from jaxinterp.dictionaries.topk import topk
from jaxinterp.evaluation import model_diff

from .relatives import assert_equal_to_stored, case

KINDS = {
    "l1_crosscoder": {"width": 30, "weight": 0.7},
    "batch_topk_crosscoder": {"width": 30, "k": 3},
    "crosscoder": {"recipe": topk, "width": 30, "k": 3},
}


def build(name):
    return registry.VARIANTS[name](**KINDS[name])


@pytest.mark.parametrize("name", ["l1_crosscoder", "batch_topk_crosscoder"])
def test_loss_and_gradient_equal_torch(name):
    stored, params, gradient = case(name)
    if "threshold" in stored:
        params = params | {"threshold": jnp.asarray(-1.0)}
    x = stored["x"]
    assert_equal_to_stored(build(name), params, x, x, stored["loss"], gradient)
    if "threshold" in stored:
        _, info = build(name).loss(params, base.new_stats(30), x, x, jax.random.key(0))
        np.testing.assert_allclose(info.assigned["threshold"], stored["threshold"], rtol=1e-5)
        assert info.metrics["l0"] == 3


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), (48, 3, 5)) + 1


def scaled(params):
    """Params whose atoms have very different lengths, so that their scale matters."""
    sizes = jnp.exp(jax.random.normal(jax.random.key(8), (30, 3, 1)))
    return params | {"decoder": 5 * params["decoder"] * sizes}


@pytest.mark.parametrize("name", KINDS)
def test_codes_decode_with_the_parameters_as_they_stand(name, x):
    dictionary = build(name)
    params = scaled(dictionary.init(jax.random.key(0), x))
    codes = dictionary.encode(params, x)
    z = base.densify(codes, 30) if isinstance(codes, base.Codes) else codes
    expected = jnp.einsum("nw,wsd->nsd", z, params["decoder"]) + params["decoder_bias"][None]
    np.testing.assert_allclose(dictionary.decode(params, codes), expected, atol=1e-4)
    h = jnp.einsum("nsd,wsd->nw", x, params["encoder"]) + params["encoder_bias"][None]
    np.testing.assert_allclose(z, jnp.where(z > 0, h, 0.0), atol=1e-4)


def test_the_strongest_latents_are_those_that_write_most(x):
    dictionary = build("crosscoder")
    params = scaled(dictionary.init(jax.random.key(0), x))
    p = {name: np.asarray(value) for name, value in params.items()}
    h = np.einsum("nsd,wsd->nw", x, p["encoder"]) + p["encoder_bias"]
    written = h * np.linalg.norm(p["decoder"], axis=2).sum(1)
    expected = np.sort(np.argsort(-written, axis=1)[:, :3], axis=1)
    by_code = np.sort(np.argsort(-h, axis=1)[:, :3], axis=1)
    np.testing.assert_array_equal(np.sort(dictionary.encode(params, x).indices, 1), expected)
    assert (expected != by_code).any()


@pytest.mark.parametrize("name", KINDS)
def test_codes_of_a_row_do_not_depend_on_the_batch(name, x):
    dictionary = build(name)
    params = scaled(dictionary.init(jax.random.key(0), x))
    params = params | ({"threshold": jnp.asarray(0.5)} if "threshold" in params else {})
    together = jax.jit(dictionary.encode)(params, x)
    alone = jax.vmap(lambda row: dictionary.encode(params, row[None]))(x)
    alone = jax.tree.map(lambda a: a[:, 0], alone)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), together, alone)
    shaped = dictionary.decode(params, dictionary.encode(params, x.reshape(6, 8, 3, 5)))
    np.testing.assert_allclose(
        shaped.reshape(48, 3, 5), dictionary.decode(params, together), atol=1e-4
    )


def test_atoms_of_length_zero_give_finite_gradients(x):
    for dictionary in (build("l1_crosscoder"), build("crosscoder")):
        params = dictionary.init(jax.random.key(0), x)
        params = params | {"decoder": params["decoder"].at[:4].set(0.0).at[5, 1].set(0.0)}

        def loss(p, dictionary=dictionary):
            return dictionary.loss(p, base.new_stats(30), x, x, jax.random.key(0))[0]

        for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(params)):
            assert bool(jnp.isfinite(leaf).all())


def test_any_variant_makes_a_crosscoder(x):
    dictionary = crosscoder(jumprelu, width=30, first_threshold=0.2)
    ours = learn_from(learner(dictionary, optax.adam(3e-3)), stacked(["a", "b", "c"]))
    batch = {name: x[:, i] for i, name in enumerate("abc")}
    state = ours.init(jax.random.key(0), batch)
    step = jax.jit(ours.step)
    infos = [(state := new, info)[1] for _ in range(20) for new, info in [step(state, batch)]]
    assert infos[-1]["loss"] < infos[0]["loss"]
    assert state.params["threshold"].shape == (30,)


N_SHARED, N_WEAK, N_EACH, D = 14, 2, 4, 24
FEATURES = N_SHARED + N_WEAK + 2 * N_EACH


def planted():
    """Atoms of two models: shared ones, some weak in the second, and each model's own."""
    parts = jnp.asarray(
        [[1, 1]] * N_SHARED + [[1, 0.15]] * N_WEAK + [[1, 0]] * N_EACH + [[0, 1]] * N_EACH
    )
    atoms = base.unit_rows(jax.random.normal(jax.random.key(7), (2 * FEATURES, D)))
    return atoms.reshape(FEATURES, 2, D) * parts[:, :, None]


def sample(key):
    """Three features a row on average; a fixed number would leave the bias undetermined."""
    which, size = jax.random.split(key)
    on = jax.random.uniform(which, (512, FEATURES)) < 3 / FEATURES
    sizes = on * (1 + jax.random.uniform(size, (512, FEATURES)))
    return jnp.einsum("bf,fsd->bsd", sizes, planted())


def shares_found(dictionary, steps=900):
    """Share of the second model in the latent found for each planted feature, and its cosine."""
    rate = optax.schedules.warmup_cosine_decay_schedule(0.0, 5e-3, 50, steps)
    ours = learner(dictionary, optax.adam(rate))
    state = ours.init(jax.random.key(0), sample(jax.random.key(1)))
    keys = jax.random.split(jax.random.key(2), steps)
    run = jax.jit(lambda s: jax.lax.scan(lambda s, k: ours.step(s, sample(k)), s, keys))
    params = run(state)[0].params
    found = base.unit_rows(params["decoder"].reshape(dictionary.width, -1))
    cosine = np.asarray(base.unit_rows(planted().reshape(FEATURES, -1)) @ found.T)
    shares = np.asarray(model_diff.relative_norms(params["decoder"])[:, 1])
    return shares[cosine.argmax(1)], cosine.max(1)


@pytest.mark.slow
def test_shared_and_own_features_are_told_apart_and_weak_ones_need_batch_topk():
    shares, cosine = shares_found(batch_topk_crosscoder(36, 3, dead_after=20_000))
    shared, weak, first, second = np.split(shares, np.cumsum([N_SHARED, N_WEAK, N_EACH]))
    assert cosine.min() > 0.98
    assert np.abs(shared - 0.5).max() < 0.05
    assert first.max() < 0.05
    assert second.min() > 0.95
    true = 0.15 / 1.15
    np.testing.assert_allclose(weak, true, rtol=0.2)

    shares, cosine = shares_found(l1_crosscoder(36, weight=0.3))
    shared, weak, first, second = np.split(shares, np.cumsum([N_SHARED, N_WEAK, N_EACH]))
    assert cosine.mean() > 0.9
    assert first.max() < 0.05
    assert second.min() > 0.95
    assert weak.max() < 0.5 * true  # complete shrinkage: taken for the first model's own


def test_latent_scaling_uncovers_what_the_atoms_hide():
    """Latents that look like the first site's own: one truly is, one is shrunk, one decoupled."""
    d, n = 6, 400
    directions = jnp.eye(d)[:4]
    f = jax.nn.relu(jax.random.normal(jax.random.key(3), (n, 4)))
    f = f.at[:, 3].set(f[:, 2])  # a second latent says at the other site what the third does here
    own = f[:, :3] @ directions[:3]
    other = 0.4 * f[:, 1:2] * directions[1][None] + 0.7 * f[:, 2:3] * directions[2][None]
    decoder = jnp.zeros((4, 2, d)).at[jnp.arange(3), 0].set(directions[:3])
    decoder = decoder.at[3, 1].set(0.7 * directions[2])
    exact = crosscoder(topk, width=4, k=4)._replace(encode=lambda params, x: f[: len(x)])
    params = {"decoder": decoder, "decoder_bias": jnp.zeros((2, d))}
    x = jnp.stack([own, other], 1)
    found = model_diff.latent_scaling(exact, params, [x], own=0, other=1)
    np.testing.assert_allclose(found.error[:3], [0, 0.4, 0.0], atol=1e-5)
    np.testing.assert_allclose(found.reconstruction[:3], [0, 0, 0.7], atol=1e-5)
    np.testing.assert_allclose(model_diff.relative_norms(decoder)[:3, 1], 0.0)
    with pytest.raises(ValueError, match="no activations"):
        model_diff.latent_scaling(exact, params, [], own=0, other=1)


def test_latent_scaling_merges_batches_and_is_blind_to_silent_latents(x):
    dictionary = build("crosscoder")
    params = scaled(dictionary.init(jax.random.key(0), x))
    silent = int(np.setdiff1d(np.arange(30), dictionary.encode(params, x).indices)[0])
    whole = model_diff.latent_scaling(dictionary, params, [x], own=0, other=2)
    parts = model_diff.latent_scaling(dictionary, params, [x[:16], x[16:]], own=0, other=2)
    np.testing.assert_allclose(whole.error, parts.error, rtol=2e-3, atol=1e-4)
    assert np.isnan(whole.error[silent])
    assert np.isfinite(whole.error).sum() > 5


def test_cosines_of_atoms():
    decoder = jnp.asarray(
        [[[1.0, 0], [2, 0]], [[1, 0], [-1, 0]], [[1, 0], [0, 3]], [[1, 0], [0, 0]]]
    )
    np.testing.assert_allclose(model_diff.atom_cosines(decoder), [1, -1, 0, 0])
    np.testing.assert_allclose(model_diff.relative_norms(decoder)[:, 0], [1 / 3, 0.5, 0.25, 1])


@pytest.mark.parametrize("name", KINDS)
def test_round_trip_is_exact(name, x, tmp_path):
    dictionary = build(name)
    params = scaled(dictionary.init(jax.random.key(0), x))
    formats.save(tmp_path / "d", name, KINDS[name], params)
    loaded, read, _ = formats.load(tmp_path / "d")
    assert read.keys() == params.keys()
    for key, value in params.items():
        np.testing.assert_array_equal(read[key], value)
    np.testing.assert_array_equal(
        loaded.decode(read, loaded.encode(read, x)),
        dictionary.decode(params, dictionary.encode(params, x)),
    )


def test_bad_input_is_refused(x):
    dictionary = build("l1_crosscoder")
    with pytest.raises(ValueError, match=r"shape \(48, 5\)"):
        dictionary.init(jax.random.key(0), x[:, 0])
    params = dictionary.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="dimension 10 for a dictionary of dimension 15"):
        dictionary.encode(params, x[:, :2])
    with pytest.raises(ValueError, match="k=31"):
        batch_topk_crosscoder(30, 31)
