"""Give L0, get L0: on real activations, held out, and on a process with a known answer."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.dictionaries import train
from jaxinterp.dictionaries.control import target_l0
from jaxinterp.dictionaries.jumprelu import jumprelu
from jaxinterp.dictionaries.optimizers import learning_rate, optimizer, scale_by_name
from jaxinterp.dictionaries.relu import relu

WIDTH, STEPS, BATCH = 256, 1500, 256


@pytest.fixture(scope="module")
def activations(shipped):
    """Layer 2 of the shipped model on the text of Python's own docstrings: (in, out)."""
    text = "\n".join(filter(None, (module.__doc__ for module in (jax, jnp, np, optax, math))))
    text += "\n".join(filter(None, (getattr(np, name).__doc__ for name in np.__all__)))
    ids = shipped.tokenizer.encode_batch([text])[0][: 200 * 127]
    rows = np.asarray(ids[: len(ids) // 127 * 127]).reshape(-1, 127)
    tokens = np.concatenate([np.full((len(rows), 1), shipped.tokenizer.bos), rows], axis=1)
    run = jax.jit(
        lambda tokens: shipped.forward(
            shipped.params, shipped.config, tokens, capture=("L2.resid_post",), return_logits=False
        )[1]["L2.resid_post"][:, 1:]
    )
    x = run(jnp.asarray(tokens)).reshape(-1, shipped.config.d_model)
    x = x / jnp.sqrt(jnp.square(x).mean())
    order = np.random.default_rng(0).permutation(len(x))
    return x[order[4000:]], x[order[:4000]]


VARIANTS = {
    "relu": lambda weight: relu(WIDTH, weight=weight),
    "jumprelu": lambda weight: jumprelu(WIDTH, weight=weight),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("target", [12.0, 40.0])
def test_l0_on_held_out_activations_is_within_5_percent_of_the_target(name, target, activations):
    held_in, held_out = activations
    assert len(held_in) > 20_000
    make, rate = VARIANTS[name], learning_rate(2e-3, steps=STEPS, warmup=50)
    adam = optax.chain(optimizer("adam", rate), scale_by_name({"threshold": 10.0}))
    one = target_l0(make, adam, target)
    state = jax.jit(one.init)(jax.random.key(0), held_in)
    *_, last = train.fit(one, state, held_in, steps=STEPS, batch=BATCH, seed=0, chunk=100)
    codes = make(1.0).encode(one.params(last.state), held_out)
    assert float((codes > 0).sum(1).mean()) == pytest.approx(target, rel=0.05)
    assert last.info["variance_explained"][-1] > 0.3


def test_the_controller_finds_the_weight_of_a_lagging_process():
    """L0 = 100 / weight, approached with a time constant of 50 steps."""
    quiet = relu(8)

    def make(weight):
        def loss(params, stats, x, target, key):
            value, info = quiet.loss(params, stats, x, target, key)
            l0 = params["lagging"]
            metrics = info.metrics | {"l0": l0}
            new = l0 + (100 / weight - l0) / 50
            return 0.0 * value, info._replace(metrics=metrics, assigned={"lagging": new})

        def init(key, sample):
            return quiet.init(key, sample) | {"lagging": jnp.asarray(500.0)}

        return quiet._replace(init=init, loss=loss)

    one = target_l0(make, optax.sgd(0.0), 20.0)
    x = jnp.ones((16, 4)) * jnp.arange(4.0)[None]
    state = one.init(jax.random.key(0), x)
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: one.step(s, x), s, length=1500))
    _, info = run(state)
    assert float(info["l0"][-1]) == pytest.approx(20.0, rel=0.01)
    assert float(info["penalty_weight"][-1]) == pytest.approx(5.0, rel=0.01)
    assert float(info["l0"].min()) > 10.0  # no overshoot that would kill latents


def test_a_fit_may_start_from_an_eager_state_and_leaves_the_learner_whole():
    """The fit donates the state, so no buffer may be in it twice or belong to the learner."""
    x = jax.random.normal(jax.random.key(1), (16, 4))
    one = target_l0(lambda weight: relu(8, weight=weight), optax.sgd(0.1), 2.0, first_weight=0.5)
    (last,) = train.fit(one, one.init(jax.random.key(0), x), x, steps=2, batch=8, seed=0)
    assert last.info["penalty_weight"][0] == pytest.approx(0.5, rel=1e-6)
    again = one.init(jax.random.key(0), x).control
    assert float(again.log_weight) == pytest.approx(math.log(0.5), rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": 0}, "target is 0: it must be positive"),
        ({"target": jnp.float32(-1)}, r"target is -1\.0"),
        ({"first_weight": -1.0}, r"first_weight is -1\.0"),
        ({"ramp": 0}, "ramp is 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        target_l0(lambda w: relu(8, weight=w), optax.sgd(0.1), **{"target": 3} | settings)
