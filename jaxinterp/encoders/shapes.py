"""The shape of every parameter a model may have, by path: what a checkpoint is checked against."""

from jaxinterp.encoders.stack import BlockConfig

Shapes = dict[str, tuple[int, ...]]


def norm_shapes(path: str, *shape: int) -> Shapes:
    """Scale and bias of a norm."""
    return {f"{path}.scale": shape, f"{path}.bias": shape}


def linear_shapes(path: str, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Shapes:
    """Kernel and bias of a map."""
    return {f"{path}.kernel": (*inputs, *outputs), f"{path}.bias": outputs}


def attention_shapes(path: str, d: int, heads: int, kv_heads: int, d_head: int) -> Shapes:
    """Maps into heads and back."""
    return (
        linear_shapes(f"{path}.q", (d,), (heads, d_head))
        | linear_shapes(f"{path}.k", (d,), (kv_heads, d_head))
        | linear_shapes(f"{path}.v", (d,), (kv_heads, d_head))
        | linear_shapes(f"{path}.o", (heads, d_head), (d,))
    )


def mlp_shapes(path: str, d: int, d_mlp: int) -> Shapes:
    """Perceptron, gated or not."""
    return (
        linear_shapes(f"{path}.gate", (d,), (d_mlp,))
        | linear_shapes(f"{path}.up", (d,), (d_mlp,))
        | linear_shapes(f"{path}.down", (d_mlp,), (d,))
    )


def stack_shapes(config: BlockConfig) -> Shapes:
    """Parameters of the blocks, layers leading."""
    d, h = config.d_model, config.d_head
    shapes: Shapes = {"attn_gain": (d,), "mlp_gain": (d,)}
    for name in ("ln1", "ln2", "ln1_post", "ln2_post"):
        shapes |= norm_shapes(name, d)
    shapes |= attention_shapes("attn", d, config.n_heads, config.n_kv_heads, h)
    shapes |= norm_shapes("attn.q_norm", h) | norm_shapes("attn.k_norm", h)
    shapes |= mlp_shapes("mlp", d, config.d_mlp)
    return {f"layers.{path}": (config.n_layers, *shape) for path, shape in shapes.items()}
