"""The pursuits: closed forms, float64 oracles, the peers' codes, gradients, what they refuse."""

from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file
from scipy.optimize import nnls

from jaxinterp import dictionaries, parallel
from jaxinterp.dictionaries import base, pursuit, refitting
from jaxinterp.dictionaries.base import Codes, densify
from jaxinterp.dictionaries.errors import squared_error
from jaxinterp.dictionaries.nonnegative import nonnegative_least_squares

D, WIDTH, K = 24, 64, 6
CODERS = {
    "matching": pursuit.matching_codes,
    "orthogonal": refitting.orthogonal_codes,
    "nonnegative": refitting.nonnegative_codes,
    "gradient": refitting.gradient_codes,
}
every_coder = pytest.mark.parametrize("name", CODERS)
# Few rows are pursued by products, many by the Gram matrix: both must give the same codes.
EITHER = {"product": 10, "gram": 300}


@cache
def world(rows=300):
    atoms, x = (jax.random.normal(jax.random.key(i), (n, D)) for i, n in ((0, WIDTH), (1, rows)))
    return x, base.unit_rows(atoms)


def greedy(x, atoms, k, *, signed, fit):
    """Greedy choice in float64, row by row, with `fit(chosen atoms, row) -> coefficients`."""
    codes = np.zeros((len(x), len(atoms)))
    for row, code in zip(np.float64(x), codes, strict=True):
        chosen, residual = [], row
        for _ in range(k):
            scores = np.float64(atoms) @ residual
            best = int(np.argmax(np.abs(scores) if signed else scores))
            if scores[best] <= 0 and not signed:
                break
            chosen.append(best)
            code[chosen] = fit(np.float64(atoms)[chosen], row)
            residual = row - code @ np.float64(atoms)
    return codes


def dense(codes, width=WIDTH):
    return np.asarray(densify(codes, width))


def residual_of(codes, x, atoms):
    return x - densify(codes, len(atoms)) @ atoms


@pytest.mark.parametrize("rows", EITHER.values(), ids=EITHER)
@pytest.mark.parametrize("name", ["orthogonal", "nonnegative"])
def test_refitted_codes_are_the_least_squares_of_a_float64_greedy_choice(name, rows):
    x, atoms = world()
    x = x[:rows]
    fits = {
        "orthogonal": lambda a, row: np.linalg.lstsq(a.T, row, rcond=None)[0],
        "nonnegative": lambda a, row: nnls(a.T, row)[0],
    }
    expected = greedy(x[:40], atoms, K, signed=name == "orthogonal", fit=fits[name])
    codes = dense(CODERS[name](x, atoms, K))[:40]
    np.testing.assert_allclose(codes, expected, atol=1e-5 * np.abs(expected).max())


def test_orthogonal_codes_are_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.linear_model")
    x, atoms = world()
    gram, products = np.float64(atoms @ atoms.T), np.float64(atoms @ x[:40].T)
    expected = sklearn.orthogonal_mp_gram(gram, products, n_nonzero_coefs=K).T
    codes = dense(refitting.orthogonal_codes(x, atoms, K))[:40]
    np.testing.assert_allclose(codes, expected, atol=2e-5)


@pytest.mark.parametrize("signed", [False, True])
def test_matching_codes_keep_the_energy_and_every_prefix_is_a_code(signed):
    x, atoms = world()
    codes = pursuit.matching_codes(x, atoms, 12, signed=signed)
    residual = residual_of(codes, x, atoms)
    energy = jnp.square(codes.values).sum(1) + jnp.square(residual).sum(1)
    np.testing.assert_allclose(energy, jnp.square(x).sum(1), rtol=1e-5)
    before = jnp.square(x).sum(1)
    for t in range(1, 12):
        prefix = Codes(codes.values[:, :t], codes.indices[:, :t])
        left = residual_of(prefix, x, atoms)
        last = (left * atoms[codes.indices[:, t - 1]]).sum(1)
        np.testing.assert_allclose(last, 0, atol=1e-5)  # orthogonal to the atom just chosen
        after = jnp.square(left).sum(1)
        assert bool((after < before).all())
        before = after
    short = pursuit.matching_codes(x, atoms, 5, signed=signed)
    np.testing.assert_array_equal(short.indices, codes.indices[:, :5])
    np.testing.assert_allclose(short.values, codes.values[:, :5], atol=1e-5)
    assert bool((codes.values < 0).any()) is signed


