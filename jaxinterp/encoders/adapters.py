"""Models written elsewhere, seen through the same contract: a function, a Linen or an NNX module.

Their sites are names of their own: those a function gives to its intermediates, and the paths of a
module's submodules, whose output is the value. Globs work (`"encoder.*"`). An edit gets layer -1.
"""

import difflib
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxinterp.encoders.encoder import Encoder
from jaxinterp.encoders.sites import Capture, Edit, Reducer, check_reducers, checked_edit

NamedTap = Callable[[str, Array], Array]
TappedFunction = Callable[[Any, Any, NamedTap], Any]


class _Recorder:
    """Edits, then records, values by name; lives for one call of a model."""

    def __init__(self, captures: Mapping[str, Reducer | None], edits: Mapping[str, Edit]):
        self._captures = captures
        self._edits = edits
        self._calls: dict[str, int] = {}
        self.record: dict[str, Any] = {}

    def __call__(self, name: str, value: Array) -> Array:
        call = self._calls.get(name, 0)
        self._calls[name] = call + 1
        name = f"{name}:{call}" if call else name  # a module that is used again
        if name in self._edits:
            value = checked_edit(name, self._edits[name], value, -1)
        if name in self._captures:
            reduce = self._captures[name]
            self.record[name] = value if reduce is None else reduce(value)
        return value


def from_function(
    function: TappedFunction, params: Any, sample: Any, *, name: str = "function"
) -> Encoder:
    """An encoder from `function(params, inputs, tap) -> output`.

    The function names its intermediates by passing them through: `h = tap("hidden", h)`. A name
    inside `jax.lax.scan` or `jax.vmap` can't be captured: tap outside of it.

    Args:
        function: the model.
        params: its parameters.
        sample: inputs (arrays or shapes) that show which names there are; nothing is computed.
        name: a name for the encoder.

    Returns:
        The encoder; its config is the tuple of the sites.
    """
    found: list[str] = []

    class _Lister(_Recorder):
        def __call__(self, name: str, value: Array) -> Array:
            call = sum(n == name or n.startswith(f"{name}:") for n in found)
            found.append(f"{name}:{call}" if call else name)
            return value

    jax.eval_shape(lambda p, x: function(p, x, _Lister({}, {})), params, sample)
    available = tuple(found)

    def forward(
        params: Any,
        config: tuple[str, ...],
        inputs: Any,
        *,
        capture: Sequence[Capture] = (),
        edits: Mapping[str, Edit] | None = None,
        return_logits: bool = True,
    ) -> tuple[Any, dict[str, Any]]:
        pairs = [(c, None) if isinstance(c, str) else c for c in capture]
        found = [(site, f) for request, f in pairs for site in _match(request, config)]
        check_reducers(found)
        captures = dict(found)
        changes = {s: f for request, f in (edits or {}).items() for s in _match(request, config)}
        tap = _Recorder(captures, changes)
        output = function(params, inputs, tap)
        return (output if return_logits else None), tap.record

    return Encoder(name, forward, lambda config: config, available, params)


def _match(request: str, available: Sequence[str]) -> list[str]:
    found = [request] if request in available else fnmatch.filter(available, request)
    if not found:
        near = difflib.get_close_matches(request, available, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(
            f"{request!r}: unknown site{hint}; this model has {', '.join(available) or 'none'}"
        )
    return found


def from_linen(module: Any, variables: Any, sample: Any, *, name: str = "linen") -> Encoder:
    """An encoder from a flax Linen module; its sites are the paths of its submodules.

    Args:
        module: a `flax.linen.Module` that is called with one input.
        variables: what `module.init` gave.
        sample: inputs (arrays or shapes) that show which submodules are used.
        name: a name for the encoder.

    Returns:
        The encoder.
    """
    from flax import linen

    def function(variables: Any, inputs: Any, tap: NamedTap) -> Any:
        def interceptor(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
            value = call(*args, **kwargs)
            path = ".".join(context.module.path)
            tapped = context.method_name == "__call__" and path and _is_array(value)
            return tap(path, value) if tapped else value

        with linen.intercept_methods(interceptor):
            return module.apply(variables, inputs)

    return from_function(function, variables, sample, name=name)


def from_nnx(module: Any, sample: Any, *, name: str = "nnx") -> Encoder:
    """An encoder from a flax NNX module; its sites are the paths of its submodules.

    Args:
        module: a `flax.nnx.Module` that is called with one input. It is left as it is.
        sample: inputs (arrays or shapes) that show which submodules are used.
        name: a name for the encoder.

    Returns:
        The encoder; its parameters are the module's state.
    """
    from flax import nnx

    graph, state = nnx.split(module)

    def function(state: Any, inputs: Any, tap: NamedTap) -> Any:
        model = nnx.merge(graph, state)  # a fresh object, so that the changes below stay here
        for path, child in nnx.iter_modules(model):
            if path:
                _tap_calls(child, ".".join(map(str, path)), tap)
        return model(inputs)

    return from_function(function, state, sample, name=name)


def _tap_calls(module: Any, path: str, tap: NamedTap) -> None:
    """Gives one object a class of its own whose `__call__` is tapped."""
    original = type(module)
    if not callable(module):
        return

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        value = original.__call__(self, *args, **kwargs)
        return tap(path, value) if _is_array(value) else value

    module.__class__ = type(original.__name__, (original,), {"__call__": call})


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.number)
