"""Names of the places inside a model that can be read or edited, and the tap that does both.

The words are TransformerLens'. Three spellings name the same place:

- `L6.resid_post`: the short form, one layer;
- `blocks.6.hook_resid_post`: the long form;
- `resid_post`: every layer. Ranges and globs work too: `L4-7.z`, `L*.z`, `L3.resid_*`.
"""

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

Edit = Callable[[Array, Any], Array]
Reducer = Callable[[Array], Any]
Capture = str | tuple[str, Reducer | None]

# Short word -> the suffix TransformerLens uses after `blocks.<i>.` (or alone, outside the blocks).
BLOCK_SITES: dict[str, str] = {
    "resid_pre": "hook_resid_pre",
    "ln1_scale": "ln1.hook_scale",
    "ln1": "ln1.hook_normalized",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "rot_q": "attn.hook_rot_q",
    "rot_k": "attn.hook_rot_k",
    "scores": "attn.hook_attn_scores",
    "pattern": "attn.hook_pattern",
    "z": "attn.hook_z",
    "result": "attn.hook_result",
    "ln1_post_scale": "ln1_post.hook_scale",
    "ln1_post": "ln1_post.hook_normalized",
    "attn_out": "hook_attn_out",
    "resid_mid": "hook_resid_mid",
    "ln2_scale": "ln2.hook_scale",
    "ln2": "ln2.hook_normalized",
    "pre": "mlp.hook_pre",
    "pre_linear": "mlp.hook_pre_linear",
    "post": "mlp.hook_post",
    "ln2_post_scale": "ln2_post.hook_scale",
    "ln2_post": "ln2_post.hook_normalized",
    "mlp_out": "hook_mlp_out",
    "resid_post": "hook_resid_post",
}
OUTER_SITES: dict[str, str] = {
    "embed": "hook_embed",
    "type_embed": "hook_token_type_embed",
    "patch_embed": "hook_patch_embed",
    "pos_embed": "hook_pos_embed",
    "tokens": "hook_tokens",
    "ln_embed_scale": "embed.ln.hook_scale",
    "ln_embed": "embed.ln.hook_normalized",
    "ln_final_scale": "ln_final.hook_scale",
    "ln_final": "ln_final.hook_normalized",
    "pooled": "hook_pooled",
    "proj": "proj.hook_out",
    "logits": "unembed.hook_out",
}
_HEAD_SITES = ("ln_final_scale", "ln_final", "pooled", "proj", "logits")
# What TransformerLens' bridge calls the same places, after its module tree.
BRIDGE_SITES: dict[str, str] = {
    "hook_in": "resid_pre",
    "hook_out": "resid_post",
    "ln1.hook_in": "resid_pre",
    "ln1.hook_out": "ln1",
    "ln2.hook_in": "resid_mid",
    "ln2.hook_out": "ln2",
    "attn.q.hook_out": "q",
    "attn.k.hook_out": "k",
    "attn.v.hook_out": "v",
    "attn.o.hook_in": "z",
    "attn.hook_out": "attn_out",
    "mlp.in.hook_out": "pre",
    "mlp.out.hook_in": "post",
    "mlp.hook_out": "mlp_out",
    "embed.hook_out": "embed",
    "pos_embed.hook_out": "pos_embed",
}
# Where norms follow the additions (BERT), the same modules stand elsewhere.
_BRIDGE_NORM_AFTER: dict[str, str] = {
    "hook_out": "ln2",
    "ln1.hook_in": "resid_mid",
    "ln2.hook_in": "resid_post",
}
# Where a norm follows attention and perceptron, their own outputs are no sites.
_BRIDGE_BEFORE_POST_NORM = ("attn.hook_out", "mlp.hook_out")
_SHORT = {long: short for short, long in (BLOCK_SITES | OUTER_SITES).items()} | BRIDGE_SITES
_LAYERED = re.compile(r"(?:L|blocks\.)(?P<layers>\d+(?:-\d+)?|\*)\.(?P<site>.+)")


class Request(NamedTuple):
    """One capture or edit request after parsing.

    Attributes:
        name: the key under which a captured value is returned (as the caller wrote it).
        site: the short word of the site.
        layers: the layers meant, in order; empty for a site outside the blocks.
        single: whether one layer was named, so that the result has no layer axis.
    """

    name: str
    site: str
    layers: tuple[int, ...]
    single: bool


