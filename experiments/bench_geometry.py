"""Speed of the geometry package against its peers, interleaved in one process.

Run on an idle machine, on CPU or GPU; peers that are not installed are left out, and of those that
are only torchid has its points on the GPU (`IntrinsicDim` is the file of that name of GPTID, which
is not a package, in a folder on PYTHONPATH):

    python experiments/bench_geometry.py --number 10000 --width 64 --repeats 5
    OPENBLAS_NUM_THREADS=1 python experiments/bench_geometry.py --devices 2    # local PCA on both

Expected on two CPU cores at 10000 x 64: neighbours at least 1.5 times scikit-learn's speed (2 times
at width 512), one kNN for all distance estimators, a spanning tree of 2000 points in about 10 ms.
Processor time, of all threads, is what to read on a machine that is not idle.
The floor printed first is the time of the matrix product that exact neighbours cannot do without.
"""

import time
from collections.abc import Callable
from functools import partial
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from configs.bench_geometry import BenchGeometry
from jaxinterp import geometry


def cloud(config: BenchGeometry) -> np.ndarray:
    """A 16-dimensional Gaussian through a random smooth map, with noise and a mean."""
    draw = np.random.default_rng(config.seed)
    latent = draw.standard_normal((config.number, 16))
    hidden = np.tanh(latent @ draw.standard_normal((16, 64)) / 4)
    points = hidden @ draw.standard_normal((64, config.width)) / 8
    noise = 0.05 * draw.standard_normal(points.shape)
    return (points + noise + draw.standard_normal(config.width)).astype(np.float32)


