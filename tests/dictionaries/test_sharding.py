"""Training on a mesh of 8 virtual devices is training on one, and sends what it says it sends."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxinterp import dictionaries, parallel
from jaxinterp.activations import feed
from jaxinterp.checkpoint import Checkpoints
from jaxinterp.collectives import collectives
from jaxinterp.dictionaries import registry, sharding, sparsify, train
from jaxinterp.dictionaries.codebook import moving_average
from jaxinterp.dictionaries.decode import prefix_decode
from jaxinterp.dictionaries.shards import ambient_split

D, WIDTH, ROWS, K, LAYERS = 16, 128, 64, 4, 3


class Case(NamedTuple):
    """A variant and how it is trained here.

    `gathers` says why something of the size of the dictionary or its codes must travel.
    """

    options: dict
    middle: tuple[int, ...] = ()  # axes of an activation between its row and its dimension
    target: bool = False  # whether there is something else to predict
    leading: int = 0
    fast: bool = False
    variant: str = ""  # the case's own name, if not given
    gathers: str = ""


PURSUED = "every step needs all atoms: each device gathers them once, and sends nothing in between"
CASES = {
    "relu": Case({"weight": 0.1}),
    # The default last power has slopes near zero that make much of any rounding.
    "p_anneal": Case(
        {"weight": 0.05, "anneal_from": 5, "anneal_until": 45, "plateaus": 5, "last_p": 0.6}
    ),
    "gated": Case({"weight": 0.1}),
    "jumprelu": Case({"weight": 0.02, "bandwidth": 0.2}, fast=True),
    "topk": Case({"k": K}, fast=True),
    "abs_topk": Case({"k": K}),
    "multi_topk": Case({"k": K}),
    "decaying_topk": Case({"k": K, "first_k": 8, "decay_steps": 20}),
    "group_max": Case({"k": 8}),
    "batch_topk": Case({"k": K}),
    # Of BatchTopK; boundaries that are none of the devices' own.
    "matryoshka": Case({"recipe": "batch_topk", "k": K, "prefixes": [8, 40, 100, WIDTH]}),
    "crosscoder": Case({"recipe": "topk", "k": K}, middle=(2,)),
    "l1_crosscoder": Case({}, middle=(2,)),
    "batch_topk_crosscoder": Case({"k": K}, middle=(2,)),
    "transcoder": Case({"recipe": "topk", "k": K}, target=True),
    "skip_transcoder": Case({"recipe": "jumprelu", "weight": 0.02}, target=True),
    "cross_layer_topk": Case({"layers": LAYERS, "k": K}, (LAYERS,), target=True, leading=1),
    "cross_layer_jumprelu": Case(
        {"layers": LAYERS, "weight": 0.01}, (LAYERS,), target=True, leading=1
    ),
    "cross_layer_batch_topk": Case({"layers": LAYERS, "k": K}, (LAYERS,), target=True, leading=1),
    "temporal": Case(
        {"k": K, "heads": 4, "bottleneck": 8},
        middle=(6,),
        gathers="attention in code space mixes all latents of a token: its codes must travel",
    ),
    "matching_pursuit": Case({"k": K}, gathers=PURSUED),
    "orthogonal_pursuit": Case({"k": K}, gathers=PURSUED),
    "feature_choice": Case({"k": K}),
    "mutual_choice": Case({"k": K}),
    "polynomial": Case({"recipe": "topk", "k": K, "ranks": [8, 4, 2]}),
    "variational": Case({"k": K, "spread": "learned_spread"}),
    "variational_mean": Case({"k": K}),
    "structured": Case({"weight": 0.05}),
    "row_normalised": Case({"recipe": "topk", "k": K}),
    "dependency_sparse": Case({"hidden": 8}, gathers="a derivative by all latents, which are few"),
    "predictive": Case({"groups": [8, 8]}, target=True),
    "binary": Case({}),
    "latent_quantised": Case({}, gathers="the gradient by a latent's values, ten numbers, travels"),
    "finite_scalar": Case({}),
    "vector_quantised": Case({"books": 2}),
    "archetypal": Case(
        {"k": K, "atoms": {"part": "archetypal", "candidates": 24, "choose": "sampled"}},
        variant="topk",
    ),
}
each_variant = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if c.fast else pytest.mark.slow) for n, c in CASES.items()]
)
# Rounding is not to decide the direction of a step where a gradient is nearly zero.
OPTIMIZER = optax.adam(3e-3, eps=1e-3)
ONE, BOTH, ROWS_ONLY, LATENTS_ONLY = "one", "data=2,model=4", "data=8", "model=8"


def mesh_of(spec):
    return parallel.make_mesh(spec, None if "=-1" in spec else jax.devices()[: devices_of(spec)])


def devices_of(spec):
    return int(np.prod(list(parallel.read_mesh_spec(spec).values())))


@cache
def batch_of(name, i):
    case = CASES[name]
    keys = jax.random.split(jax.random.key(i), 2)
    x = jax.random.normal(keys[0], (ROWS, *case.middle, D))
    mixed = jnp.tanh(x @ jax.random.normal(jax.random.key(99), (D, D)) / 4)
    return (x, mixed) if case.target else x


@cache
def plain(name):
    return dictionaries.learner(
        registry.build(CASES[name].variant or name, CASES[name].options | {"width": WIDTH}),
        OPTIMIZER,
    )


@cache
def learner_on(name, spec):
    if spec == ONE:
        return plain(name)
    return sharding.sharded(plain(name), mesh_of(spec), leading=CASES[name].leading)


@cache
def first(name):
    """A state on one device in which every fifth latent counts as dead, to be revived."""
    state = jax.jit(plain(name).init)(jax.random.key(0), batch_of(name, 0))
    silent = jnp.where(jnp.arange(state.stats.silent.size) % 5 == 0, 200_000, 0)
    return state._replace(stats=state.stats._replace(silent=silent.astype(jnp.int32)))


def placed(name, spec):
    if spec == ONE:
        return first(name)
    return sharding.place(first(name), mesh_of(spec), leading=CASES[name].leading)


@cache
def compiled(name, spec):
    learner = learner_on(name, spec)
    batch = learner.place(batch_of(name, 0))
    return jax.jit(learner.step).lower(placed(name, spec), batch).compile()


@cache
def trained(name, spec, steps=50):
    learner, step, state = learner_on(name, spec), compiled(name, spec), placed(name, spec)
    for i in range(steps):
        state, info = step(state, learner.place(batch_of(name, i % 10)))
        jax.block_until_ready(info)  # as `fit_feed`, which says why
    return state


def assert_near(ours, expected):
    for (path, a), b in zip(
        jax.tree.leaves_with_path(ours), jax.tree.leaves(expected), strict=True
    ):
        if not jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            told = jax.tree_util.keystr(path)
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-5, err_msg=told)


def assert_trained_alike(name, spec):
    ours, expected = trained(name, spec), trained(name, ONE)
    assert_near(ours, expected)
    decoders = (expected.params["decoder"], first(name).params["decoder"])
    assert float(jnp.abs(decoders[0] - decoders[1]).max()) > 0.02, "nothing was learned"


def test_every_variant_is_trained_on_a_mesh():
    """Those that grow or are averaged instead: `test_what_is_fitted_is_fitted_alike_on_a_mesh`."""
    assert {case.variant or name for name, case in CASES.items()} | {"itda"} == {*registry.VARIANTS}


@each_variant
def test_fifty_steps_on_a_mesh_are_those_of_one_device(name):
    assert_trained_alike(name, BOTH)
    split = trained(name, BOTH).params["decoder"].sharding.shard_shape
    shape = first(name).params["decoder"].shape
    axis = CASES[name].leading
    assert split(shape)[axis] * 4 == shape[axis]


@pytest.mark.slow
@pytest.mark.parametrize("spec", [ROWS_ONLY, LATENTS_ONLY])
def test_either_axis_alone_gives_the_same(spec):
    assert_trained_alike("topk", spec)


@each_variant
def test_neither_scores_nor_atoms_are_gathered(name):
    """What is sent at once is smaller than the scores, or the atoms, of one device."""
    if CASES[name].gathers:
        pytest.skip(CASES[name].gathers)
    rows, latents, inner = ROWS // 2, WIDTH // 4, int(np.prod(CASES[name].middle))
    pairs = max(CASES[name].leading * LAYERS * (LAYERS + 1) // 2, 1)
    reconstructions = rows * D * max(inner, 4 if name == "matryoshka" else 1)
    atoms = latents * D * inner * pairs
    found = collectives(compiled(name, BOTH).as_text())
    for one in found:
        largest = max(shape.size for shape in one.results)
        if one.op == "all-reduce":
            assert largest <= max(reconstructions, atoms), one
        else:
            assert largest <= rows * 4 * max(4 * K, 8), one  # candidates of the selection
    assert any("all-reduce" == one.op for one in found)


def large_bytes_sent(hlo, conditional):
    """What a device sends in a step, but for arrays of D or fewer: always, or for dead latents."""
    total = 0.0
    for one in collectives(hlo):
        large = tuple(shape for shape in one.results if shape.size > D)
        if large and one.conditional == conditional:
            total += one._replace(results=large).sent * one.times
    return total


def assert_sends_as_told(data, model):
    """The formula of `sharding`."""
    hlo = compiled("topk", f"data={data},model={model}").as_text()
    rows, latents = ROWS / data, WIDTH / model
    over_data, over_model = 2 * (data - 1) / data, 2 * (model - 1) / model
    candidates = 8 * K * rows * (model - 1)
    by_row = (2 * 4 * D * rows + 4 * K * rows) * over_model
    by_latent = 4 * latents * (2 * D + 2) * over_data
    assert large_bytes_sent(hlo, False) == candidates + by_row + by_latent
    trials = 33 * over_model if rows > D else 0  # a number a row each: too few to be counted
    search = 4 * rows * (trials + model - 1)
    dead = search + 4 * rows * 3 * D * over_model + 4 * latents * (2 * D + 1) * over_data
    assert large_bytes_sent(hlo, True) == dead


@pytest.mark.parametrize(("data", "model"), [(2, 4)])
def test_a_step_sends_what_the_formula_says(data, model):
    assert_sends_as_told(data, model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "model"), [(1, 1), (2, 1), (1, 2), (4, 1), (2, 2), (1, 4), (8, 1), (4, 2), (1, 8)]
)
def test_a_step_on_any_mesh_sends_what_the_formula_says(data, model):
    assert_sends_as_told(data, model)


@pytest.mark.parametrize(
    ("data", "model"),
    [
        pytest.param(1, 8, marks=pytest.mark.slow),
        (2, 4),
        pytest.param(4, 2, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "variant", ["topk", pytest.param("batch_topk", marks=pytest.mark.slow), "jumprelu"]
)
def test_a_device_holds_its_share(variant, data, model):
    """State, batch and activations: what one device takes for so few rows and latents alone."""
    n, width = 256, 2048
    options = {"weight": 0.02} if variant == "jumprelu" else {"k": K}

    def memory(data, model, n, width):
        mesh = mesh_of(f"data={data},model={model}")
        dictionary = dictionaries.build(variant, options | {"width": width})
        learner = dictionaries.learner(dictionary, OPTIMIZER)
        on_mesh, sample = sharding.sharded(learner, mesh), jnp.zeros((n, D))
        shapes = jax.eval_shape(learner.init, jax.random.key(0), sample)
        state = jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            shapes,
            sharding.placements(shapes, mesh),
        )
        step = jax.jit(on_mesh.step, donate_argnums=0).lower(state, on_mesh.place(sample))
        used = step.compile().memory_analysis()
        return used.argument_size_in_bytes + used.temp_size_in_bytes

    share = memory(1, 1, n // data, width // model)
    assert memory(data, model, n, width) <= 1.15 * share


@pytest.mark.parametrize("spec", [ONE, pytest.param(ROWS_ONLY, marks=pytest.mark.slow)])
def test_a_checkpoint_moves_to_another_mesh(tmp_path, spec):
    """A state of the mesh, stored, and gone on with on another one."""
    state, batch = trained("topk", BOTH), batch_of("topk", 7)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(50, state)
        restored, _ = checkpoints.restore(placed("topk", spec))
        moved, _ = checkpoints.restore(placed("topk", LATENTS_ONLY))
    assert_near(restored, state)
    assert_near(moved, state)
    assert moved.params["encoder"].sharding.mesh == mesh_of(LATENTS_ONLY)
    after, _ = compiled("topk", spec)(restored, learner_on("topk", spec).place(batch))
    unbroken, _ = compiled("topk", BOTH)(state, learner_on("topk", BOTH).place(batch))
    assert_near(after, unbroken)


@pytest.mark.parametrize("source", ["array", pytest.param("feed", marks=pytest.mark.slow)])
def test_fits_run_on_a_mesh(source):
    """A state made on the mesh, rows that lie on it, whole stretches of steps."""
    rows = jax.random.normal(jax.random.key(3), (256, D))

    def states(learner):
        state = learner.init(jax.random.key(0), rows)
        if source == "array":
            data = learner.place(rows)
            yield from train.fit(learner, state, data, steps=20, batch=32, seed=0, chunk=10)
        else:
            batches = feed.from_array(np.asarray(rows), batch=32, seed=0)
            yield from train.fit_feed(learner, state, batches, steps=20, chunk=10)

    small = dictionaries.learner(dictionaries.relu(WIDTH, weight=0.1), OPTIMIZER)
    on_mesh = sharding.sharded(small, mesh_of(BOTH))
    for ours, expected in zip(states(on_mesh), states(small), strict=True):
        assert ours.step == expected.step
        assert_near(ours.state, expected.state)
        np.testing.assert_allclose(ours.info["loss"], expected.info["loss"], rtol=1e-5)
    assert ours.state.params["encoder"].sharding.spec[0] == "model"
    assert ours.state.optimizer[0].mu["decoder"].sharding.spec[0] == "model"
    assert ours.state.stats.silent.sharding.spec[0] == "model"


@pytest.mark.parametrize("kind", ["itda", pytest.param("codebook", marks=pytest.mark.slow)])
def test_what_is_fitted_is_fitted_alike_on_a_mesh(kind):
    """Atoms that are rows (ITDA), words that are averages of rows: fifty batches of each."""
    directions = jax.random.normal(jax.random.key(1), (8, D))

    def batch(i):
        return jax.random.normal(jax.random.key(i), (ROWS, 8)) @ directions + 1.0

    if kind == "itda":
        few = registry.build("itda", {"width": WIDTH, "k": K})
        learner = dictionaries.grow(few, 30.0)
    else:
        learner = moving_average(WIDTH, books=2, decay=0.9)
    on_mesh = sharding.sharded(learner, mesh_of(BOTH))
    start, states = learner.init(jax.random.key(0), batch(0)), []
    for one, state in (learner, start), (on_mesh, sharding.place(start, mesh_of(BOTH))):
        step = jax.jit(one.step)
        for i in range(50):
            state, info = step(state, one.place(batch(i)))
            jax.block_until_ready(info)
        states.append(state)
    assert_near(states[1], states[0])
    for leaf in jax.tree.leaves(states[1]):
        assert not leaf.shape[:1] == (WIDTH,) or leaf.sharding.spec[0] == "model"
    if kind == "itda":
        assert ROWS < int(states[0].count) <= WIDTH
        np.testing.assert_array_equal(states[1].params["label"], states[0].params["label"])


@pytest.mark.slow
def test_a_sweep_runs_on_a_mesh():
    rates = {"rate": jnp.array([1e-2, 1e-3])}

    def make(member):
        return dictionaries.learner(
            dictionaries.topk(WIDTH, K), optax.adam(member["rate"], eps=1e-3)
        )

    many = dictionaries.sweep(make, rates)
    on_mesh = sharding.sharded(many, mesh_of(BOTH), leading=1)
    states = []
    for learner in (on_mesh, many):
        state, step = learner.init(jax.random.key(0), batch_of("topk", 0)), jax.jit(learner.step)
        for i in range(5):
            state, _ = step(state, learner.place(batch_of("topk", i)))
        states.append(state)
    assert_near(*states)
    assert states[0].members.params["encoder"].sharding.spec == P(None, "model", None)


@pytest.mark.parametrize("spec", [BOTH, ROWS_ONLY, LATENTS_ONLY])
def test_selection_over_devices_breaks_ties_as_one_device_does(spec):
    """Scores of small integers, which have no rounding and many equals."""
    k, n = 20, 16
    x, encoder = (
        jax.random.randint(jax.random.key(i), (m, D), -2, 3).astype(jnp.float32)
        for i, m in enumerate((n, WIDTH))
    )
    bias = (jnp.arange(WIDTH) % 3).astype(jnp.float32)

    @jax.jit
    def chosen(x, encoder, bias):
        scores = x @ encoder.T + bias[None]
        codes = sparsify.top_k_scores(x, encoder, bias, k)
        split = ambient_split(*scores.shape)
        if split is None:
            own = jnp.zeros(scores.shape, bool).at[jnp.arange(n)[:, None], codes.indices].set(True)
        else:

            def on_device(scores):
                mine = sparsify.largest(scores, min(k, scores.shape[1]))
                mask, rows = jnp.zeros(scores.shape, bool), jnp.arange(len(scores))[:, None]
                return mask.at[rows, mine.indices].set(sparsify.among_largest(mine, k, split))

            own = split.run(on_device, (scores,), (split.by_both(),), split.by_both())
        return codes, sparsify.largest(scores, k), own

    expected = chosen(x, encoder, bias)
    assert len(np.unique(np.asarray(expected[0].values[0]))) < k / 2  # ties there are
    with jax.set_mesh(mesh_of(spec)):
        ours = chosen(x, encoder, bias)
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_prefixes_that_cut_a_device_in_pieces_are_those_of_one_device():
    codes, atoms = (jax.random.normal(jax.random.key(i), (n, WIDTH)) for i, n in enumerate((8, D)))
    params = {"decoder": atoms.T, "decoder_bias": jnp.ones(D)}
    sizes = (3, 5, 33, 34, 97, WIDTH)

    def decode(codes, params):
        return prefix_decode(params, codes, sizes)

    def pull(codes, params):
        return jax.grad(lambda *a: jnp.sin(decode(*a)).sum(), (0, 1))(codes, params)

    expected = decode(codes, params), pull(codes, params)
    with jax.set_mesh(mesh_of(BOTH)):
        ours = jax.jit(decode)(codes, params), jax.jit(pull)(codes, params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=3e-5), ours, expected
    )


def test_a_width_that_devices_can_not_share_is_refused():
    learner = dictionaries.learner(dictionaries.topk(50, K), OPTIMIZER)
    on_mesh = sharding.sharded(learner, mesh_of(BOTH))
    said = r"decoder has 50 latents, which model=4 .* model=1 or 2, or a width of 48 or 52"
    with pytest.raises(ValueError, match=said):
        on_mesh.init(jax.random.key(0), jnp.zeros((8, D)))
    with pytest.raises(ValueError, match=r"a batch of 31 rows.* data=2 .* multiple of 2"):
        learner_on("topk", BOTH).place(jnp.zeros((31, D)))


def test_rows_that_lie_on_the_mesh_are_not_moved_again():
    learner = learner_on("topk", BOTH)
    rows = learner.place(np.zeros((8, D), np.float32))
    assert {shard.data.shape for shard in rows.addressable_shards} == {(4, D)}
    assert learner.place(rows) is rows
