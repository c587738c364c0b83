"""From settings to something that learns: a variant, its optimiser, and what goes around them."""

import functools
import inspect
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxinterp.activations import normalise
from jaxinterp.activations.moments import coordinate_moments
from jaxinterp.config import RunConfig
from jaxinterp.dictionaries import registry
from jaxinterp.dictionaries.base import Dictionary
from jaxinterp.dictionaries.control import target_l0
from jaxinterp.dictionaries.learner import Learner, learner
from jaxinterp.dictionaries.optimizers import learning_rate, optimizer, scale_by_name
from jaxinterp.dictionaries.precision import in_bfloat16
from jaxinterp.dictionaries.resample import resampled

NORMALISATIONS: dict[str, Callable[..., normalise.Affine]] = {
    "centring": normalise.centring,
    "mean_norm": normalise.mean_norm,
    "unit_mean_square": normalise.unit_mean_square,
    "unit_variance": normalise.unit_variance,
    "standardising": normalise.standardising,
}


class Plan(NamedTuple):
    """What is trained.

    Attributes:
        variant: a key of `registry.VARIANTS`.
        options: its arguments, as a file holds them.
        normalisation: a key of `NORMALISATIONS`, or "none".
    """

    variant: str
    options: dict[str, Any]
    normalisation: str


def plan(config: RunConfig, d: int) -> Plan:
    """Reads the settings of the dictionary and checks them, before any work.

    Args:
        config: the settings.
        d: dimension of the activations.

    Raises:
        ValueError: an unknown variant, an option that it does not have, one that does not train on
            the activations of one site, or a target L0 for one without a penalty weight.
    """
    if config.variant not in registry.VARIANTS:
        known = ", ".join(sorted(registry.VARIANTS))
        raise ValueError(f"variant is {config.variant!r}: choose one of {known}")
    given = _parse(config.options)
    arguments = _arguments(config.variant) | _arguments(str(given.get("recipe", "")))
    options: dict[str, Any] = {"width": config.width or 8 * d}
    if "k" in arguments:
        options["k"] = config.k
    options |= given
    if config.target_l0 and "weight" not in arguments:
        raise ValueError(
            f"target_l0 is {config.target_l0}, but {config.variant} has no penalty weight to "
            "control: set its k, or choose a variant such as jumprelu or relu"
        )
    dictionary = registry.build(config.variant, options)
    _check_trains(config.variant, dictionary, d)
    wanted = config.normalise
    if wanted == "auto":
        wanted = "mean_norm" if "weight" in arguments else "none"
    return Plan(config.variant, options, wanted)


def build(config: RunConfig, plan: Plan) -> Learner:
    """The learner of a plan.

    Raises:
        ValueError: settings of the optimiser that cannot be.
    """
    updates = config.steps // config.accumulate
    warmup = min(200, updates // 10) if config.warmup < 0 else config.warmup
    rate = learning_rate(config.learning_rate, steps=updates, warmup=warmup, decay=config.decay)
    chosen = optimizer(
        config.optimizer,
        rate,
        clip=config.clip or None,
        average=config.average or None,
        accumulate=config.accumulate,
    )
    if config.threshold_rate != 1.0:
        scaled = scale_by_name(
            {"threshold": config.threshold_rate, "log_threshold": config.threshold_rate}
        )
        chosen = optax.chain(chosen, scaled)
    learn: Callable[..., Learner] = learner
    if config.resample_every:
        learn = functools.partial(
            resampled, every=config.resample_every, until=config.steps * 3 // 4
        )

    def make(**changed: Any) -> Dictionary:
        dictionary = registry.build(plan.variant, plan.options | changed)
        return in_bfloat16(dictionary) if config.precision == "bfloat16" else dictionary

    if not config.target_l0:
        return learn(make(), chosen)
    return target_l0(
        lambda weight: make(weight=weight),
        chosen,
        config.target_l0,
        ramp=max(config.steps // 5, 1),
        learn=learn,
    )


def finished_options(plan: Plan, state: Any) -> dict[str, Any]:
    """The options of a dictionary that is trained: a controlled weight is what it came to."""
    if not state.control:
        return plan.options
    return plan.options | {"weight": float(np.exp(state.control.log_weight))}


def normalisation(name: str, rows: Float[Array, "n d"]) -> normalise.Affine:
    """The normalisation of this name, estimated on rows; the identity for "none"."""
    if name == "none":
        return normalise.identity(rows.shape[1])
    return NORMALISATIONS[name](coordinate_moments(rows))


def _arguments(variant: str) -> set[str]:
    """Names of a variant's own arguments; none for what is no variant."""
    known = registry.VARIANTS.get(variant)
    return set() if known is None else set(inspect.signature(known).parameters)


def _parse(options: tuple[str, ...]) -> dict[str, Any]:
    """`("weight=0.1", "penalty=tanh")` as a dict: JSON where it is that, else a part's name."""
    found = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"option {option!r} is not of the form name=value")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _check_trains(variant: str, dictionary: Dictionary, d: int) -> None:
    """Refuses what can't learn from rows (b, d), such as a transcoder of two sites."""
    rows = jax.ShapeDtypeStruct((8, d), jnp.float32)
    one = learner(dictionary, optax.sgd(0.0))
    try:
        jax.eval_shape(lambda x: one.step(one.init(jax.random.key(0), x), x), rows)
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{variant} does not learn from the activations of one site ({error}): train it from "
            "Python with its own kind of batch"
        ) from error
