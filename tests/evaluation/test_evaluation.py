from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp import data
from jaxinterp.activations.harvest import harvest
from jaxinterp.dictionaries import base
from jaxinterp.dictionaries.gated import gated
from jaxinterp.dictionaries.jumprelu import jumprelu
from jaxinterp.dictionaries.relu import relu
from jaxinterp.dictionaries.topk import topk
from jaxinterp.evaluation import behaviour, features, reconstruction

SITE, WIDTH, K = "L2.resid_post", 200, 5


@pytest.fixture(scope="module")
def setting(shipped):
    texts = [f"The {w} module returns a new {w} object. " * 4 for w in ("queue", "array", "path")]
    documents = [data.Document(str(i), t) for i, t in enumerate(texts)]
    rows = data.token_rows(documents, shipped.tokenizer, 20)
    parts = list(harvest(shipped, rows, (SITE,), batch=4))
    x, row, position = (
        np.concatenate(a)
        for a in zip(*((p.sites[SITE], p.row, p.position) for p in parts), strict=True)
    )
    dictionary = topk(WIDTH, K)
    params = dictionary.init(jax.random.key(0), jnp.asarray(x))
    return rows, x, row, position, dictionary, params


def dense_codes(dictionary, params, x):
    return np.asarray(base.densify(dictionary.encode(params, jnp.asarray(x)), WIDTH), np.float64)


def test_measures_equal_their_definitions_and_merge(setting):
    _, x, _, _, dictionary, params = setting
    z = dense_codes(dictionary, params, x)
    x_hat = z @ np.asarray(params["decoder"], np.float64) + np.asarray(params["decoder_bias"])
    wide = x.astype(np.float64)
    explained = 1 - ((wide - x_hat) ** 2).sum() / ((wide - wide.mean(0)) ** 2).sum()
    sums = reconstruction.measure(dictionary, params, [x[:30], x[30:30], x[30:]])
    found = sums.metrics()
    assert sums.fit.rows == sums.usage.rows == len(x)
    assert abs(found["variance_explained"] - explained) < 1e-5
    assert abs(found["l0"] - (z > 0).sum(1).mean()) < 1e-9
    assert found["dead"] == (~(z > 0).any(0)).mean()
    np.testing.assert_allclose(sums.fit.mean, wide.mean(0), atol=1e-5)
    np.testing.assert_allclose(sums.usage.energy, (z**2).sum(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sums.usage.peak, z.max(0), rtol=1e-5)
    with pytest.raises(ValueError, match="no activation rows"):
        reconstruction.measure(dictionary, params, [])


@pytest.mark.parametrize("make", [partial(topk, k=K), relu, jumprelu, gated])
def test_training_and_offline_metrics_of_a_batch_agree(setting, make):
    """The same names, the same numbers: what a loss reports and what `measure` finds."""
    x = jnp.asarray(setting[1][:60])
    dictionary = make(WIDTH)
    params = jax.jit(dictionary.init)(jax.random.key(0), x)
    params["encoder_bias"] = jnp.linspace(-0.5, 0.5, WIDTH)
    _, info = jax.jit(dictionary.loss)(params, base.new_stats(WIDTH), x, x, jax.random.key(0))
    offline = reconstruction.measure(dictionary, params, [x[:17], x[17:]]).metrics()
    shared = set(info.metrics) & set(offline) - {"dead"}  # dead: over the run, and on these rows
    assert {"variance_explained", "l0", "shrinkage", "relative_reconstruction_bias"} <= shared
    for name in shared:
        assert abs(float(info.metrics[name]) / offline[name] - 1) < 1e-4, name


def test_a_target_of_its_own_and_dense_codes(setting):
    """A dictionary that doubles its input, measured against a target of other width."""
    _, x, *_ = setting
    doubling = topk(x.shape[1], 2)._replace(
        encode=lambda params, x: x, decode=lambda params, codes: 2 * codes[:, :3]
    )
    pairs = [(x[:20], 2 * x[:20, :3]), (x[20:], 2 * x[20:, :3])]
    found = reconstruction.measure(doubling, None, pairs).metrics()
    assert abs(found["variance_explained"] - 1) < 1e-9
    assert found["l0"] == (x != 0).sum(1).mean()


def test_encoder_decoder_cosine_of_the_latents_that_fire(setting):
    _, x, _, _, dictionary, params = setting
    usage = reconstruction.measure(dictionary, params, [x]).usage
    assert abs(reconstruction.mean_encoder_decoder_cosine(params, usage.fired) - 1) < 1e-5
    alive = np.asarray(usage.fired) > 0
    flipped = params | {"encoder": jnp.where(alive[:, None], -1.0, 1.0) * params["encoder"]}
    assert abs(reconstruction.mean_encoder_decoder_cosine(flipped, usage.fired) + 1) < 1e-5
    share = 1 - 2 * alive.mean()
    assert abs(reconstruction.mean_encoder_decoder_cosine(flipped) - share) < 1e-5
    assert reconstruction.mean_encoder_decoder_cosine({"decoder": params["decoder"]}) is None


def stand_in(decode):
    """A dictionary whose codes are the activations themselves."""
    nothing = topk(8, 2)
    return nothing._replace(encode=lambda params, x: x, decode=lambda params, codes: decode(codes))


def test_cross_entropy_of_perfect_and_of_empty_reconstructions(shipped, setting):
    rows, x, *_ = setting
    mean = x.mean(0)
    whole = behaviour.cross_entropy(shipped, stand_in(lambda z: z), None, rows, SITE, mean)
    nothing = behaviour.cross_entropy(shipped, stand_in(jnp.zeros_like), None, rows, SITE, mean)
    assert abs(whole.recovered() - 1) < 1e-5
    assert abs(whole.recovered_over_mean() - 1) < 1e-5
    assert abs(nothing.recovered()) < 1e-6
    assert abs(whole.divergence_recovered() - 1) < 1e-5
    assert abs(whole.divergence_recovered_over_mean() - 1) < 1e-5
    assert abs(nothing.divergence_recovered()) < 1e-6
    assert whole.clean < whole.mean_ablated
    assert whole.clean < whole.ablated
    tokens, mask = jnp.asarray(rows.tokens), jnp.asarray(rows.mask)
    logits, _ = shipped.forward(shipped.params, shipped.config, tokens, mask=mask)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:])
    assert (
        abs(float((losses * rows.mask[:, 1:]).sum() / rows.mask[:, 1:].sum()) - whole.clean) < 1e-4
    )


