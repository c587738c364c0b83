import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.encoders import recommender


def test_states_are_those_of_torch():
    torch = pytest.importorskip("torch")
    params = recommender.begin(jax.random.key(0), items=30, dimension=8)
    params["bias"] = jax.random.normal(jax.random.key(1), (24,))
    history = np.random.default_rng(0).integers(0, 30, (5, 7))
    gru = torch.nn.GRU(8, 8, batch_first=True)
    order = [1, 0, 2]  # torch has the reset gate first

    def gates(array):
        return torch.tensor(np.concatenate([np.split(np.asarray(array).T, 3)[i] for i in order]))

    with torch.no_grad():
        gru.weight_ih_l0.copy_(gates(params["input"]))
        gru.weight_hh_l0.copy_(gates(params["state"]))
        gru.bias_ih_l0.copy_(gates(params["bias"]))
        gru.bias_hh_l0.zero_()
        theirs = gru(torch.tensor(np.asarray(params["items"])[history]))[0].numpy()
    np.testing.assert_allclose(recommender.states(params, jnp.asarray(history)), theirs, atol=2e-6)


def test_the_state_does_not_look_ahead():
    params = recommender.begin(jax.random.key(0), items=30, dimension=8)
    history = np.random.default_rng(0).integers(0, 30, (4, 9))
    other = history.copy()
    other[:, 5:] = 29 - other[:, 5:]
    first, second = (recommender.states(params, jnp.asarray(h)) for h in (history, other))
    np.testing.assert_array_equal(first[:, :5], second[:, :5])
    assert (np.abs(first[:, 5:] - second[:, 5:]).max((1, 2)) > 1e-3).all()


def test_scores_do_not_depend_on_the_size_of_the_state():
    params = recommender.begin(jax.random.key(0), items=30, dimension=8)
    h = jax.random.normal(jax.random.key(1), (6, 8))
    scores = recommender.score(params, h)
    np.testing.assert_allclose(scores, recommender.score(params, 3 * h + 1), atol=1e-4)
    assert scores.shape == (6, 30)


def test_it_learns_what_comes_next():
    """Items that go round in a circle: the next one is certain."""
    starts = np.random.default_rng(0).integers(0, 12, 64)
    sequences = jnp.asarray((starts[:, None] + np.arange(8)) % 12)
    params = recommender.begin(jax.random.key(0), items=12, dimension=16)
    adam = optax.adam(3e-2)

    @jax.jit
    def step(carry, _):
        params, moments = carry
        gradient = jax.grad(recommender.next_item_loss)(params, sequences)
        updates, moments = adam.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments), None

    before = recommender.next_item_loss(params, sequences)
    (params, _), _ = jax.lax.scan(step, (params, adam.init(params)), length=150)
    assert before > 0.5 * np.log(12)
    assert recommender.next_item_loss(params, sequences) < 0.05


def test_sequences_without_a_next_item_are_refused():
    params = recommender.begin(jax.random.key(0), items=3, dimension=4)
    with pytest.raises(ValueError, match=r"\(2, 1\)"):
        recommender.next_item_loss(params, jnp.zeros((2, 1), int))