@pytest.mark.slow
def test_a_gradient_step_has_the_length_that_lowers_the_error_most():
    """After two choices: the coefficients lie on the line of the gradient, at its lowest error."""
    x, atoms = world()
    one, two = (refitting.gradient_codes(x, atoms, k, signed=True) for k in (1, 2))
    start = np.pad(np.float64(one.values), ((0, 0), (0, 1)))
    rows = zip(*map(np.float64, (x, two.values, start)), np.asarray(two.indices), strict=True)
    for row, z, z0, chosen in rows:
        a = np.float64(atoms)[chosen]
        slope = a @ (row - z0 @ a)
        length = slope @ slope / np.square(slope @ a).sum()
        np.testing.assert_allclose(z, z0 + length * slope, atol=1e-5)


@pytest.mark.slow
def test_orthonormal_atoms_are_found_exactly_by_every_pursuit():
    atoms = jnp.linalg.qr(jax.random.normal(jax.random.key(2), (D, D)))[0]
    true = jnp.zeros((20, D)).at[:, 3:7].set(1 + jax.random.uniform(jax.random.key(3), (20, 4)))
    for coder in CODERS.values():
        np.testing.assert_allclose(dense(coder(true @ atoms, atoms, 8), D), true, atol=1e-5)


def test_nonnegative_least_squares_are_those_of_scipy():
    a = np.random.default_rng(0).normal(size=(200, 7, 9))
    x = np.random.default_rng(1).normal(size=(200, 9))
    a[:50, 3] = a[:50, 2] + 1e-2 * a[:50, 3]  # nearly the same direction
    a[50:60, 5] = 0.0  # no atom there
    gram, target = np.einsum("nkd,nld->nkl", a, a), np.einsum("nkd,nd->nk", a, x)
    with jax.enable_x64(True):
        solve = jax.jit(nonnegative_least_squares)
        found = solve(jnp.asarray(gram), jnp.asarray(target), jnp.zeros((200, 7)))
    expected = np.stack([nnls(b.T, row)[0] for b, row in zip(a, x, strict=True)])
    assert 1 < (expected == 0).sum(1).mean() < 5
    np.testing.assert_allclose(found, expected, atol=1e-5)


@cache
def peers():
    stored = load_file(Path(__file__).parent / "fixtures" / "pursuit.safetensors")
    return {name: jnp.asarray(value) for name, value in stored.items()}


@pytest.mark.parametrize(
    "name", ["saelens", "saelens_stopping", "overcomplete", "overcomplete_orthogonal"]
)
def test_codes_are_those_of_the_peers(name):
    """SAELens with and without its stops; overcomplete's OMP with its least squares converged."""
    at = peers()
    x = at["x"] - at["bias"][None] if "saelens" in name else at["x"]
    stops = {"tolerance": 1.2, "stop_at_repeat": True} if "stopping" in name else {}
    coder = refitting.nonnegative_codes if "orthogonal" in name else pursuit.matching_codes
    codes = dense(coder(x, at["atoms"], 8, **stops), len(at["atoms"]))
    largest = np.abs(at[name]).max(1, keepdims=True)
    np.testing.assert_allclose(codes / largest, at[name] / largest, atol=1e-5)


def test_loss_and_gradient_of_the_autoencoder_are_those_of_saelens():
    at = peers()
    dictionary = dictionaries.matching_pursuit(40, 8, measure=squared_error, aux_weight=0.0)
    params = {"decoder": at["atoms"], "decoder_bias": at["bias"]}
    stats = base.new_stats(40)

    @jax.jit
    @jax.value_and_grad
    def value(params):
        return dictionary.loss(params, stats, at["x"], at["x"], jax.random.key(0))[0]

    loss, gradient = value(params)
    np.testing.assert_allclose(loss, at["saelens_loss"], rtol=1e-5)
    for name in params:
        expected = at[f"saelens_{name.removeprefix('decoder_')}_gradient"]
        assert float(jnp.abs(expected).max()) > 0.1
        np.testing.assert_allclose(gradient[name], expected, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("matching", 5000),  # in blocks
        ("orthogonal", 3),
        *(pytest.param(name, 300, marks=pytest.mark.slow) for name in ("matching", "nonnegative")),
    ],
)
def test_gradients_are_those_of_finite_differences(name, rows):
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(4), (rows, D), jnp.float64)
        atoms = base.unit_rows(jax.random.normal(jax.random.key(5), (WIDTH, D), jnp.float64))
        weights = jax.random.normal(jax.random.key(6), (rows, WIDTH), jnp.float64)

        @jax.jit
        def value(x, atoms):
            return (densify(CODERS[name](x, atoms, 4), WIDTH) * weights).sum()

        gradient = jax.jit(jax.grad(value, (0, 1)))(x, atoms)
        for i in range(2):
            direction = jax.random.normal(jax.random.key(7), (x, atoms)[i].shape, jnp.float64)
            step = 1e-7 * direction
            ends = [(x + s * step, atoms) if i == 0 else (x, atoms + s * step) for s in (1, -1)]
            slope = (value(*ends[0]) - value(*ends[1])) / 2e-7
            np.testing.assert_allclose((gradient[i] * direction).sum(), slope, rtol=1e-4)


