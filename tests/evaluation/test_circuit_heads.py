import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.dictionaries import learner, relu, topk
from jaxinterp.encoders import planted
from jaxinterp.evaluation import circuit_heads, detection


def by_sets(codes, positive):
    """(only on positives, on either, on both), in Python."""
    yes, no = set(codes[positive].tolist()), set(codes[~positive].tolist())
    return len(yes - no), len(yes | no), len(yes & no)


def test_counts_are_those_of_python_s_sets(rng):
    codes = rng.integers(0, 9, (23, 3, 5))
    positive = rng.random(23) < 0.5
    found = circuit_heads.novel_codes(jnp.asarray(codes), positive)
    for layer, head in np.ndindex(3, 5):
        expected = by_sets(codes[:, layer, head], positive)
        assert tuple(int(a[layer, head]) for a in found) == expected
    pairs = circuit_heads.novel_pairs(jnp.asarray(codes), positive)
    flat = codes.reshape(23, -1)
    for a, b in ((0, 1), (3, 14), (7, 7)):
        expected = by_sets(flat[:, a] * 100 + flat[:, b], positive)
        assert tuple(int(count[a, b]) for count in pairs) == expected
    np.testing.assert_allclose(found.share(), found.unique / found.union)
    np.testing.assert_allclose(found.overlap(), found.shared / found.union)


def test_planted_codes_are_found_from_ten_examples_of_each_kind():
    """144 heads, 20 in the circuit, 20 % of whose codes on positives are everybody's."""
    rng = np.random.default_rng(0)
    circuit = np.zeros(144, bool)
    circuit[rng.permutation(144)[:20]] = True
    positive = np.arange(20) < 10
    codes = rng.integers(0, 4, (20, 144))
    new = 4 + rng.integers(0, 16, (20, 144))
    special = positive[:, None] & circuit[None] & (rng.random((20, 144)) > 0.2)
    found = circuit_heads.novel_codes(jnp.asarray(np.where(special, new, codes)), positive)
    assert detection.roc_auc(found.unique, circuit) >= 0.95
    assert detection.roc_auc(found.share(), circuit) >= 0.95
    p = circuit_heads.probabilities(found.unique.reshape(12, 12))
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-5)
    by_layer = circuit_heads.probabilities(found.unique.reshape(12, 12), axis=1)
    np.testing.assert_allclose(by_layer.sum(1), 1, rtol=1e-5)


def test_the_code_is_the_largest_latent_and_silence_is_a_code_of_its_own():
    x = jax.random.normal(jax.random.key(0), (6, 2, 3, 5))
    for dictionary in (relu(12), topk(12, 3)):
        params = dictionary.init(jax.random.key(1), x.reshape(-1, 5))
        params = params | {"decoder_bias": jnp.zeros(5)}
        codes = circuit_heads.head_codes(dictionary, params, x)
        scores = x @ params["encoder"].T
        np.testing.assert_array_equal(codes, scores.argmax(-1))
        silent = circuit_heads.head_codes(dictionary, params, jnp.zeros_like(x))
        np.testing.assert_array_equal(silent, 12)


@pytest.mark.slow
def test_visible_circuit_heads_are_found_from_ten_pairs_of_prompts():
    model = planted.induction_model(jax.random.key(3))
    prompts = planted.induction_prompts(jax.random.key(4), model.encoder.config, 10)
    outputs = planted.head_outputs(model.encoder, prompts.tokens)
    rows = outputs.reshape(-1, outputs.shape[-1])
    rows = rows / jnp.sqrt(jnp.square(rows).sum(1).mean())
    dictionary = relu(128, weight=0.05)
    ours = learner(dictionary, optax.adam(3e-3))
    train = jax.jit(lambda s, x: jax.lax.scan(lambda s, _: ours.step(s, x), s, length=250)[0])
    state = train(jax.jit(ours.init)(jax.random.key(0), rows), rows)
    codes = circuit_heads.head_codes(dictionary, state.params, rows.reshape(outputs.shape))
    share = circuit_heads.novel_codes(codes, prompts.positive).share()
    assert detection.roc_auc(share, model.visible()) > 0.98
    shuffled = np.random.default_rng(0).permutation(prompts.positive)
    blind = circuit_heads.novel_codes(codes, shuffled).share()
    assert detection.roc_auc(blind, model.visible()) < 0.9


def test_labels_of_one_kind_are_refused():
    codes = jnp.zeros((4, 2), jnp.int32)
    for labels in (np.zeros(4, bool), np.ones(4, bool)):
        with pytest.raises(ValueError, match="at least one of each kind"):
            circuit_heads.novel_codes(codes, labels)
    with pytest.raises(ValueError, match="3 labels for 4 examples"):
        circuit_heads.novel_pairs(codes, np.asarray([True, False, True]))