def test_divergence_equals_scipy(shipped, setting):
    from scipy.special import log_softmax, rel_entr

    rows, x, *_ = setting
    tokens, mask = jnp.asarray(rows.tokens), jnp.asarray(rows.mask)

    def probabilities(edits):
        logits, _ = shipped.forward(shipped.params, shipped.config, tokens, mask=mask, edits=edits)
        return np.exp(log_softmax(np.asarray(logits, np.float64)[:, :-1], axis=-1))

    half = {SITE: lambda value, layer: value.at[:, 1:].multiply(0.5)}
    each = rel_entr(probabilities({}), probabilities(half)).sum(-1)
    expected = (each * rows.mask[:, 1:]).sum() / rows.mask[:, 1:].sum()
    found = behaviour.cross_entropy(
        shipped, stand_in(lambda z: 0.5 * z), None, rows, SITE, x.mean(0)
    )
    assert expected > 0.01
    assert abs(found.spliced_divergence - expected) < 1e-4
    recovered = 1 - found.spliced_divergence / found.ablated_divergence
    assert found.divergence_recovered() == recovered


def test_places_that_the_dictionary_never_saw_are_left_as_they_are(shipped, setting):
    """The first of a row, and those that `keep` leaves out."""
    rows, x, *_ = setting
    rows = rows._replace(keep=rows.mask & (np.arange(rows.mask.shape[1]) % 5 != 3))
    tokens, mask, keep = (jnp.asarray(a) for a in (rows.tokens, rows.mask, rows.keep))
    zero = {SITE: lambda value, layer: jnp.where(keep.at[:, 0].set(False)[..., None], 0.0, value)}
    logits, _ = shipped.forward(shipped.params, shipped.config, tokens, mask=mask, edits=zero)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:])
    expected = float((losses * mask[:, 1:]).sum() / mask[:, 1:].sum())
    found = behaviour.cross_entropy(shipped, stand_in(jnp.zeros_like), None, rows, SITE, x.mean(0))
    assert abs(found.ablated - expected) < 1e-4
    assert abs(found.spliced - expected) < 1e-4


def test_losses_of_a_bfloat16_model_are_those_of_its_logits_in_float64(shipped, rng):
    """A model whose activations are its logits, looked up, so that nothing else rounds."""
    from scipy.special import log_softmax, rel_entr

    table = jnp.asarray(4 * rng.normal(size=(50, 50)), jnp.bfloat16)

    def forward(params, config, tokens, *, mask, capture=(), edits=None, return_logits=True):
        value = params[tokens]
        value = edits[SITE](value, 2) if edits else value
        return value, {SITE: value}

    tokens = rng.integers(0, 50, (8, 40)).astype(np.int32)
    every = np.ones_like(tokens, bool)
    rows = data.Rows(tokens, every, every, tokens, tokens)
    model = shipped._replace(forward=forward, params=table)
    flipped = stand_in(lambda z: jnp.flip(z, -1))
    found = behaviour.cross_entropy(model, flipped, None, rows, SITE, np.zeros(50))
    clean = np.asarray(table, np.float64)[tokens]
    spliced = np.concatenate([clean[:, :1], clean[:, 1:, ::-1]], 1)
    clean, spliced = (log_softmax(a[:, :-1], -1) for a in (clean, spliced))
    for loss, log_p in ((found.clean, clean), (found.spliced, spliced)):
        expected = -np.take_along_axis(log_p, tokens[:, 1:, None], -1).mean()
        assert abs(loss - expected) < 1e-5 * expected
    divergence = rel_entr(np.exp(clean), np.exp(spliced)).sum(-1).mean()
    assert abs(found.spliced_divergence - divergence) < 1e-5 * divergence


