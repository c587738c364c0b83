"""Resampling: dead latents start again at rows that the dictionary gets wrong."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Key

from jaxinterp.dictionaries.base import Dictionary, Params, unit_rows
from jaxinterp.dictionaries.learner import Learner, TrainState, learner


def resampled(
    dictionary: Dictionary,
    optimizer: optax.GradientTransformation,
    *,
    every: int,
    until: int,
    dead_after: int = 100_000,
    scale: float | Array = 0.2,
) -> Learner:
    r"""A learner that gives dead latents a new start from time to time.

    Every `every` steps, each latent that was silent for more than `dead_after` rows takes one row
    of the batch, drawn without repetition with probability proportional to $\lVert e \rVert^4$,
    the square of that row's loss. With $v$ the row less the decoder's bias, its atom becomes
    $v / \lVert v \rVert$, its encoder row the same direction with `scale` times the mean norm of
    the live encoder rows, its encoder bias zero, and what the optimiser remembers of these rows is
    reset, as is their silence. Where more latents are dead than the batch has rows, the others
    wait for the next time.

    Two departures from the reference: the rows come from the batch of that step rather than from
    a sample of 819,200, so that a step stays a function of its batch, and the decoder's bias is
    taken off, since the encoder reads the input without it.

    Args:
        dictionary: a variant with parameters `encoder` and `decoder` (width, d), `encoder_bias`
            (width) and `decoder_bias` (d).
        optimizer: any optax transformation.
        every: steps between two resamplings.
        until: no resampling from this step on; leave the last part of a run without.
        dead_after: rows of silence after which a latent is dead.
        scale: norm of new encoder rows, in mean norms of live ones.

    Returns:
        The learner; it reports `resampled`, the number of latents that started again.

    Raises:
        ValueError: `every` below 1, or from `init` a dictionary of other parameters.

    Reference:
        Bricken et al. (2023), "Towards monosemanticity", appendix "Neuron resampling".
    """
    if every < 1:
        raise ValueError(f"every is {every}: resampling needs at least one step in between")
    inner = learner(dictionary, optimizer)

    def init(key: Key[Array, ""], sample: Any) -> TrainState:
        state = inner.init(key, sample)
        _check_parameters(state.params, dictionary.width)
        return state

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Array]]:
        x, target = batch if isinstance(batch, tuple) else (batch, batch)
        state, info = inner.step(state, batch)
        dead = state.stats.silent > dead_after
        due = (state.step % every == 0) & (state.step < until) & dead.any()
        # The learner's own key of this step is fold_in(key, step - 1); this one is apart from it.
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 1)

        def again(state: TrainState) -> tuple[TrainState, Array]:
            error = target - dictionary.decode(state.params, dictionary.encode(state.params, x))
            chosen = _rows_by_loss(key, jnp.square(error).sum(1))
            place = jnp.cumsum(dead) - 1
            taken = dead & (place < x.shape[0])
            rows = x[chosen[jnp.clip(place, 0, x.shape[0] - 1)]]
            return _restart(optimizer, state, rows, dead, taken, scale), taken.sum()

        def as_is(state: TrainState) -> tuple[TrainState, Array]:
            return state, jnp.zeros((), dead.sum().dtype)

        state, count = jax.lax.cond(due, again, as_is, state)
        return state, info | {"resampled": count.astype(jnp.float32)}

    return Learner(init, step, inner.params)


def _check_parameters(params: Params, width: int) -> None:
    """Refuses a dictionary whose encoder rows are not directions in the space of its atoms."""
    d = params["decoder"].shape[-1]
    shapes = {"encoder": (width, d), "encoder_bias": (width,)}
    shapes |= {"decoder": (width, d), "decoder_bias": (d,)}
    for name, shape in shapes.items():
        found = params[name].shape if name in params else "not there"
        if found != shape:
            raise ValueError(
                f"parameter {name} is {found} and would have to be {shape}: only a dictionary with "
                "a linear encoder of what it writes can be resampled"
            )


def _rows_by_loss(key: Key[Array, ""], losses: Float[Array, " b"]) -> Array:
    """Row numbers in random order, drawn without repetition in proportion to the loss squared."""
    noise = jax.random.gumbel(key, losses.shape)
    return jnp.argsort(2 * jnp.log(losses + jnp.finfo(losses.dtype).tiny) + noise, descending=True)


def _restart(
    optimizer: optax.GradientTransformation,
    state: TrainState,
    rows: Float[Array, "width d"],
    dead: Bool[Array, " width"],
    taken: Bool[Array, " width"],
    scale: float | Array,
) -> TrainState:
    old = state.params
    directions = unit_rows(rows - old["decoder_bias"][None])
    norms = jnp.linalg.norm(old["encoder"], axis=1)
    # Where all are dead they are all that there is, and with encoders of zero one is as good.
    counted = ~dead | dead.all()
    live = jnp.where(counted, norms, 0.0).sum() / counted.sum()
    live = jnp.where(live > 0, live, 1.0)
    fresh: Params = {
        "decoder": directions,
        "encoder": scale * live * directions,
        "encoder_bias": jnp.zeros_like(old["encoder_bias"]),
    }
    changed = {name: name in fresh for name in old}
    params = old | {name: _where_row(taken, new, old[name]) for name, new in fresh.items()}
    memory = _reset(optimizer, state.optimizer, params, changed, taken)
    stats = state.stats._replace(silent=jnp.where(taken, 0, state.stats.silent))
    return state._replace(params=params, optimizer=memory, stats=stats)


def _reset(
    optimizer: optax.GradientTransformation,
    memory: Any,
    params: Params,
    changed: dict[str, bool],
    taken: Bool[Array, " width"],
) -> Any:
    """What the optimiser would remember of the new rows if it had just begun.

    Moments become zero; copies of the weights (averages, schedule-free iterates) the new weights.
    """

    def absent(part: Any) -> bool:
        """Whether a partitioned optimiser (Muon's) keeps nothing for a parameter here."""
        return isinstance(part, optax.MaskedNode)

    marks = optax.tree_utils.tree_map_params(
        optimizer,
        lambda part, mark: part if absent(part) else mark,
        memory,
        changed,
        transform_non_params=lambda _: False,
        is_leaf=absent,
    )

    def replace(mark: bool, new: Array, old: Array) -> Array:
        return _where_row(taken, new, old) if mark else old

    return jax.tree.map(replace, marks, optimizer.init(params), memory)


def _where_row(rows: Bool[Array, " width"], new: Array, old: Array) -> Array:
    return jnp.where(rows.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
