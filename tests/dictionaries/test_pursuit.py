"""What every pursuit promises: exact cases, gradients, memory, a mesh, what it refuses."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import dictionaries, parallel
from jaxinterp.collectives import collectives
from jaxinterp.dictionaries import base
from jaxinterp.dictionaries.base import Codes, densify
from jaxinterp.dictionaries.pursuit import check
from jaxinterp.dictionaries.sharding import sharded
from tests.dictionaries.pursuits import CODERS, WIDTH, D, dense, residual_of, world

every_coder = pytest.mark.parametrize("name", CODERS)
# Each coder compiles for a second or more: two of them in every run, all of them in the slow one.
most_often = pytest.mark.parametrize(
    "name",
    [
        *("matching", "orthogonal"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("nonnegative", "gradient")),
    ],
)


@pytest.mark.slow
def test_orthonormal_atoms_are_found_exactly_by_every_pursuit():
    atoms = jnp.linalg.qr(jax.random.normal(jax.random.key(2), (D, D)))[0]
    true = jnp.zeros((20, D)).at[:, 3:7].set(1 + jax.random.uniform(jax.random.key(3), (20, 4)))
    for coder in CODERS.values():
        np.testing.assert_allclose(dense(coder(true @ atoms, atoms, 8), D), true, atol=1e-5)


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


@most_often
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


@most_often
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
    with pytest.raises(ValueError, match="first is 7 of length nan: did their training diverge"):
        CODERS[name](x, atoms.at[7].set(jnp.nan), 4)
    with pytest.raises(ValueError, match="dimension 23 for a dictionary of dimension 24"):
        check(x[:, 1:], atoms, 4)  # what every coder calls; here the annotations come first


ROWS, LONG = 8192, 2048  # rows, and atoms; together 67 MB


def error_of(name):
    """The gradient of an error through the code, where a pursuit has one, or its codes."""

    def error(x, atoms):
        codes = CODERS[name](x, atoms, 8)
        return jnp.square(x - dictionaries.decode_sparse(codes, atoms)).sum()

    shapes = tuple(jax.ShapeDtypeStruct((n, 64), jnp.float32) for n in (ROWS, LONG))
    forwards = lambda x, a: CODERS[name](x, a, 8)  # noqa: E731
    return jax.jit(forwards if name == "gradient" else jax.grad(error, (0, 1))), shapes


@most_often
def test_no_step_of_a_pursuit_makes_an_array_of_rows_by_atoms(name):
    """In the compiled program, forwards and backwards."""
    function, shapes = error_of(name)
    memory = function.lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * (ROWS * LONG) * 0.75
    assert memory.temp_size_in_bytes > 4 * LONG**2  # the Gram matrix is there


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_nor_does_it_on_an_accelerator(platform):
    """Only shapes are lowered: no array of the program is as large."""
    for name in ("matching", "orthogonal"):
        function, shapes = error_of(name)
        if name == "orthogonal":  # its backward pass solves, for which lowering asks the platform
            function = jax.jit(lambda x, a: CODERS["orthogonal"](x, a, 8))
        program = function.trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
        sizes = [
            np.prod([int(n) for n in found.split("x") if n])
            for found in re.findall(r"tensor<((?:\d+x)+)[bfis]", program)
        ]
        assert max(sizes) < ROWS * LONG
        assert ROWS * 1024 in sizes  # scores, some atoms at a time


@most_often
def test_codes_are_the_same_where_atoms_are_searched_some_at_a_time(name, monkeypatch):
    """As on an accelerator: 2500 atoms in three parts, the last one filled up."""
    x, atoms = (jax.random.normal(jax.random.key(i), (n, D)) for i, n in ((0, 41), (1, 2500)))
    atoms = base.unit_rows(atoms).at[1800].set(0.0)
    x = x.at[3].set(3 * atoms[2400]).at[4].set(-atoms[2400])
    expected = CODERS[name](x, atoms, 5)

    def elsewhere(*arguments, default, **platforms):
        return default(*arguments)

    monkeypatch.setattr(jax.lax, "platform_dependent", elsewhere)
    codes = CODERS[name](x[:40], atoms, 5)  # other shapes, so that it is traced again
    np.testing.assert_array_equal(codes.indices, expected.indices[:40])
    np.testing.assert_allclose(codes.values, expected.values[:40], atol=1e-5)
    assert len(np.unique(np.asarray(codes.indices) // 1024)) == 3


@pytest.mark.parametrize(
    ("variant", "mesh"),
    [
        ("matching_pursuit", "data=2,model=4"),
        *(
            pytest.param(variant, mesh, marks=pytest.mark.slow)
            for variant, mesh in (
                ("orthogonal_pursuit", "data=2,model=4"),
                ("matching_pursuit", "data=8"),
                ("matching_pursuit", "model=8"),
            )
        ),
    ],
)
def test_steps_on_a_mesh_are_those_of_one_device(variant, mesh):
    """Rows over `data`, atoms over `model`; nothing is sent from one choice of an atom to the next.

    So the number of messages does not depend on that of the atoms of a row.
    """
    plain = dictionaries.learner(
        getattr(dictionaries, variant)(WIDTH, 4), dictionaries.optimizer("adam", 1e-2, clip=1.0)
    )
    x = world(64)[0]
    on_mesh = sharded(plain, parallel.make_mesh(mesh))
    state, placed = jax.jit(plain.init)(jax.random.key(0), x), on_mesh.init(jax.random.key(0), x)
    first = state.params["decoder"]
    step, mesh_step = jax.jit(plain.step), jax.jit(on_mesh.step)
    sent = collectives(mesh_step.lower(placed, on_mesh.place(x)).compile().as_text())
    assert sent
    assert all(one.times == 1 or one.conditional for one in sent)
    for _ in range(3):
        state, info = step(state, x)
        placed, placed_info = mesh_step(placed, on_mesh.place(x))
    assert len(placed.params["decoder"].sharding.device_set) == 8
    np.testing.assert_allclose(placed_info["loss"], info["loss"], rtol=1e-5)
    np.testing.assert_allclose(placed.params["decoder"], state.params["decoder"], atol=2e-5)
    assert float(jnp.abs(state.params["decoder"] - first).max()) > 0.01


def test_on_several_devices_lapack_is_given_one_matrix_at_a_time():
    """Batches on several devices of a CPU at once make jaxlib wait for ever."""
    plain = dictionaries.learner(
        dictionaries.orthogonal_pursuit(WIDTH, 4), dictionaries.optimizer("adam", 1e-2)
    )
    x = world(64)[0]
    for learner, alone in ((plain, True), (sharded(plain, parallel.make_mesh("data=8")), False)):
        state = learner.init(jax.random.key(0), x)
        text = jax.jit(learner.step).lower(state, learner.place(x)).compile().as_text()
        calls = re.findall(r"= \((f32\[[\d,]+\])[^\n]*custom_call_target=\"lapack_", text)
        assert calls
        assert all((call != "f32[4,4]") == alone for call in calls), calls
