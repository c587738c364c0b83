"""Computing in bfloat16 what may be, with everything that learns in float32."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries.base import Codes, Dictionary, LossInfo, Params, Stats

# A step of Adam on a threshold, or of a running mean, is below the resolution of bfloat16.
_KEPT = ("threshold", "log_threshold", "density", "penalty_scale", "penalty_history")


def in_bfloat16(dictionary: Dictionary) -> Dictionary:
    """The same dictionary, its matrix products and codes in bfloat16.

    The parameters stay in float32: they are cast at the beginning of `encode`, `decode` and `loss`,
    and the gradient comes back through the cast in float32. So do optimiser, projections and
    averages. Thresholds and what a loss remembers are not cast, and the target is not, so that
    error and loss are formed in float32.

    Args:
        dictionary: any variant.

    Returns:
        A dictionary whose codes are in bfloat16 and whose reconstructions are in float32.
    """

    def encode(params: Params, x: Float[Array, "... d"]) -> Any:
        return dictionary.encode(_halved(params), x.astype(jnp.bfloat16))

    def decode(params: Params, codes: Codes | Array) -> Float[Array, "..."]:
        return dictionary.decode(_halved(params), codes).astype(jnp.float32)

    def loss(
        params: Params, stats: Stats, x: Array, target: Array, key: Key[Array, ""]
    ) -> tuple[Array, LossInfo]:
        value, info = dictionary.loss(_halved(params), stats, x.astype(jnp.bfloat16), target, key)
        assigned = {name: v.astype(params[name].dtype) for name, v in info.assigned.items()}
        metrics = {name: jnp.asarray(v, jnp.float32) for name, v in info.metrics.items()}
        return value.astype(jnp.float32), info._replace(metrics=metrics, assigned=assigned)

    return dictionary._replace(encode=encode, decode=decode, loss=loss)


def _halved(params: Params) -> Params:
    """Floating-point parameters in bfloat16, those of `_KEPT` as they are."""

    def cast(path: tuple, leaf: Array) -> Array:
        kept = any(getattr(part, "key", None) in _KEPT for part in path)
        return leaf if kept or leaf.dtype != jnp.float32 else leaf.astype(jnp.bfloat16)

    return jax.tree_util.tree_map_with_path(cast, params)