def test_nothing_to_measure_or_to_recover(shipped, setting):
    rows = setting[0]
    alone = rows._replace(mask=rows.mask & (np.arange(rows.mask.shape[1]) == 0))
    for none in (alone, data.Rows(*(column[:0] for column in rows))):
        with pytest.raises(ValueError, match=rf"no tokens to measure on in {len(none.mask)} rows"):
            behaviour.cross_entropy(
                shipped, stand_in(jnp.zeros_like), None, none, SITE, np.zeros(128)
            )
    same = behaviour.CrossEntropy(2.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0)
    shares = same.recovered(), same.recovered_over_mean()
    shares += same.divergence_recovered(), same.divergence_recovered_over_mean()
    assert np.isnan(shares).all()


def test_top_rows_equal_a_search_of_everything(setting):
    rows, x, row, position, dictionary, params = setting
    z = dense_codes(dictionary, params, x)
    batches = ((x[i : i + 17], row[i : i + 17], position[i : i + 17]) for i in range(0, len(x), 17))
    best = features.top_rows(dictionary, params, batches, 4)
    for latent in range(WIDTH):
        per_row = {r: z[row == r, latent].max() for r in np.unique(row)}
        expected = sorted((v for v in per_row.values() if v > 0), reverse=True)[:4]
        got = best.values[latent][best.values[latent] > 0]
        np.testing.assert_allclose(got, expected, rtol=1e-4)
        for value, r, p in zip(
            best.values[latent], best.rows[latent], best.positions[latent], strict=True
        ):
            if value > 0:
                there = z[(row == r) & (position == p), latent]
                np.testing.assert_allclose(there, value, rtol=1e-4)


def test_activations_along_rows_equal_the_codes(shipped, setting):
    rows, x, row, position, dictionary, params = setting
    z = dense_codes(dictionary, params, x)
    latents = np.asarray([int(z[row == r].max(0).argmax()) for r in (0, 2, 2, 1)])
    which = np.asarray([0, 2, 2, 1])
    along = features.row_activations(
        shipped, dictionary, params, rows, SITE, latents, which, batch=2
    )
    for i, (latent, r) in enumerate(zip(latents, which, strict=True)):
        expected = np.zeros(rows.tokens.shape[1])
        expected[position[row == r]] = z[row == r, latent]
        np.testing.assert_allclose(along[i], expected, atol=1e-4)


def test_histograms_count_every_activation(setting):
    _, x, _, _, dictionary, params = setting
    z = dense_codes(dictionary, params, x)
    counts = features.histograms(dictionary, params, [x[:40], x[40:]], z.max(0), bins=8)
    np.testing.assert_array_equal(counts.sum(1), (z > 0).sum(0))
    busiest = int((z > 0).sum(0).argmax())
    values = z[:, busiest][z[:, busiest] > 0]
    expected = np.histogram(values, bins=8, range=(0, z[:, busiest].max()))[0]
    assert (
        np.abs(counts[busiest] - expected).sum() <= 2
    )  # a value on a bin edge may fall either side


def test_dense_codes_and_codes_with_a_rest_are_shown_as_sparse_ones(shipped, setting):
    rows, x, row, position, dictionary, params = setting
    peak = dense_codes(dictionary, params, x).max(0)
    latents, which = np.argsort(-peak)[:3], np.asarray([0, 2, 1])

    def with_rest(params, x):
        codes = dictionary.encode(params, x)
        return base.WithRest(base.densify(codes, WIDTH), jnp.zeros_like(x))

    def shown(encode):
        made = dictionary._replace(encode=encode)
        best = features.top_rows(made, params, [(x, row, position)], 4)
        counts = features.histograms(made, params, [x], peak)
        along = features.row_activations(shipped, made, params, rows, SITE, latents, which)
        return (*best, counts, along)

    for dense, sparse in zip(shown(with_rest), shown(dictionary.encode), strict=True):
        np.testing.assert_allclose(dense, sparse, rtol=1e-5)
        assert sparse.any()


def test_direct_logits_are_what_a_direction_adds_to_the_logits(shipped):
    """With the norm's scale frozen, adding a direction adds its direct logits."""
    config, params = shipped.config, shipped.params
    direction = jax.random.normal(jax.random.key(3), (1, config.d_model))
    up, up_ids, down, down_ids = features.direct_logits(shipped, direction, n=5)
    embedding = np.asarray(params["embed"]["tokens"], np.float64)
    logits = embedding @ (
        np.asarray(direction[0], np.float64) * np.asarray(params["ln_final"]["scale"])
    )
    logits -= logits.mean()
    order = np.argsort(-logits)
    assert up_ids[0].tolist() == order[:5].tolist()
    assert down_ids[0].tolist() == order[::-1][:5].tolist()
    np.testing.assert_allclose(up[0], logits[order[:5]], rtol=1e-4)
    np.testing.assert_allclose(down[0], logits[order[::-1][:5]], rtol=1e-4)
