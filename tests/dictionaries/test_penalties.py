from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from jaxinterp.dictionaries import base, kernels, penalties, thresholds
from jaxinterp.dictionaries.cross_layer_jumprelu import cross_layer_jumprelu
from jaxinterp.dictionaries.jumprelu import jumprelu
from jaxinterp.dictionaries.relu import relu

Z = np.array([[0.0, 2.0, 1.0], [0.0, 0.0, 0.0], [3.0, 0.0, 4.0]], np.float32)
NORMS = np.array([1.0, 0.5, 2.0], np.float32)
W = Z * NORMS
ACTIVITY = penalties.Activity(jnp.asarray(Z), jnp.asarray(NORMS), jnp.asarray((Z > 0).sum(1) * 1.0))
EXPECTED = {
    penalties.l1: W.sum(1).mean(),
    penalties.plain_l1: Z.sum(1).mean(),
    penalties.l1_sqrt: np.sqrt(W.sum(1)).mean(),
    penalties.tanh: np.tanh(4 * W).sum(1).mean(),
    partial(penalties.tanh, scale=0.5): np.tanh(0.5 * W).sum(1).mean(),
    penalties.hoyer: (9 / 5 + 0 + 11**2 / 73) / 3,
    partial(penalties.power, p=0.5): np.sqrt(Z).sum(1).mean(),
    partial(penalties.towards_count, target=4.0): (2 / 4) * (4 + 16 + 4) / 3,
    partial(penalties.towards_mean_count, target=4.0): (1 / 3 - 1) ** 2,
    penalties.count: 4 / 3,
}


def name_of(penalty):
    return getattr(penalty, "__name__", str(getattr(penalty, "keywords", penalty)))


@pytest.mark.parametrize("penalty", EXPECTED, ids=name_of)
def test_penalties_have_their_values_and_finite_gradients_at_zero(penalty):
    np.testing.assert_allclose(penalty(ACTIVITY), EXPECTED[penalty], rtol=1e-6)
    gradient = jax.grad(lambda z: penalty(ACTIVITY._replace(values=z)))(ACTIVITY.values)
    assert bool(jnp.isfinite(gradient).all())


def test_penalties_that_see_lengths_do_not_change_with_the_scale_of_atoms():
    c = jnp.asarray([0.1, 7.0, 3.0])
    scaled = ACTIVITY._replace(values=ACTIVITY.values / c[None], norms=ACTIVITY.norms * c)
    for penalty in (penalties.l1, penalties.l1_sqrt, penalties.tanh, penalties.hoyer):
        np.testing.assert_allclose(penalty(scaled), penalty(ACTIVITY), rtol=1e-6)
    assert abs(float(penalties.plain_l1(scaled) / penalties.plain_l1(ACTIVITY) - 1)) > 0.1


def test_atom_norms_are_safe_at_zero():
    value, gradient = jax.value_and_grad(lambda d: penalties.atom_norms(d).sum())(jnp.zeros((2, 3)))
    assert value == 0
    assert bool((gradient == 0).all())


@pytest.mark.parametrize("weight", [0.3, jnp.asarray(0.3), lambda step: 0.1 * step])
def test_a_weight_is_a_number_or_a_schedule(weight):
    np.testing.assert_allclose(penalties.weight_at(weight, jnp.asarray(3)), 0.3, rtol=1e-6)


KERNELS = [
    kernels.rectangle,
    kernels.triangle,
    kernels.epanechnikov,
    kernels.quartic,
    kernels.cosine,
    kernels.gaussian,
    kernels.cauchy,
    kernels.silverman,
]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.__name__)
def test_kernels_are_even_and_of_unit_integral(kernel):
    u = np.linspace(-40, 40, 1_600_001)
    values = np.asarray(kernel(jnp.asarray(u, jnp.float32)), np.float64)
    tail = 0.0
    if kernel is kernels.cauchy:
        tail = 2 * quad(lambda v: 2 / (np.pi * (1 + 4 * v * v)), 40, np.inf)[0]
    np.testing.assert_allclose(np.trapezoid(values, u) + tail, 1.0, atol=2e-4)
    np.testing.assert_allclose(values, values[::-1], atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.__name__)
def test_pseudo_gradient_of_the_count_is_minus_the_density(kernel):
    """Normal scores: d E[count] / d theta = -density, up to the bias of the bandwidth."""
    theta, n = jnp.asarray([0.5, -0.2, 1.0]), 200_000
    h = jax.random.normal(jax.random.key(0), (n, 3))

    def mean_count(theta):
        return thresholds.jump(h, theta, jnp.asarray(0.2), kernel)[1].mean()

    density = np.exp(-(np.asarray(theta) ** 2) / 2) / np.sqrt(2 * np.pi)
    tolerance = 0.05 if kernel is kernels.cauchy else 0.01
    np.testing.assert_allclose(jax.grad(mean_count)(theta), -density, atol=tolerance)