@pytest.mark.slow
def test_the_error_of_an_orthogonal_code_has_no_gradient_through_the_code():
    x, atoms = world()

    def error(codes, atoms):
        return jnp.square(residual_of(codes, x, atoms)).sum()

    whole = jax.grad(lambda a: error(refitting.orthogonal_codes(x, a, 4), a))(atoms)
    held = jax.grad(lambda a: error(refitting.orthogonal_codes(x, atoms, 4), a))(atoms)
    assert float(jnp.abs(held).max()) > 1
    np.testing.assert_allclose(whole, held, atol=1e-3)


@pytest.mark.parametrize(
    "name",
    [
        *("matching", "orthogonal"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("nonnegative", "gradient")),
    ],
)
def test_a_row_stops_at_the_tolerance(name):
    x, atoms = world()
    # Three atoms, far from each other, of falling size: the rest is 0.5 after two.
    far = jnp.eye(D)[:3]
    atoms = far.at[1, 0].set(0.1)
    row = (jnp.array([[3.0, 1.0, 0.5]]) @ jnp.eye(D)[:3]).repeat(4, 0).at[3].mul(0.1)
    codes = CODERS[name](row, base.unit_rows(atoms), 3, tolerance=0.7)
    assert (codes.values != 0).sum(1).tolist() == [2, 2, 2, 0]
    all_of_it = CODERS[name](row, base.unit_rows(atoms), 3)
    assert (all_of_it.values != 0).sum(1).tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize(
    "name",
    [
        *("matching", "orthogonal"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("nonnegative", "gradient")),
    ],
)
def test_equal_atoms_zero_atoms_and_zero_rows_are_harmless(name):
    x, atoms = world()
    atoms = jnp.concatenate([atoms[:8], atoms[:8], jnp.zeros((8, D))])
    x = jnp.concatenate([x[:20], jnp.zeros((2, D)), atoms[:1] * 5, jnp.full((1, D), jnp.nan)])
    codes = CODERS[name](x, atoms, 12)
    assert bool(jnp.isfinite(codes.values[:23]).all())
    assert float(jnp.abs(codes.values[20:22]).max()) == 0
    assert bool((codes.indices[codes.values != 0] < 16).all())  # no atom of zeros
    one = dense(codes, 24)[22]
    assert one[0] + one[8] == pytest.approx(5, abs=1e-4)
    single = CODERS[name](x[:20], atoms[:8], 8)
    errors = [
        jnp.square(residual_of(c, x[:20], a)).sum(1)
        for c, a in ((Codes(*(v[:20] for v in codes)), atoms), (single, atoms[:8]))
    ]
    if name in ("orthogonal", "nonnegative"):
        np.testing.assert_allclose(*errors, atol=1e-3)  # twins give nothing new
        assert float(jnp.abs(codes.values[:22]).max()) < 100


@every_coder
def test_impossible_pursuits_are_refused(name):
    x, atoms = world()
    with pytest.raises(ValueError, match="25 steps of pursuit with 64 atoms in 24 dimensions"):
        CODERS[name](x, atoms, D + 1)
    with pytest.raises(ValueError, match="0 steps"):
        CODERS[name](x, atoms, 0)
    with pytest.raises(ValueError, match="1 of 64 atoms .* first is 7 of length 2"):
        CODERS[name](x, atoms.at[7].mul(2.0), 4)


def test_no_step_of_a_pursuit_makes_an_array_of_rows_by_atoms():
    """In the compiled program, forwards and backwards: rows x atoms would be 67 MB."""
    rows, d, width = 8192, 64, 2048
    x, atoms = (jax.ShapeDtypeStruct((n, d), jnp.float32) for n in (rows, width))

    def error(x, atoms):
        codes = pursuit.matching_codes(x, atoms, 8)
        return jnp.square(x - dictionaries.decode_sparse(codes, atoms)).sum()

    for function in (jax.grad(error, (0, 1)), lambda x, a: refitting.orthogonal_codes(x, a, 8)):
        memory = jax.jit(function).lower(x, atoms).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 4 * (rows * width) * 0.75
        assert memory.temp_size_in_bytes > 4 * width**2  # the Gram matrix is there


