"""What accelerators can do at most, as their makers state it, and what that makes of a program.

The peaks are upper limits that no program reaches: the times here say which of compute, memory and
network binds and what to expect at best, not what a run will take.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

_GOOGLE = "docs.cloud.google.com/tpu/docs"


class Chip(NamedTuple):
    """The peaks of one device, as JAX counts devices.

    Attributes:
        platform: `tpu` or `cuda`.
        flops: bfloat16 operations per second, dense.
        memory: bytes of its own memory.
        memory_bandwidth: bytes per second between it and that memory.
        link: bytes per second that it sends in a ring over one axis of the fast interconnect.
        island: devices that the fast interconnect joins.
        network: bytes per second that it sends to other islands.
        source: where the numbers are from, and which could not be read.
    """

    platform: str
    flops: float
    memory: float
    memory_bandwidth: float
    link: float
    island: int
    network: float
    source: str


# On a TPU an axis of the mesh is taken to lie on one axis of the torus, whose two links of a chip
# carry a ring both ways: stated bidirectional bandwidth over the number of ports. On a GPU it is
# half of NVLink's stated bandwidth, which counts both directions.
CHIPS: Mapping[str, Chip] = {
    "v4": Chip(
        "tpu", 275e12, 32e9, 1.2e12, 100e9, 4096, 6.25e9, "secondary sources; network recalled"
    ),
    "v5e": Chip("tpu", 197e12, 16e9, 819e9, 100e9, 256, 3.1e9, f"{_GOOGLE}/v5e"),
    "v5p": Chip("tpu", 459e12, 95e9, 2.765e12, 200e9, 8960, 6.25e9, f"{_GOOGLE}/v5p"),
    "v6e": Chip("tpu", 918e12, 32e9, 1.638e12, 200e9, 256, 12.5e9, f"{_GOOGLE}/v6e and tpu7x"),
    # Two devices a chip, each with half of it.
    "tpu7x": Chip("tpu", 1153e12, 103e9, 3.69e12, 100e9, 18432, 6.25e9, f"{_GOOGLE}/tpu7x, halved"),
    "a100": Chip(
        "cuda", 312e12, 80e9, 2.04e12, 300e9, 8, 25e9, "secondary sources; network recalled"
    ),
    "h100": Chip(
        "cuda", 989e12, 80e9, 3.35e12, 450e9, 8, 50e9, "secondary sources; network recalled"
    ),
    "h200": Chip(
        "cuda",
        989e12,
        141e9,
        4.8e12,
        450e9,
        8,
        50e9,
        "memory, NVLink and network: MLPerf's system file",
    ),
    "b200": Chip(
        "cuda", 2250e12, 180e9, 8e12, 900e9, 8, 50e9, "secondary sources; network recalled"
    ),
}


class Transfer(NamedTuple):
    """Bytes that one device sends among devices that take part together.

    Attributes:
        bytes: sent by one device.
        group: devices in the group.
        spread: devices from the first of the group to the last, in the order of their numbers: a
            group that is spread further than an island goes over the network.
    """

    bytes: float
    group: int
    spread: int


class Times(NamedTuple):
    """Seconds that a step takes at least, by what it waits for.

    Attributes:
        compute: arithmetic at the peak.
        memory: the device's memory at its bandwidth.
        network: what it sends to others.
    """

    compute: float
    memory: float
    network: float

    @property
    def overlapped(self) -> float:
        """Seconds if everything goes on at once: no program is faster."""
        return max(self)

    @property
    def one_by_one(self) -> float:
        """Seconds if nothing overlaps."""
        return sum(self)

    @property
    def limit(self) -> str:
        """What takes longest: `compute`, `memory` or `network`."""
        return max(self._asdict().items(), key=lambda term: term[1])[0]


def chip(kind: str) -> Chip:
    """The peaks of a kind of device by a short name, or by the name that JAX gives it.

    Args:
        kind: a key of `CHIPS`, or `device.device_kind`.

    Raises:
        ValueError: none that is known here.
    """
    name = kind.lower()
    if name in CHIPS:
        return CHIPS[name]
    named = {"v4": "v4", "v5 lite": "v5e", "v5p": "v5p", "v5": "v5p", "v6 lite": "v6e"}
    for part, known in (named | {key: key for key in CHIPS}).items():
        if part in name:
            return CHIPS[known]
    raise ValueError(f"chip is {kind!r}: known are {', '.join(CHIPS)}")


def times(chip: Chip, flops: float, memory: float, transfers: Iterable[Transfer] = ()) -> Times:
    r"""Seconds of each part of a step on one device.

    $t = (F / F_\mathrm{peak},\ M / M_\mathrm{peak},\ \sum_i t_i)$, with $t_i = S_i / B$ over the
    link of the fast interconnect. Where a group of devices reaches beyond an island, those of it
    that are in one island, m of them, work together first, and $S_i / m$ goes over the network as
    well; with m = 1 nothing but that.

    Args:
        chip: the peaks.
        flops: operations of one device.
        memory: bytes that it reads and writes.
        transfers: what it sends.
    """
    waiting = sum(_waiting(chip, one) for one in transfers)
    return Times(flops / chip.flops, memory / chip.memory_bandwidth, waiting)


def _waiting(chip: Chip, one: Transfer) -> float:
    near = one.bytes / chip.link
    if one.spread <= chip.island:
        return near
    together = max(1, one.group * chip.island // one.spread)
    return one.bytes / together / chip.network + (near if together > 1 else 0.0)