def test_jump_follows_its_definition():
    """Every pseudo-gradient by hand, one score inside the window above, one below, one outside."""
    h, theta, width = jnp.asarray([[0.55, 0.45, 0.9]]), jnp.full(3, 0.5), jnp.asarray(0.2)
    to_codes, to_count = jnp.asarray([[2.0, 3.0, 5.0]]), jnp.asarray([7.0])

    def gradients(reach):
        outputs, pullback = jax.vjp(
            lambda h, t: thresholds.jump(h, t, width, kernels.rectangle, reach), h, theta
        )
        np.testing.assert_allclose(outputs[0], [[0.55, 0.0, 0.9]])
        np.testing.assert_allclose(outputs[1], [2.0])
        return pullback((to_codes, to_count))

    to_h, to_theta = gradients(False)
    pull = np.array([(2 * 0.5 + 7) / 0.2, (3 * 0.5 + 7) / 0.2, 0.0])
    np.testing.assert_allclose(to_theta, -pull, rtol=1e-6)
    np.testing.assert_allclose(to_h, [[2.0, 0.0, 5.0]])
    np.testing.assert_allclose(gradients(True)[0][0], np.array([2.0, 0.0, 5.0]) + pull, rtol=1e-6)


def test_thresholds_stay_in_float32_under_bfloat16_scores():
    """A threshold between two numbers of bfloat16 is compared as it is."""
    h = jax.random.normal(jax.random.key(1), (64, 4)).astype(jnp.bfloat16)
    theta = jnp.full(4, 1.0 + 1e-4, jnp.float32)
    z, count = thresholds.jump(h, theta, jnp.asarray(0.1))
    assert (z.dtype, count.dtype) == (jnp.bfloat16, jnp.float32)
    exact = thresholds.jump(h.astype(jnp.float32), theta, jnp.asarray(0.1))
    np.testing.assert_array_equal(count, exact[1])
    gradient = jax.grad(lambda t: thresholds.jump(h, t, jnp.asarray(0.1))[1].sum())(theta)
    assert gradient.dtype == jnp.float32
    params = jumprelu(4, threshold=thresholds.logarithmic).init(jax.random.key(0), jnp.ones((5, 3)))
    assert params["log_threshold"].dtype == jnp.float32


def test_both_parameterisations_are_the_same_function():
    x = jax.random.normal(jax.random.key(2), (40, 6))
    stats, results = base.new_stats(12), {}
    for form in (thresholds.direct, thresholds.logarithmic):
        dictionary = jumprelu(12, threshold=form, first_threshold=0.3, bandwidth=0.5, weight=0.1)
        params = dictionary.init(jax.random.key(3), x)
        results[form], gradient = jax.value_and_grad(
            lambda p, d=dictionary: d.loss(p, stats, x, x, jax.random.key(0))[0]
        )(params)
        name = next(key for key in params if key.endswith("threshold"))
        results[name] = gradient[name]
    assert results[thresholds.direct] == results[thresholds.logarithmic]
    np.testing.assert_allclose(results["log_threshold"], 0.3 * results["threshold"], rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda w: relu(24, weight=w),
        lambda w: jumprelu(24, weight=w, bandwidth=w, pre_activation_weight=w),
        lambda w: jumprelu(24, penalty=partial(penalties.towards_count, target=10 * w)),
    ],
)
def test_hyper_parameters_may_be_traced(make):
    """A sweep over a penalty in one program equals its members."""
    x = jax.random.normal(jax.random.key(4), (32, 6))
    params = relu(24).init(jax.random.key(0), x) | {"threshold": jnp.full(24, 0.1)}
    silent = jnp.where(jnp.arange(24) < 5, 10**6, 0)
    stats = base.Stats(silent, jnp.zeros((), jnp.int32))

    def loss(w):
        return make(w).loss(params, stats, x, x, jax.random.key(0))[0]

    weights = jnp.asarray([0.1, 0.5, 2.0])
    together = jax.jit(jax.vmap(loss))(weights)
    np.testing.assert_allclose(together, [loss(float(w)) for w in weights], rtol=1e-5)
    assert len(set(np.asarray(together).tolist())) == 3


def test_dead_latents_alone_are_pulled_to_their_threshold():
    x = jax.random.normal(jax.random.key(5), (32, 6))
    dead = jnp.arange(24) < 6
    stats = base.Stats(jnp.where(dead, 10**6, 0), jnp.zeros((), jnp.int32))

    def bias_gradient(mu):
        dictionary = jumprelu(24, pre_activation_weight=mu, weight=0.0)
        params = dictionary.init(jax.random.key(0), x)
        params = params | {"encoder_bias": jnp.full(24, -50.0)}
        loss = lambda p: dictionary.loss(p, stats, x, x, jax.random.key(0))[0]  # noqa: E731
        return jax.grad(loss)(params)["encoder_bias"]

    np.testing.assert_allclose(bias_gradient(0.5), jnp.where(dead, -0.5, 0.0), rtol=1e-5)
    assert bool((bias_gradient(0.0) == 0).all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first_threshold": -0.1}, r"first_threshold=-0\.1 must be positive"),
        (
            {"first_threshold": jnp.zeros(()), "threshold": thresholds.logarithmic},
            r"first_threshold=0\.0",
        ),
        ({"bandwidth": jnp.zeros(())}, r"bandwidth=0\.0 must be positive"),
        ({"bandwidth": -1.0}, r"bandwidth=-1\.0"),
    ],
)
def test_a_threshold_or_bandwidth_that_is_not_positive_is_refused(settings, message):
    for make in (jumprelu, partial(cross_layer_jumprelu, 2)):
        with pytest.raises(ValueError, match=message):
            make(8, **settings)


def test_direct_thresholds_are_brought_back_to_zero_after_a_step():
    dictionary = jumprelu(4)
    params = dictionary.init(jax.random.key(0), jnp.ones((5, 3)))
    params = dictionary.project(params | {"threshold": jnp.asarray([-0.3, 0.0, 0.2, 1.0])})
    np.testing.assert_allclose(params["threshold"], [0.0, 0.0, 0.2, 1.0])