def resolve(request: str, n_layers: int, available: Iterable[str]) -> tuple[Request, ...]:
    """Parses one request against a model with `n_layers` layers and the sites `available`.

    Args:
        request: a site in any spelling; a glob in the word gives one result per match.
        n_layers: number of layers of the model.
        available: the short words that this model has.

    Returns:
        One `Request` per matching site word.

    Raises:
        ValueError: an unknown site, a site the model lacks, or a layer out of range.
    """
    available = tuple(available)
    match = _LAYERED.fullmatch(request)
    word = match["site"] if match else request
    sites = _match_word(request, word, available)
    found = []
    for site in sites:
        if site in OUTER_SITES:
            if match:
                raise ValueError(f"{request!r}: {site!r} is outside the layers; ask for {site!r}")
            found.append(Request(request if len(sites) == 1 else site, site, (), True))
            continue
        layers, single = _parse_layers(request, match["layers"] if match else "*", n_layers)
        prefix = f"L{match['layers']}." if match else ""
        name = request if len(sites) == 1 else prefix + site
        found.append(Request(name, site, layers, single))
    return tuple(found)


def _match_word(request: str, word: str, available: Sequence[str]) -> list[str]:
    known = BLOCK_SITES | OUTER_SITES
    if "ln1_post" in available and word in _BRIDGE_BEFORE_POST_NORM:
        raise ValueError(
            f"{request!r}: the output before the norm that follows it is no site; behind that norm "
            f"it is {BRIDGE_SITES[word]!r}"
        )
    norm_after = {"ln1", "q"} <= set(available) and available.index("ln1") > available.index("q")
    short = _SHORT | _BRIDGE_NORM_AFTER if norm_after else _SHORT
    word = short.get(word, word)
    matches = [s for s in available if fnmatch.fnmatchcase(s, word)]
    if matches:
        return matches
    if word in known:
        why = "its blocks are parallel: attention and MLP read the same stream"
        reason = f" ({why})" if word == "resid_mid" else ""
        raise ValueError(
            f"{request!r}: this model has no site {word!r}{reason}; it has {', '.join(available)}"
        )
    near = difflib.get_close_matches(word, [*available, *_SHORT], n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"{request!r}: unknown site{hint}; this model has {', '.join(available)}")


def _parse_layers(request: str, spec: str, n_layers: int) -> tuple[tuple[int, ...], bool]:
    if spec == "*":
        return tuple(range(n_layers)), False
    first, _, last = spec.partition("-")
    low, high = int(first), int(last or first)
    if not low <= high < n_layers:
        raise ValueError(
            f"{request!r}: layers {low}..{high} asked for, this model has 0..{n_layers - 1}"
        )
    return tuple(range(low, high + 1)), not last


