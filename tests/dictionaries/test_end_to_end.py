import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp import data
from jaxinterp.dictionaries import base
from jaxinterp.dictionaries.end_to_end import end_to_end
from jaxinterp.dictionaries.learner import learner
from jaxinterp.dictionaries.relu import relu
from jaxinterp.dictionaries.topk import topk
from jaxinterp.dictionaries.transcoder import transcoder
from jaxinterp.evaluation import behaviour

SITE, LATER, WIDTH, K = "L2.resid_post", ("L3.resid_post", "L5.resid_post"), 256, 4
TEXTS = [
    f"The {a} module returns a new {b} object. If the {a} is empty, a {b}Error is raised. "
    for a in ("queue", "array", "path", "socket", "thread", "buffer")
    for b in ("list", "value", "index")
]


@pytest.fixture(scope="module")
def rows(shipped):
    documents = [data.Document(str(i), text) for i, text in enumerate(TEXTS)]
    return data.token_rows(documents, shipped.tokenizer, 32)


@pytest.fixture(scope="module")
def batch(rows):
    tokens, mask = jnp.asarray(rows.tokens[:5]), jnp.asarray(rows.mask[:5])
    assert not mask.all()  # padding is part of what is tested
    return tokens, mask


def activations(shipped, batch, sites, **edits):
    def run(tokens, mask):
        return shipped.forward(
            shipped.params, shipped.config, tokens, mask=mask, capture=sites, **edits
        )

    return jax.jit(run)(*batch)


def some_params(dictionary, batch):
    params = dictionary.init(jax.random.key(0), batch)
    noise = 0.1 * jax.random.normal(jax.random.key(1), params["encoder"].shape)
    return params | {"encoder": params["encoder"] + noise}


def test_every_term_equals_its_definition_in_numpy(shipped, batch):
    tokens, mask = (np.asarray(a) for a in batch)
    plain = topk(WIDTH, K)
    dictionary = end_to_end(
        plain,
        shipped,
        SITE,
        kl_weight=2.0,
        cross_entropy_weight=0.5,
        local_weight=0.25,
        downstream=LATER,
        downstream_weight=3.0,
    )
    params = some_params(dictionary, batch)
    loss, info = jax.jit(dictionary.loss)(params, base.new_stats(WIDTH), *batch, jax.random.key(0))

    clean, seen = activations(shipped, batch, (SITE, *LATER))
    real = mask.copy()
    real[:, 0] = False
    new = plain.decode(params, plain.encode(params, seen[SITE]))
    new = jnp.where(jnp.asarray(real)[:, :, None], new, seen[SITE])
    edits = {SITE: lambda value, layer: new}
    spliced, later = activations(shipped, batch, LATER, edits=edits)
    p, q = (np.asarray(jax.nn.log_softmax(a), np.float64) for a in (clean, spliced))
    kl = (np.exp(p) * (p - q)).sum(-1)[real].mean()
    nats = -np.take_along_axis(q[:, :-1], tokens[:, 1:, None], 2)[..., 0]
    cross_entropy = nats[mask[:, 1:]].mean()
    apart = np.mean([np.square(np.asarray(later[s] - seen[s]))[real].mean() for s in LATER])
    assert kl > 0.1
    np.testing.assert_allclose(info.metrics["kl"], kl, rtol=1e-4)
    np.testing.assert_allclose(info.metrics["cross_entropy"], cross_entropy, rtol=1e-4)
    np.testing.assert_allclose(info.metrics["downstream"], apart, rtol=1e-4)
    local = info.metrics["local"]
    np.testing.assert_allclose(
        loss, 2 * kl + 0.5 * cross_entropy + 0.25 * local + 3 * apart, rtol=1e-4
    )


@pytest.mark.slow
def test_the_local_term_sees_every_real_token_and_no_other(shipped, batch):
    """With all tokens seen once the term is the plain loss; here fillers repeat, so close to it."""
    plain = relu(WIDTH, weight=0.0)
    dictionary = end_to_end(plain, shipped, SITE, kl_weight=0.0, local_weight=1.0)
    params = some_params(dictionary, batch)
    poisoned = np.asarray(batch[0]).copy()
    poisoned[~np.asarray(batch[1])] = 7  # what stands at padding changes nothing
    loss = jax.jit(dictionary.loss)
    one, _ = loss(params, base.new_stats(WIDTH), *batch, jax.random.key(0))
    other, _ = loss(
        params, base.new_stats(WIDTH), jnp.asarray(poisoned), batch[1], jax.random.key(0)
    )
    np.testing.assert_allclose(one, other, rtol=1e-5)
    real = np.asarray(batch[1]).copy()
    real[:, 0] = False
    x = activations(shipped, batch, (SITE,))[1][SITE][real]
    expected, _ = plain.loss(params, base.new_stats(WIDTH), x, x, jax.random.key(0))
    assert abs(float(one / expected) - 1) < 0.1


