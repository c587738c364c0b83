"""The main programs lower for TPU and CUDA from a CPU, so that nothing CPU-only creeps in."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from jaxinterp import dictionaries as dl
from jaxinterp.dictionaries import metrics
from jaxinterp.encoders import causal
from jaxinterp.geometry import k_nearest

# Only shapes are lowered: these are large enough that a CPU would work in blocks.
D, WIDTH, K, BATCH = 512, 8192, 32, 4096
VARIANTS = {
    "topk": lambda: dl.topk(WIDTH, K),
    "batch_topk": lambda: dl.batch_topk(WIDTH, K),
    "jumprelu": lambda: dl.jumprelu(WIDTH),
    "matryoshka": lambda: dl.matryoshka(partial(dl.batch_topk, k=K), (1024, WIDTH), width=WIDTH),
}
ROWS = jax.ShapeDtypeStruct((BATCH, D), jnp.float32)


def training_step(name):
    learner = dl.learner(VARIANTS[name](), dl.optimizer("adam", 1e-3, clip=1.0))
    state = jax.eval_shape(learner.init, jax.random.key(0), ROWS)
    return learner.step, (state, ROWS)


def forward_with_capture(shipped):
    config = shipped.config
    params = jax.eval_shape(partial(causal.init, config=config), jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((2, 8), jnp.int32)

    def run(params, tokens):
        return causal.forward(params, config, tokens, capture=("resid_post", "L3.pattern"))

    return run, (params, tokens)


def evaluation_sums():
    dictionary = VARIANTS["topk"]()
    params = jax.eval_shape(dictionary.init, jax.random.key(0), ROWS)

    def run(params, x):
        codes = dictionary.encode(params, x)
        return metrics.fit(x, dictionary.decode(params, codes)), metrics.usage(codes, WIDTH)

    return run, (params, ROWS)


PROGRAMS = {
    **{name: partial(training_step, name) for name in VARIANTS},
    "neighbours": lambda: (partial(k_nearest, k=5), (ROWS,)),
    "evaluation": evaluation_sums,
    "forward": forward_with_capture,
}


def lowered(program, arguments, platform):
    return jax.export.export(jax.jit(program), platforms=[platform])(*arguments)


def custom_calls(exported):
    """Operations that only a library of one platform knows; the main programs need none."""
    return set(re.findall(r"custom_call @([\w.$]+)", exported.mlir_module()))


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_main_program_lowers(name, platform, request):
    make = PROGRAMS[name]
    program, arguments = make(request.getfixturevalue("shipped")) if name == "forward" else make()
    exported = lowered(program, arguments, platform)
    assert exported.platforms == (platform,)
    assert custom_calls(exported) == set()


def test_the_blocks_that_suit_a_cpu_stay_there():
    loops = {
        platform: lowered(*training_step("topk"), platform).mlir_module().count("stablehlo.while")
        for platform in ("cpu", "tpu", "cuda")
    }
    assert loops["cpu"] > 0
    assert loops["tpu"] == loops["cuda"] == 0


def test_what_only_a_cpu_has_is_found():
    """The check sees a program that would not run elsewhere, and one that can't be lowered."""
    matrix = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    calls = custom_calls(lowered(jnp.linalg.eigh, (matrix,), "cpu"))
    assert any("lapack" in name for name in calls)
    with pytest.raises(NotImplementedError, match="eig"):
        lowered(jnp.linalg.eig, (matrix,), "tpu")
