r"""What a training step costs on a mesh, on paper: operations, bytes, what is sent, seconds.

Rows of the batch are split over D devices, latents over M, as `dictionaries.sharding` does; each
device has $n = b / D$ rows and $w = W / M$ latents. What is sent is exact but for sums of the size
of d or 1 (checked against compiled programs on up to 512 devices in `tests/test_cost_model.py`);
operations are those of the products; memory traffic is the least that the algorithm needs, which a
compiler exceeds. `experiments/cost_model.py` makes tables of it and compares it with a compiler.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxinterp.chips import Chip, Times, Transfer, times

_INDEX = 4  # bytes of a latent's number
_LEARNED = 4  # bytes of what learns: parameters, moments, their gradient
_SEARCHED = 33  # bits of a float32, and the number of those that are equal


class Size(NamedTuple):
    """A dictionary and its batch.

    Attributes:
        d: dimension of the activations.
        width: latents, over all devices.
        batch: rows of a step, over all devices.
        k: latents kept per row.
        aux_k: dead latents per row that the auxiliary loss revives; 0 while none is dead.
        product: bytes of a number in the products: 2 for bfloat16, 4 for float32.
    """

    d: int
    width: int
    batch: int
    k: int = 32
    aux_k: int = 0
    product: int = 2


class Mesh(NamedTuple):
    """How many devices split the rows, and how many the latents."""

    data: int
    model: int


class Sent(NamedTuple):
    """Bytes that a device sends in a step, by the axis of the mesh along which it sends them."""

    data: float
    model: float


class Cost(NamedTuple):
    """What a step costs each device.

    Attributes:
        flops: operations.
        traffic: bytes that it reads and writes at least.
        sent: bytes that it sends.
        state: bytes of parameters, Adam's moments and statistics.
        working: bytes of gradients, casts and intermediate results, about.
    """

    flops: float
    traffic: float
    sent: Sent
    state: float
    working: float


def _summed(devices: int) -> float:
    """Bytes that a device sends for each byte of a sum over devices that all of them receive."""
    return 2 * (devices - 1) / devices


def _gradient_sent(size: Size, mesh: Mesh) -> float:
    """Gradients of encoder, decoder and bias, in the numbers of the products."""
    return size.width / mesh.model * (2 * size.d + 1) * size.product * _summed(mesh.data)


def fixed_k_sent(size: Size, mesh: Mesh) -> Sent:
    r"""What TopK and its relatives send: candidates, reconstruction, gradients.

    Over `model`, with p bytes a number: the k best of every device, $n k (p + 4)(M - 1)$; the sum
    of the reconstruction, of the gradient by the centred rows and of that by the codes,
    $n (2 d + k) p \cdot 2 \frac{M - 1}{M}$. Over `data`: $w (2 d + 1) p \cdot 2 \frac{D - 1}{D}$,
    and one flag a latent. While latents are dead: the gradient once more, three sums of (n, d), and
    the search for the weakest score that is kept of each row, a count for each of 33 bits.
    """
    rows, both = size.batch / mesh.data, _summed(mesh.model)
    flags = size.width / mesh.model * _LEARNED * _summed(mesh.data)
    candidates = rows * size.k * (size.product + _INDEX) * (mesh.model - 1)
    sums = rows * (2 * size.d + size.k) * size.product * both
    gradient = _gradient_sent(size, mesh)
    alive = Sent(gradient + flags, candidates + sums)
    if not size.aux_k:
        return alive
    search = rows * _INDEX * (_SEARCHED * both + mesh.model - 1)
    revival = rows * 3 * size.d * size.product * both + search
    return Sent(alive.data + gradient, alive.model + revival)


def dense_sent(size: Size, mesh: Mesh) -> Sent:
    r"""What JumpReLU and ReLU send: two sums of (n, d) over `model`, the gradient over `data`.

    $n \cdot 2 d p \cdot 2 \frac{M-1}{M}$ and $w (2 d + 2) p \cdot 2 \frac{D-1}{D}$, and counts of
    active latents, of a byte to 64 of them.
    """
    rows, latents = size.batch / mesh.data, size.width / mesh.model
    summed = rows * 2 * size.d * size.product
    thresholds = latents * size.product * _summed(mesh.data)
    return Sent(_gradient_sent(size, mesh) + thresholds, summed * _summed(mesh.model))


def _state(size: Size, mesh: Mesh) -> float:
    """Parameters and two moments, and the count of silent rows, of the latents of one device."""
    return size.width / mesh.model * (3 * (2 * size.d + 1) + 1) * _LEARNED


def _update_traffic(size: Size, mesh: Mesh) -> float:
    """Adam reads four numbers a weight and writes three; the gradient is written, weights cast."""
    return size.width / mesh.model * 2 * size.d * (8 * _LEARNED + 2 * size.product)


def fixed_k_step(size: Size, mesh: Mesh) -> Cost:
    r"""A step of TopK: one dense product, six that touch k latents of each row.

    Operations: $2 n d (w + 6 k)$, and the same with `aux_k` while latents are dead. Each of the six
    goes through $n k d$ numbers: three read them, two add to them, one reads what was added. Where
    latents are split, every device still goes through all k places of its rows.
    """
    rows, latents = size.batch / mesh.data, size.width / mesh.model
    kept = size.k + size.aux_k
    dense = rows * latents * (2 if size.aux_k else 1)
    touched = rows * kept * size.d
    return Cost(
        flops=2 * size.d * dense + 12 * touched,
        traffic=_update_traffic(size, mesh)
        + 2 * size.product * dense
        + touched * (3 * size.product + 4 * _LEARNED),
        sent=fixed_k_sent(size, mesh),
        state=_state(size, mesh),
        working=latents * size.d * (4 * _LEARNED + 2 * size.product)
        + rows * latents * size.product
        + 3 * rows * max(size.k, size.aux_k) * size.d * (size.product + _LEARNED),
    )


def dense_step(size: Size, mesh: Mesh) -> Cost:
    """A step of JumpReLU or ReLU: six products of all rows with all latents, eight passes over."""
    rows, latents = size.batch / mesh.data, size.width / mesh.model
    return Cost(
        flops=12 * rows * latents * size.d,
        traffic=_update_traffic(size, mesh) + 8 * rows * latents * size.product,
        sent=dense_sent(size, mesh),
        state=_state(size, mesh),
        working=2 * latents * size.d * size.product + 3 * rows * latents * size.product,
    )


def forward(
    parameters: float, d: int, layers: int, tokens: int, mesh: Mesh, *, product: int = 2
) -> Cost:
    r"""Reading activations: a transformer's forward, its heads and hidden units over `model`.

    $2 N$ operations a token for N parameters (attention's own products left out), two sums of
    (n, d) a layer over `model`, the weights read once a batch; no gradient, no optimiser.

    Args:
        parameters: N, of the layers that are run.
        d: dimension of the stream.
        layers: that are run.
        tokens: of a batch, over all devices.
        mesh: how they are shared.
        product: bytes of a number.
    """
    rows, weights = tokens / mesh.data, parameters / mesh.model * product
    stream = rows * d * product
    return Cost(
        flops=2 * parameters * rows / mesh.model,
        traffic=weights + 12 * layers * stream,
        sent=Sent(0.0, 2 * layers * stream * _summed(mesh.model)),
        state=weights,
        working=8 * stream,
    )


def seconds(cost: Cost, mesh: Mesh, chip: Chip) -> Times:
    """The time of a step at a chip's peaks; devices that share latents are neighbours."""
    sent = (
        Transfer(cost.sent.model, mesh.model, mesh.model),
        Transfer(cost.sent.data, mesh.data, mesh.data * mesh.model),
    )
    return times(chip, cost.flops, cost.traffic, sent)


def meshes(devices: int, size: Size) -> list[Mesh]:
    """All ways to split a batch and a dictionary evenly over so many devices."""
    found = (Mesh(devices // m, m) for m in range(1, devices + 1) if devices % m == 0)
    return [m for m in found if size.width % m.model == 0 and size.batch % m.data == 0]


def best_mesh(
    step: Callable[[Size, Mesh], Cost], size: Size, devices: int, chip: Chip
) -> Mesh | None:
    """The mesh of the least time, nothing overlapping, of those that fit; None where none does."""
    fitting = [m for m in meshes(devices, size) if _need(step(size, m)) <= chip.memory]
    if not fitting:
        return None
    return min(fitting, key=lambda m: seconds(step(size, m), m, chip).one_by_one)


def _need(cost: Cost) -> float:
    return cost.state + cost.working
