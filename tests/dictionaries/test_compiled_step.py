"""What the compiled training steps are made of."""

import re
from functools import partial

import jax
import optax
import pytest

from jaxinterp import dictionaries as dl

WIDTH, K, D, BATCH = 64, 4, 16, 32
VARIANTS = {
    "relu": lambda: dl.relu(WIDTH),
    "jumprelu": lambda: dl.jumprelu(WIDTH),
    "gated": lambda: dl.gated(WIDTH),
    "topk": lambda: dl.topk(WIDTH, K),
    "abs_topk": lambda: dl.abs_topk(WIDTH, K),
    "multi_topk": lambda: dl.multi_topk(WIDTH, K),
    "group_max": lambda: dl.group_max(WIDTH, K),
    "batch_topk": lambda: dl.batch_topk(WIDTH, K),
    "matryoshka": lambda: dl.matryoshka(partial(dl.topk, width=WIDTH, k=K), [8, 16, WIDTH]),
}


QUICK = ("jumprelu", "topk", "batch_topk")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in VARIANTS]
)
def test_a_step_sorts_nothing_and_leads_to_a_state_of_its_own_kind(name):
    """A sort is tens of times slower than a top-k; another dtype would compile a second time."""
    learner = dl.learner(VARIANTS[name](), dl.optimizer("adam", 1e-3, clip=1.0))
    x = jax.random.normal(jax.random.key(0), (BATCH, D))
    state = jax.jit(learner.init)(jax.random.key(1), x)
    compiled = jax.jit(learner.step).lower(state, x).compile()
    text = compiled.as_text()
    assert " sort(" not in text
    if "topk" in name and name != "batch_topk":
        assert "TopK" in text
    new, _ = compiled(state, x)
    assert [jax.typeof(a) for a in jax.tree.leaves(new)] == [
        jax.typeof(a) for a in jax.tree.leaves(state)
    ]


@pytest.mark.parametrize("make", [dl.topk, dl.batch_topk])
def test_nothing_of_the_size_of_the_weights_is_copied_or_filled_with_zeros_to_be_added(make):
    """Without dead latents their branch hands the gradients of all the others through."""
    width, d = 8192, 256
    learner = dl.learner(make(width, K), dl.optimizer("adam", 1e-3, clip=1.0))
    x = jax.ShapeDtypeStruct((16, d), "float32")
    state = jax.eval_shape(learner.init, jax.random.key(1), x)
    text = jax.jit(learner.step, donate_argnums=0).lower(state, x).compile().as_text()
    weights = rf"f32\[{width},{d}\]"
    assert not re.search(rf"= {weights}\S* copy\(", text)
    branches = re.findall(
        rf"= \([^=]*{weights}[^=]*\) conditional\(.*branch_computations=\{{(\S+), (\S+)\}}", text
    )
    assert len(branches) == 1
    done = [
        set(re.findall(rf" = {weights}\S* ([\w-]+)\(", text.split(f"\n{name} ")[1].split("\n}")[0]))
        for name in branches[0]
    ]
    assert min(done, key=len) <= {"get-tuple-element", "parameter"}, done


@pytest.mark.parametrize(("clip", "arrays"), [(dl.clip_by_norm, 0), (optax.clip_by_global_norm, 1)])
def test_clipping_keeps_no_second_gradient(clip, arrays):
    """Told beside optax's, which is what ours is for: once it keeps none either, ours can go."""
    optimizer = optax.chain(clip(1.0), optax.adam(1e-3))
    weights = jax.ShapeDtypeStruct((2048, 512), "float32")
    state = jax.eval_shape(optimizer.init, weights)

    def step(gradient, state, weights):
        updates, state = optimizer.update(gradient, state, weights)
        return optax.apply_updates(weights, updates), state

    text = jax.jit(step, donate_argnums=(1, 2)).lower(weights, state, weights).compile().as_text()
    made = re.findall(
        r"\n  (?:ROOT )?%\S+ = f32\[2048,512\]\S* (\S+)\(", text[text.index("\nENTRY") :]
    )
    assert made.count("fusion") == 3 + arrays  # besides both moments and the weights
