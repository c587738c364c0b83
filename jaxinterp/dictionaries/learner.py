"""How something learns: `step(state, batch) -> (state, info)`, pure."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, Key

from jaxinterp.dictionaries.averaging import assign, evaluation_params
from jaxinterp.dictionaries.base import Dictionary, Params, Stats, new_stats


class TrainState(NamedTuple):
    """What the next step needs.

    Attributes:
        params: the dictionary's parameters.
        optimizer: the optimiser's state.
        stats: firing statistics.
        key: the run's key; step t uses `fold_in(key, t)`.
        control: what a controller of the loss remembers (see `control`).
    """

    params: Any
    optimizer: Any
    stats: Stats
    key: Key[Array, "..."]
    control: Any = ()

    @property
    def step(self) -> Int[Array, "..."]:
        """Steps taken; every state that `train.fit` carries has this."""
        return self.stats.step


class Learner(NamedTuple):
    """How something learns, whatever it is.

    Attributes:
        init: `(key, sample) -> state`.
        step: `(state, batch) -> (state, info)`, info a flat dict of scalars with at least `loss`.
            Not jitted: the caller owns `jax.jit` and the donation of the state.
        params: `state -> params` to evaluate and to keep, which an average of the weights may make
            different from those that are trained.
        place: `batch -> batch`, where the step wants it to lie; called outside of the step. See
            `sharding.sharded`.
    """

    init: Callable[..., Any]
    step: Callable[..., tuple[Any, dict[str, Array]]]
    params: Callable[[Any], Params] = lambda state: state.params
    place: Callable[[Any], Any] = lambda batch: batch


def learner(dictionary: Dictionary, optimizer: optax.GradientTransformation) -> Learner:
    """Gradient descent on a dictionary's loss, staying on its constraints.

    The gradient is made tangent to the constraints before the optimiser sees it, and the
    parameters are projected back after the update: leaving out the first of the two costs
    reconstruction, since the optimiser's moments fill up with a direction that is thrown away.

    Args:
        dictionary: any variant.
        optimizer: any optax transformation; `optimizers` has recipes.

    Returns:
        The learner. Its batch is an array (b, d), or a pair (x, target).
    """

    def init(key: Key[Array, ""], sample: Any) -> TrainState:
        start, run = jax.random.split(key)
        sample = jax.tree.map(jnp.asarray, sample)  # a feed from a file gives NumPy arrays
        params = dictionary.project(dictionary.init(start, sample))
        return TrainState(params, optimizer.init(params), new_stats(dictionary.width), run)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Array]]:
        x, target = batch if isinstance(batch, tuple) else (batch, batch)
        key = jax.random.fold_in(state.key, state.stats.step)
        (loss, info), gradient = jax.value_and_grad(dictionary.loss, has_aux=True)(
            state.params, state.stats, x, target, key
        )
        gradient = dictionary.tangent(state.params, gradient)
        updates, new_optimizer = optimizer.update(gradient, state.optimizer, state.params)
        params = dictionary.project(optax.apply_updates(state.params, updates))
        if info.assigned:
            params = params | info.assigned
            new_optimizer = assign(new_optimizer, info.assigned)
        silent = jnp.where(info.fired, 0, _add_saturating(state.stats.silent, x.shape[0]))
        metrics = info.metrics | {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
        stats = Stats(silent, state.stats.step + 1)
        return state._replace(params=params, optimizer=new_optimizer, stats=stats), metrics

    def params(state: TrainState) -> Params:
        return dictionary.project(evaluation_params(state.optimizer, state.params))

    return Learner(init, step, params)


def is_finite(info: dict[str, Any]) -> Bool[Array, "..."]:
    """Whether loss and gradient are numbers, for each member where there are several."""
    return jnp.isfinite(info["loss"]) & jnp.isfinite(info.get("gradient_norm", 0.0))


def _add_saturating(count: Array, rows: int) -> Array:
    """Adds to an int32 counter that stops, rather than wraps, after two billion rows."""
    return jnp.where(count < 2**31 - 1 - rows, count + rows, count)
