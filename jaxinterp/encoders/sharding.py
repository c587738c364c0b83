"""Which axis of a parameter lies on which axis of a mesh: `(path pattern, PartitionSpec)` rules.

Heads and hidden units are split over `model` (the split that needs one sum per half block), tables
over their rows; what no rule names is kept whole on every device. Batches go over `data`.
"""

import math
import re
from collections.abc import Sequence

from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

Rules = Sequence[tuple[str, P]]

RULES: Rules = (
    (r"attn\.[qkv]\.kernel$", P(None, "model", None)),
    (r"attn\.[qkv]\.bias$", P("model", None)),
    (r"attn\.o\.kernel$", P("model", None, None)),
    (r"mlp\.(gate|up)\.kernel$", P(None, "model")),
    (r"mlp\.(gate|up)\.bias$", P("model")),
    (r"mlp\.down\.kernel$", P("model", None)),
    (r"embed\.tokens$", P("model", None)),
    (r"unembed\.kernel$", P(None, "model")),
    (r"unembed\.bias$", P("model")),
)


def sharding_of(
    path: str, shape: Sequence[int], mesh: Mesh, *, stacked: bool, rules: Rules = RULES
) -> NamedSharding:
    """Where a parameter goes.

    Args:
        path: dotted path of the parameter.
        shape: its shape, the layer axis included.
        mesh: devices; axes that the mesh lacks, or that do not divide a dimension, are not used.
        stacked: whether the leading axis is the layers, which are never split.
        rules: the first match decides.

    Returns:
        The sharding.
    """
    spec = next((s for pattern, s in rules if re.search(pattern, path)), P())
    axes = [*([None] if stacked else []), *spec]
    axes += [None] * (len(shape) - len(axes))
    kept = [
        axis if axis is None or _fits(axis, size, mesh) else None
        for axis, size in zip(axes, shape, strict=True)
    ]
    return NamedSharding(mesh, P(*kept))


def _fits(axis: str | tuple[str, ...], size: int, mesh: Mesh) -> bool:
    names = (axis,) if isinstance(axis, str) else axis
    if any(name not in mesh.shape for name in names):
        return False
    return size % math.prod(mesh.shape[name] for name in names) == 0
