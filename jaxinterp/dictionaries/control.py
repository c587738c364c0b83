"""Target-L0 control: say how many latents should be active, and the penalty finds its weight."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries.base import Dictionary, Params
from jaxinterp.dictionaries.learner import Learner, TrainState, learner

_FASTEST = 0.05  # largest change of the log weight in a step


class ControlState(NamedTuple):
    """What the controller remembers.

    Attributes:
        log_weight: natural logarithm of the penalty's weight.
        log_l0: that of the smoothed L0; NaN before the first step.
        log_first: that of the L0 at the first step, where the ramp begins; NaN before it.
    """

    log_weight: Float[Array, ""]
    log_l0: Float[Array, ""]
    log_first: Float[Array, ""]


def target_l0(
    make: Callable[[Array], Dictionary],
    optimizer: optax.GradientTransformation,
    target: float | int | Array,
    *,
    first_weight: float | Array = 1e-2,
    ramp: int = 300,
    gain: float | Array = 2e-2,
    damping: float | Array = 2.0,
    smoothing: float | Array = 0.9,
    learn: Callable[[Dictionary, optax.GradientTransformation], Learner] = learner,
) -> Learner:
    r"""A learner whose dictionary reaches a given L0.

    With $e_t = \log \bar L_t - \log r_t$ the distance of the smoothed L0 from its reference,

    $\log \lambda_{t+1} = \log \lambda_t + k_i\, e_t + k_p\, (e_t - e_{t-1})$:

    a proportional-integral controller of the logarithm, so that one gain serves any unit of the
    penalty. The reference $r_t$ goes geometrically from the L0 of the first step to the target:
    without it the integral would grow while the codes are still dense, and kill latents later.

    Args:
        make: penalty weight -> dictionary, for a variant whose L0 falls as the weight grows:
            `lambda weight: relu(1024, weight=weight)`.
        optimizer: any optax transformation.
        target: mean number of active latents per row.
        first_weight: weight at the first step; the controller moves it by up to 5 % a step.
        ramp: steps over which the reference falls to the target.
        gain: $k_i$, per step. Far above one over the number of steps that L0 takes to answer, L0
            swings around the target; far below, it is reached late.
        damping: $k_p$, which answers the change of the error.
        smoothing: decay of the running mean of log L0.
        learn: how a dictionary learns; `functools.partial(resampled, ...)` for one that resamples.

    Returns:
        The learner; it reports `penalty_weight`, and its state holds the controller's.

    Raises:
        ValueError: a ramp below 1, or a concrete target or first weight that is not positive.
    """
    for name, value in (("target", target), ("first_weight", first_weight), ("ramp", ramp)):
        if not isinstance(value, Tracer) and not np.all(np.asarray(value) > 0):
            raise ValueError(f"{name} is {value}: it must be positive")
    goal = jnp.log(jnp.asarray(target, jnp.float32))
    start = jnp.log(jnp.asarray(first_weight, jnp.float32))

    def at(state: TrainState) -> Learner:
        return learn(make(jnp.exp(state.control.log_weight)), optimizer)

    def init(key: Key[Array, ""], sample: Float[Array, "n d"]) -> TrainState:
        # Buffers of their own: the state is donated, and a second run starts from the same weight.
        unknown = jnp.full(2, jnp.nan, jnp.float32)
        control = ControlState(jnp.array(start), unknown[0], unknown[1])
        state = learn(make(jnp.exp(start)), optimizer).init(key, sample)
        return state._replace(control=control)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Array]]:
        weight = jnp.exp(state.control.log_weight)
        new, info = at(state).step(state, batch)
        control = regulate(state.control, info["l0"], state.step)
        return new._replace(control=control), info | {"penalty_weight": weight}

    def regulate(control: ControlState, l0: Array, step: Array) -> ControlState:
        now = jnp.log(jnp.maximum(l0, 1e-2)).astype(jnp.float32)
        new = jnp.isnan(control.log_first)
        first = jnp.where(new, now, control.log_first)
        before = jnp.where(new, now, control.log_l0)
        smooth = smoothing * before + (1 - smoothing) * now

        def reference(step: Array) -> Array:
            return first + jnp.minimum(step / ramp, 1.0) * (goal - first)

        error = smooth - reference(step)
        change = error - (before - reference(step - 1))
        move = jnp.clip(gain * error + damping * change, -_FASTEST, _FASTEST)
        return ControlState(control.log_weight + move, smooth, first)

    def params(state: TrainState) -> Params:
        return at(state).params(state)

    return Learner(init, step, params)