class Plan(NamedTuple):
    """What to capture and edit, resolved against one model.

    Attributes:
        captures: `(request, reducer)` pairs.
        edits: `(request, edit)` pairs, applied in this order.
    """

    captures: tuple[tuple[Request, Reducer | None], ...]
    edits: tuple[tuple[Request, Edit], ...]

    def last_layer(self) -> int:
        """The last layer that a capture needs; -1 if none does."""
        return max((layer for r, _ in self.captures for layer in r.layers), default=-1)

    def needs_head(self) -> bool:
        """Whether a capture lies after the last layer."""
        return any(r.site in _HEAD_SITES for r, _ in self.captures)

    def segments(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Cuts `[start, stop)` where the set of requests changes.

        Each piece is one scan whose body captures and edits the same things at every layer, so
        nothing is computed or stored for layers that nobody asked about.
        """
        requests = [r for r, _ in self.captures] + [r for r, _ in self.edits]
        active = [tuple(layer in r.layers for r in requests) for layer in range(start, stop)]
        cuts = [i for i in range(1, len(active)) if active[i] != active[i - 1]]
        bounds = [start, *(start + i for i in cuts), stop]
        return [(a, b) for a, b in zip(bounds, bounds[1:], strict=False) if a < b]


def plan(
    capture: Sequence[Capture], edits: Mapping[str, Edit], n_layers: int, available: Iterable[str]
) -> Plan:
    """Resolves `capture` and `edits` arguments of a forward.

    Args:
        capture: site names, or `(name, reducer)` pairs; the reducer maps the value captured at
            one layer to what is kept (any pytree).
        edits: site name -> pure `(value, layer) -> value`.
        n_layers: number of layers of the model.
        available: the short words that this model has.

    Returns:
        The plan.

    Raises:
        ValueError: as `resolve`, a capture that is given as one string, or one name captured with
            two reducers.
    """
    if isinstance(capture, str):
        raise ValueError(f"capture must be a tuple of sites: write capture=({capture!r},)")
    available = tuple(available)
    pairs = [(c, None) if isinstance(c, str) else c for c in capture]
    captures = [(r, f) for name, f in pairs for r in resolve(name, n_layers, available)]
    check_reducers([(r.name, f) for r, f in captures])
    changes = [(r, f) for name, f in edits.items() for r in resolve(name, n_layers, available)]
    return Plan(tuple(captures), tuple(changes))


def check_reducers(captures: Sequence[tuple[str, Reducer | None]]) -> None:
    """Refuses one name with two reducers, whose results would have one place."""
    reducers: dict[str, Reducer | None] = {}
    for name, reducer in captures:
        if reducers.setdefault(name, reducer) != reducer:
            raise ValueError(
                f"{name!r} is captured with two reducers: give one that returns both results"
            )


def check_within(wanted: Plan, start: int, stop: int, n_layers: int) -> None:
    """Refuses what can't happen while the blocks `start` to `stop - 1` alone run.

    Raises:
        ValueError: a site outside of the blocks, or of named layers that do not run. A site of
            every layer means those that run.
    """
    for request, _ in (*wanted.captures, *wanted.edits):
        named = len(request.layers) < n_layers or request.single
        if not request.layers or (named and not set(request.layers) <= set(range(start, stop))):
            raise ValueError(
                f"{request.name!r}: only the blocks {start} to {stop - 1} run here; give what "
                "lies elsewhere to the call that runs it"
            )


class Tap:
    """Edits, then records, the values of one block (or of the outside of the blocks).

    It lives for one trace of one block: the record is returned by the scan body, so no tracer
    outlives it.
    """

    def __init__(self, plan: Plan, layer: Int[Array, ""] | int, static_layer: int | None):
        """Selects what concerns a layer; `static_layer` is None outside the blocks."""

        def here(request: Request) -> bool:
            return not request.layers if static_layer is None else static_layer in request.layers

        self._captures = [(r, f) for r, f in plan.captures if here(r)]
        self._edits = [(r, f) for r, f in plan.edits if here(r)]
        self._layer = layer
        self.record: dict[str, Any] = {}

    def wants(self, site: str) -> bool:
        """Whether `site` is captured or edited here: for values that are costly to form."""
        return any(r.site == site for r, _ in (*self._captures, *self._edits))

    def __call__(self, site: str, value: Array) -> Array:
        """Applies the edits of `site`, records it if asked, and returns the value to go on with."""
        for request, edit in self._edits:
            if request.site == site:
                value = checked_edit(request.name, edit, value, self._layer)
        for request, reduce in self._captures:
            if request.site == site:
                self.record[request.name] = value if reduce is None else reduce(value)
        return value


def checked_edit(name: str, edit: Edit, value: Array, layer: Int[Array, ""] | int) -> Array:
    """Applies an edit; the value keeps its shape and dtype.

    Raises:
        ValueError: the edit changes the shape.
    """
    new = jnp.asarray(edit(value, layer))
    if new.shape != value.shape:
        raise ValueError(
            f"the edit at {name!r} returned shape {new.shape}; it must keep {value.shape}"
        )
    return new.astype(value.dtype)


def collect(plan: Plan, pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Joins what the segments recorded into one value per request, layers leading."""
    captured = {}
    for request, _ in plan.captures:
        parts = [p[request.name] for p in pieces if request.name in p]
        if not parts:
            continue
        if not request.layers:
            captured[request.name] = parts[0]
        elif request.single:
            captured[request.name] = jax.tree.map(lambda x: x[0], parts[0])
        else:
            captured[request.name] = jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)
    return captured


def at_layer(index: Int[Array, ""] | int, edit: Callable[[Array], Array]) -> Edit:
    """An edit that acts at one layer only; `index` may be traced, so a sweep compiles once."""
    return lambda value, layer: jnp.where(layer == index, edit(value), value)
