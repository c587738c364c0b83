"""Sizes for `experiments/cost_model.py`.

Command: `python experiments/cost_model.py`. Expected: see there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class CostTables:
    """Which tables are made.

    Attributes:
        out: the document whose tables are made anew; empty to print them.
        d: dimension of the activations.
        k: latents kept per row.
        batch: rows of a step.
        widths: latents.
        devices: sizes of the cluster.
        chips: kinds of device, keys of `jaxinterp.chips.CHIPS`.
        virtual: meshes (data, model) of virtual devices on which the formulas are checked.
        topologies: TPU slices whose compiler is asked, which needs libtpu; empty for none.
    """

    out: str = ""
    d: int = 4096
    k: int = 32
    batch: int = 65_536
    widths: tuple[int, ...] = (2**17, 2**20, 10_485_760)
    devices: tuple[int, ...] = (8, 64, 512, 1024)
    chips: tuple[str, ...] = ("v5e", "v5p", "h100")
    virtual: tuple[tuple[int, int], ...] = ((2, 4), (4, 16), (16, 32))
    topologies: tuple[str, ...] = ()
