"""Many dictionaries trained as one program, on one stream of batches.

    members = {"weight": jnp.array([0.1, 0.3, 1.0]), "rate": jnp.array([1e-3, 1e-3, 3e-4])}
    def make(h): return learner(relu(1024, weight=h["weight"]), optimizer("adam", h["rate"]))
    many = sweep(make, members)
    state = many.init(jax.random.split(key, 3), sample)     # a seed a member, or one key for all

The result is a `Learner` like any other: `fit`, checkpoints and logs take it as it is.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from jaxinterp.dictionaries.base import Params
from jaxinterp.dictionaries.learner import Learner, is_finite

Hyper = Any  # a pytree of numbers; with a leading axis of members, or of one member


class SweepState(NamedTuple):
    """The training states of all members.

    Attributes:
        members: their states, with a leading axis; or the state of each site by name.
        running: which members still learn.
        stopped_at: step at which a member was stopped; -1 while it runs.
        step: steps taken by the sweep.
    """

    members: Any
    running: Bool[Array, " members"]
    stopped_at: Int[Array, " members"]
    step: Int[Array, ""]


def sweep(
    make: Callable[[Hyper], Learner],
    members: Hyper,
    *,
    largest_loss: float = float("inf"),
) -> Learner:
    """A learner that is many learners, which see the same batches.

    What depends on the batch alone is computed once. A member whose loss or gradient is no longer
    a finite number, or whose loss is above `largest_loss`, keeps the state that it had before that
    batch, and reports NaN from then on; the others go on, bit for bit as without it.

    Args:
        make: the numbers of one member -> its learner. The numbers are traced: what must be static
            (a width, a largest k) is the same for all, see `padding` for smaller ones.
        members: a pytree of arrays whose leading axis counts the members.
        largest_loss: above it a member counts as diverged.

    Returns:
        The learner. `init(key, sample)` takes a key for each member, or one that all share; `step`
        reports arrays (members,); `params` has a leading axis of members. `member` reads one.

    Raises:
        ValueError: no members, or leaves with different numbers of them.
    """
    lengths = {
        int(jnp.shape(leaf)[0]) if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(members)
    }
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"the leaves of members have lengths {sorted(lengths)}: give every number one value a "
            "member"
        )
    n = lengths.pop()

    def init(key: Key[Array, "..."], sample: Any) -> SweepState:
        keys = key if key.ndim else jnp.broadcast_to(key, (n,))
        if keys.shape != (n,):
            raise ValueError(
                f"{keys.shape[0]} keys for {n} members: give one each, or a single one"
            )
        states = _over_members(lambda h, k: make(h).init(k, sample), members, keys)
        zero = jnp.zeros((), jnp.int32)
        return SweepState(states, jnp.ones(n, bool), jnp.full(n, -1, jnp.int32), zero)

    def step(state: SweepState, batch: Any) -> tuple[SweepState, dict[str, Array]]:
        def one(hyper: Hyper, old: Any, running: Array) -> tuple[Any, Array, dict[str, Array]]:
            return _step_or_stay(make(hyper), old, running, batch, largest_loss)

        states, running, info = _over_members(one, members, state.members, state.running)
        return _advance(state, states, running), info

    def params(state: SweepState) -> Params:
        return _over_members(lambda h, s: make(h).params(s), members, state.members)

    return Learner(init, step, params)


def member(stacked: Any, index: int) -> Any:
    """One member's part of anything with a leading axis of members, such as `Learner.params`."""
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def by_site(learners: Mapping[str, Learner], *, largest_loss: float = float("inf")) -> Learner:
    """A learner of one dictionary per site, from batches that hold the sites of one forward.

    Args:
        learners: the learner of each site; it may be a sweep.
        largest_loss: above it a site counts as diverged, and stops without disturbing the others.

    Returns:
        The learner. Samples, batches and parameters are dicts by site; it reports what all sites
        do, with a leading axis of sites in the order of `learners`.

    Raises:
        ValueError: from `init` or `step`: a site that the sample or the batch lacks, or sites of
            different numbers of members.
    """
    names = list(learners)

    def check(found: Mapping[str, Any]) -> None:
        missing = [name for name in names if name not in found]
        if missing:
            raise ValueError(f"batches hold {sorted(found)} and not {missing}: harvest these sites")

    def init(key: Key[Array, ""], sample: Mapping[str, Any]) -> SweepState:
        check(sample)
        keys = jax.random.split(key, len(names))
        states = {n: learners[n].init(k, sample[n]) for n, k in zip(names, keys, strict=True)}
        running, never = jnp.ones(len(names), bool), jnp.full(len(names), -1, jnp.int32)
        return SweepState(states, running, never, jnp.zeros((), jnp.int32))

    def step(state: SweepState, batch: Mapping[str, Any]) -> tuple[SweepState, dict[str, Array]]:
        check(batch)
        results = [
            _step_or_stay(learners[n], state.members[n], on, batch[n], largest_loss)
            for n, on in zip(names, state.running, strict=True)
        ]
        states, running, infos = zip(*results, strict=True)
        shapes = {n: info["loss"].shape for n, info in zip(names, infos, strict=True)}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"losses have shapes {shapes}: give every site as many members")
        common = [name for name in infos[0] if all(name in info for info in infos)]
        info = {name: jnp.stack([info[name] for info in infos]) for name in common}
        return _advance(state, dict(zip(names, states, strict=True)), jnp.stack(running)), info

    def params(state: SweepState) -> dict[str, Params]:
        return {name: learners[name].params(state.members[name]) for name in names}

    return Learner(init, step, params)


def _step_or_stay(
    learner: Learner, old: Any, running: Array, batch: Any, largest_loss: float
) -> tuple[Any, Array, dict[str, Array]]:
    """A step whose result is taken only if it is sound: (state, still running, info)."""
    new, info = learner.step(old, batch)
    sound = is_finite(info) & (info["loss"] <= largest_loss)
    good = running & sound.any()
    kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
    return kept, good, {name: jnp.where(good, value, jnp.nan) for name, value in info.items()}


def _advance(state: SweepState, members: Any, running: Bool[Array, " members"]) -> SweepState:
    fell = state.running & ~running
    stopped_at = jnp.where(fell, state.step, state.stopped_at)
    return SweepState(members, running, stopped_at, state.step + 1)


def _over_members(function: Callable, *arguments: Any) -> Any:
    """Applies a function to each member: vmapped, but one after another on a CPU.

    There a step keeps all cores busy, and the arrays of one member stay in the cache.
    """
    arguments = jax.tree.map(jnp.asarray, arguments)
    if jax.default_backend() != "cpu":
        return jax.vmap(function)(*arguments)
    return jax.lax.map(lambda one: function(*one), arguments)