def interleave(title: str, runs: dict[str, Callable[[], object]], repeats: int) -> None:
    """Time all runs in turn, so that each sees the same load; ratios are to the first."""
    for run in runs.values():
        jax.block_until_ready(run())
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter(), time.process_time()
            jax.block_until_ready(run())
            seconds[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    print(f"\n{title}")
    first = None
    for name, times in seconds.items():
        (wall, processor), least = np.median(times, axis=0), np.min(times, axis=0)[0]
        first = (wall, processor) if first is None else first
        print(
            f"  {name:34s} {1e3 * wall:10.1f} ms  least {1e3 * least:9.1f}  x{wall / first[0]:.2f}"
            f"  processor {1e3 * processor:9.1f} ms  x{processor / first[1]:.2f}"
        )


def peer(name: str) -> object | None:
    """A peer's module if it is installed."""
    try:
        return import_module(name)
    except ImportError:
        return None


def to_torch(points: np.ndarray) -> object:
    """The points as torchid takes them, on the GPU where there is one."""
    torch = import_module("torch")
    return torch.from_numpy(points).to("cuda" if torch.cuda.is_available() else "cpu")


def waited(result: object) -> object:
    """A result of torch once the device has it: its calls return before."""
    torch = import_module("torch")
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result


def all_distance_estimators(neighbors: geometry.Neighbors) -> list:
    """Every estimator that reads the same distances."""
    distances, indices = neighbors.distances, neighbors.indices
    return [
        geometry.two_nn(distances, indices=indices),
        geometry.gride_ladder(distances, indices=indices),
        geometry.levina_bickel(distances, indices=indices),
        geometry.method_of_moments(distances, indices=indices),
        geometry.mada(distances, indices=indices),
        geometry.mind(distances, indices=indices),
        geometry.binomial(distances, k=distances.shape[1], indices=indices),
    ]


def main(config: BenchGeometry) -> None:
    """Time everything and print a table."""
    if config.devices > 1:
        jax.config.update("jax_num_cpu_devices", config.devices)
    points = cloud(config)
    on_device = jnp.asarray(points)
    k, number = config.neighbors, config.number
    print(jax.devices(), config)
    everything = jax.jit(all_distance_estimators)

    product = jax.jit(lambda x: jnp.matmul(x, x.T, precision="highest").min(axis=1))
    runs = {
        "jaxinterp k_nearest": lambda: geometry.k_nearest(on_device, k),
        "floor: matrix product and minimum": lambda: product(on_device),
        "jaxinterp, and 7 estimators": lambda: everything(geometry.k_nearest(on_device, k)),
    }
    if sklearn := peer("sklearn.neighbors"):
        search = sklearn.NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points)
        runs["scikit-learn brute"] = search.kneighbors
    if faiss := peer("faiss"):
        runs["faiss flat"] = lambda: faiss.knn(points, points, k + 1)
    # On a CPU its search is that of faiss.
    if torchid := None if jax.default_backend() == "cpu" else peer("torchid"):
        in_torch = to_torch(points)
        runs["torchid neighbours"] = lambda: waited(torchid.primitives.knn(in_torch, k))
    interleave(f"neighbours, n={number}, width={config.width}, k={k}", runs, config.repeats)

    def two_nn() -> object:
        found = geometry.k_nearest(on_device, 2)
        return geometry.two_nn(found.distances, indices=found.indices)

    runs = {"jaxinterp TwoNN": two_nn}
    if skdim := peer("skdim.id"):
        runs["scikit-dimension TwoNN"] = lambda: skdim.TwoNN().fit(points).dimension_
    if torchid:
        runs["torchid TwoNN"] = lambda: torchid.estimators.TwoNN().fit(in_torch).dimension_
    interleave("TwoNN end to end, with its error", runs, config.repeats)

    def ladder(rank: int) -> object:
        return geometry.gride_ladder(geometry.k_nearest(on_device, rank).distances)

    for rank in (64, 128):  # the first is DADApy's default
        runs = {"jaxinterp GRIDE ladder": partial(ladder, rank)}
        if dadapy := peer("dadapy"):
            runs["DADApy GRIDE"] = lambda rank=rank: dadapy.Data(
                points, maxk=2
            ).return_id_scaling_gride(range_max=rank)
        interleave(f"GRIDE at n1 = 1..{rank // 2}, end to end", runs, config.repeats)

    some = min(number, 2000)
    indices = geometry.k_nearest(on_device[:some], 100).indices
    mesh = jax.make_mesh((config.devices,), ("data",), axis_types=(AxisType.Auto,))
    specs = {"in_specs": (P(), P("data")), "out_specs": P("data")}
    spectra = jax.jit(jax.shard_map(geometry.local_spectra, mesh=mesh, check_vma=False, **specs))
    placed = [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip((on_device[:some], indices), specs["in_specs"], strict=True)
    ]
    runs = {
        "jaxinterp local spectra": lambda: spectra(*placed),
        "jaxinterp ESS": lambda: geometry.expected_simplex_skewness(on_device[:some], indices),
    }
    if skdim:
        near = points[:some][np.asarray(indices[:20])]
        runs["scikit-dimension lPCA, 20 points"] = lambda: [skdim.lPCA().fit(x) for x in near]
        runs["scikit-dimension ESS, 2 points"] = lambda: [skdim.ESS().fit_once(x) for x in near[:2]]
    if torchid:
        few, chosen = in_torch[:some], to_torch(np.array(indices)).long()
        spectra_of = torchid.primitives.batched_local_pca
        runs["torchid local PCA, with vectors"] = lambda: waited(
            spectra_of(torchid.primitives.gather_neighbors(few, chosen))
        )
        runs["torchid ESS, with its neighbours"] = lambda: torchid.estimators.ESS().fit(few)
    interleave(f"local, k=100, {some} points", runs, min(config.repeats, 3))

    matrix = geometry.distance_matrix(on_device[: config.tree])
    runs = {"jaxinterp tree": lambda: geometry.minimum_spanning_tree(matrix)}
    if ripser := peer("ripser"):
        full = np.asarray(matrix)
        runs["ripser H0"] = lambda: ripser.ripser(full, distance_matrix=True, maxdim=0)["dgms"]
    if scipy := peer("scipy.sparse.csgraph"):
        runs["SciPy tree"] = lambda: scipy.minimum_spanning_tree(np.asarray(matrix)).data
    interleave(f"minimum spanning tree, n={config.tree}", runs, config.repeats)

    texts = jax.random.normal(jax.random.key(0), (config.texts, 512, 768))
    key = jax.random.key(1)

    def of_text(text: jax.Array) -> object:
        matrix = geometry.distance_matrix(text)
        return geometry.persistent_homology_dimension(matrix, key, smallest=50, steps=12)

    together = 1 if jax.default_backend() == "cpu" else config.texts
    runs = {"jaxinterp": lambda: geometry.profile(of_text, texts, at_once=together)}
    if gptid := peer("IntrinsicDim"):
        text = np.asarray(texts[0])
        runs["GPTID, 1 text"] = lambda: gptid.PHD().fit_transform(text)
    interleave(f"persistent homology, {config.texts} texts of 512 tokens", runs, 2)


if __name__ == "__main__":
    main(tyro.cli(BenchGeometry))
