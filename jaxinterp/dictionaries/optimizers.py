"""Optimisers by name: optax recipes for dictionaries, and what is put around them.

    optimizer("muon", learning_rate(2e-3, steps=20_000, warmup=500), clip=1.0)

Every rate may be a traced scalar, so that a sweep can map over it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxinterp.dictionaries.averaging import average_weights

Schedule = Callable[[Any], Any]
Rate = float | Array | Schedule


def _rms(rate: Rate) -> optax.GradientTransformation:
    """Adam with b1 = 0, without the buffer that a first moment would take."""
    scale = optax.scale_by_rms(decay=0.999, eps_in_sqrt=False, bias_correction=True)
    return optax.chain(scale, optax.scale_by_learning_rate(rate))


def _schedule_free(rate: Rate) -> optax.GradientTransformation:
    return optax.contrib.schedule_free(_rms(rate), rate, b1=0.9)


# adam: (0.9, 0.999). adam_b1_0: without momentum, the choice of Gemma Scope and of JumpReLU's
# paper. muon: orthogonalised momentum for matrices, Adam for vectors. schedule_free: constant rate
# after the warm-up; its average is read by `Learner.params`. sign_momentum: Signum, every weight
# moves by the rate; wants a rate about ten times smaller than Adam's.
RECIPES: dict[str, Callable[[Rate], optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adam_b1_0": _rms,
    "muon": optax.contrib.muon,
    "schedule_free": _schedule_free,
    "sign_momentum": lambda rate: optax.signum(rate, beta=0.95),
}
DECAYS = ("cosine", "linear", "constant")


def learning_rate(
    peak: float | Array, *, steps: int, warmup: int = 0, decay: str = "cosine"
) -> Schedule:
    """A rate that rises linearly from zero, then falls to zero or stays.

    Args:
        peak: highest rate; may be traced.
        steps: steps of the run, at whose end the rate is zero unless `decay` is "constant".
        warmup: steps of the rise.
        decay: "cosine" over all steps after the rise, "linear" over the last fifth of the run or
            what the rise leaves of it, or "constant".

    Returns:
        Step -> rate.

    Raises:
        ValueError: an unknown decay, or a warm-up that does not fit in.
    """
    if decay not in DECAYS:
        raise ValueError(f"decay is {decay!r}: choose one of {', '.join(DECAYS)}")
    if not 0 <= warmup < steps:
        raise ValueError(f"warmup is {warmup} in a run of {steps} steps: need 0 <= warmup < steps")
    if decay == "cosine":
        after = optax.schedules.cosine_decay_schedule(1.0, steps - warmup)
    elif decay == "linear":
        length = min(max(steps // 5, 1), steps - warmup)
        after = optax.schedules.linear_schedule(1.0, 0.0, length, steps - warmup - length)
    else:
        after = optax.schedules.constant_schedule(1.0)
    rise = optax.schedules.linear_schedule(0.0, 1.0, max(warmup, 1))
    shape = optax.schedules.join_schedules([rise, after], [warmup]) if warmup else after
    return lambda step: jnp.asarray(peak * shape(step))


def optimizer(
    name: str,
    rate: Rate,
    *,
    clip: float | None = None,
    average: float | None = None,
    accumulate: int = 1,
) -> optax.GradientTransformation:
    """A recipe with what is usual around it.

    Args:
        name: a key of `RECIPES`.
        rate: learning rate or its schedule, which counts updates of the weights.
        clip: largest norm of the whole gradient; None for no limit.
        average: decay of a running average of the weights, which `Learner.params` then returns;
            None for none.
        accumulate: batches whose mean gradient makes one update.

    Returns:
        The optimiser.

    Raises:
        ValueError: an unknown name, or numbers that cannot be.
    """
    if name not in RECIPES:
        raise ValueError(f"optimizer is {name!r}: choose one of {', '.join(RECIPES)}")
    if clip is not None and clip <= 0:
        raise ValueError(f"clip is {clip}: it must be positive")
    if average is not None and not 0 < average < 1:
        raise ValueError(f"average is {average}: a decay lies between 0 and 1, e.g. 0.999")
    if accumulate < 1:
        raise ValueError(f"accumulate is {accumulate}: it must be at least 1")
    before = [] if clip is None else [clip_by_norm(clip)]
    after = [] if average is None else [average_weights(average)]
    whole = optax.chain(*before, RECIPES[name](rate), *after)
    if accumulate == 1:
        return whole
    return optax.MultiSteps(whole, accumulate).gradient_transformation()


def clip_by_norm(largest: float | Array) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` by one factor for all, which joins the pass that comes next.

    optax divides every element, a result that XLA keeps beside the gradient: twice the memory.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        factor = largest / jnp.maximum(optax.tree.norm(updates), largest)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def scale_by_name(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies the updates of single parameters: learning rates of their own.

    JumpReLU's thresholds move by about Adam's rate per step whatever the penalty, which is slow
    where scores are many rates large; ten times the rate lets the penalty move them.

    Args:
        factors: parameter name -> factor; the others keep theirs.

    Returns:
        A transformation to put after an optimiser, though not after a schedule-free one, whose
        iterates are not its updates.
    """

    def scale(updates: Any, params: Any = None) -> Any:
        del params
        return jax.tree_util.tree_map_with_path(
            lambda path, update: factors.get(str(getattr(path[-1], "key", "")), 1.0) * update,
            updates,
        )

    return optax.stateless(scale)