def train(ours, batch, steps):
    state = jax.jit(ours.init)(jax.random.key(0), batch)

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda s, _: ours.step(s, batch), state, None, steps)

    return run(state)


@pytest.mark.slow
def test_kl_and_downstream_error_fall_below_those_of_the_plain_loss(shipped, rows):
    """Same start, same steps, same k: through the model, the model suffers less."""
    whole = jnp.asarray(rows.tokens), jnp.asarray(rows.mask)
    losses = {
        "plain": {"kl_weight": 0.0, "local_weight": 1.0},
        "end to end": {"kl_weight": 1.0, "local_weight": 0.2, "downstream_weight": 0.5},
    }
    reached, trained = {}, {}
    for name, weights in losses.items():
        dictionary = end_to_end(topk(WIDTH, K), shipped, SITE, downstream=LATER, **weights)
        state, info = train(learner(dictionary, optax.adam(2e-3)), whole, 150)
        reached[name] = {k: np.asarray(v) for k, v in info.items()}
        trained[name] = state.params
    plain, through = reached["plain"], reached["end to end"]
    assert through["kl"][-1] < 0.2 * through["kl"][0]
    assert through["kl"][-1] < 0.7 * plain["kl"][-1]
    assert through["downstream"][-1] < plain["downstream"][-1]
    assert plain["l0"][-1] == through["l0"][-1] == K
    assert plain["local"][-1] < through["local"][-1]  # which is the price

    mean = np.zeros(shipped.config.d_model, np.float32)
    suffered = {
        name: behaviour.cross_entropy(shipped, topk(WIDTH, K), params, rows, SITE, mean)
        for name, params in trained.items()
    }
    apart = {name: losses.spliced_divergence for name, losses in suffered.items()}
    assert apart["end to end"] < 0.8 * apart["plain"]


@pytest.mark.slow
def test_a_transcoder_goes_where_it_writes(shipped, batch):
    """Trained through the model, it replaces the perceptron's output and leaves its input alone."""
    dictionary = end_to_end(
        transcoder(topk, width=WIDTH, k=K), shipped, "L2.ln2", into="L2.mlp_out"
    )
    ours = learner(dictionary, optax.adam(3e-3))
    _, info = train(ours, batch, 30)
    assert info["kl"][-1] < 0.5 * info["kl"][0]
    empty = activations(shipped, batch, ("L2.mlp_out",))[1]["L2.mlp_out"]
    params = dictionary.init(jax.random.key(0), batch)
    assert params["decoder_bias"].shape == empty.shape[-1:]


@pytest.mark.slow
def test_model_parameters_may_be_arguments_of_the_compiled_step(shipped, batch):
    """Built inside the jitted function, the model is an argument and not a constant in it."""

    @jax.jit
    def loss(model, params):
        dictionary = end_to_end(topk(WIDTH, K), shipped._replace(params=model), SITE)
        return dictionary.loss(params, base.new_stats(WIDTH), *batch, jax.random.key(0))[0]

    closed = end_to_end(topk(WIDTH, K), shipped, SITE)
    params = some_params(closed, batch)
    expected = jax.jit(closed.loss)(params, base.new_stats(WIDTH), *batch, jax.random.key(0))[0]
    np.testing.assert_allclose(loss(shipped.params, params), expected, rtol=1e-4)
    size = max(a.size for a in jax.tree.leaves(shipped.params))
    consts = jax.make_jaxpr(loss)(shipped.params, params).consts
    assert all(np.size(c) < size for c in consts)


def test_bad_sites_are_refused(shipped, batch):
    for site, message in (("L2.resid_pots", "did you mean"), ("resid_post", "name one layer")):
        with pytest.raises(ValueError, match=message):
            end_to_end(topk(WIDTH, K), shipped, site).init(jax.random.key(0), batch)