def test_repeats_are_merged_and_the_strongest_comes_first():
    codes = Codes(jnp.array([[3.0, 1.0, 2.5, -4.0, 0.0]]), jnp.array([[5, 2, 5, 7, 0]]))
    merged = pursuit.merge_repeats(codes)
    np.testing.assert_array_equal(merged.values, [[5.5, -4.0, 1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(merged.indices[:, :3], [[5, 7, 2]])
    np.testing.assert_array_equal(dense(merged, 8), dense(codes, 8))


def test_shorter_and_longer_codes_come_from_the_same_parameters():
    x, atoms = world()
    params = {"decoder": atoms, "decoder_bias": jnp.full(D, 0.1)}

    @partial(jax.jit, static_argnums=0)
    def left_and_used(k, tolerance):
        dictionary = dictionaries.matching_pursuit(WIDTH, k, tolerance=tolerance)
        codes = dictionary.encode(params, x)
        left = jnp.linalg.norm(x - dictionary.decode(params, codes), axis=1)
        return left, (codes.values > 0).sum(1)

    short, middle, long = (np.asarray(left_and_used(k, 0.0)[0]) for k in (2, 6, 20))
    assert (short > middle).all()
    assert (middle > long).all()
    left, used = map(np.asarray, left_and_used(20, 4.0))  # each row as many as it needs
    assert (left <= 4.0).all()
    assert (used == 0).any()
    assert used.max() > 3
    assert (short[used > 2] > 4.0).all()
    assert (short[used <= 2] <= 4.0).all()


@pytest.mark.parametrize(
    "variant", ["matching_pursuit", pytest.param("orthogonal_pursuit", marks=pytest.mark.slow)]
)
def test_a_sharded_step_is_the_step(variant):
    """Rows over `data`, atoms over `model`."""
    build = getattr(dictionaries, variant)
    learner = dictionaries.learner(build(WIDTH, 4), dictionaries.optimizer("adam", 1e-2, clip=1.0))
    x = world(64)[0]
    state = jax.jit(learner.init)(jax.random.key(0), x)
    step = jax.jit(learner.step)
    expected, info = step(state, x)
    mesh = parallel.make_mesh("data=4,model=2")

    def place(leaf):
        spec = P("model") if leaf.shape[:1] == (WIDTH,) else P()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    state = jax.tree.map(place, state)
    rows = jax.device_put(x, NamedSharding(mesh, P("data")))
    state, sharded = step(state, rows)
    assert len(state.params["decoder"].sharding.device_set) == 8
    np.testing.assert_allclose(sharded["loss"], info["loss"], rtol=1e-5)
    np.testing.assert_allclose(state.params["decoder"], expected.params["decoder"], atol=1e-5)


def test_hierarchy_is_decoded_where_one_look_is_not_enough():
    """Children that lean towards their parent: pursuit of 8 steps against top-2, true atoms."""
    rng = np.random.default_rng(0)
    d, families, children = 64, 4, 3
    frame = np.linalg.qr(rng.normal(size=(d, d)))[0]
    parents, free = frame[:families], frame[families:]
    kids = []
    for family in range(families):
        common, *own = free[family * (children + 1) : (family + 1) * (children + 1)]
        for direction in own:  # pairwise cosine 0.6, orthogonal to every parent
            child = np.sqrt(0.6) * common + np.sqrt(0.4) * direction + 0.45 * parents[family]
            kids.append(child / np.linalg.norm(child))
    atoms = jnp.asarray(np.concatenate([parents, kids]), jnp.float32)
    family, which = rng.integers(families, size=2000), rng.integers(children, size=2000)
    x = rng.uniform(1, 2, (2000, 1)) * parents[family]
    x += rng.uniform(0.3, 0.6, (2000, 1)) * np.stack(kids)[family * children + which]
    x = jnp.asarray(x, jnp.float32)

    def missed(codes):
        left = jnp.square(residual_of(codes, x, atoms)).sum()
        return float(left / jnp.square(x - x.mean(0, keepdims=True)).sum())

    one_look = dictionaries.top_k_scores(x, atoms, jnp.zeros(len(atoms)), 2)
    assert missed(pursuit.matching_codes(x, atoms, 8)) < 0.02
    assert missed(one_look) > 0.1
