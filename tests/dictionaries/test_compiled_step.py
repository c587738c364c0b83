"""What the compiled training steps are made of."""

import re
from functools import partial

import jax
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


@pytest.mark.parametrize("name", VARIANTS)
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
def test_nothing_of_the_size_of_the_weights_is_copied_or_made_to_be_empty(make):
    """Beside weights and moments, which it replaces, a step holds gradients: its own two, those of
    the dead latents in their branch, and one made tangent to the constraint."""
    width, d = 8192, 256
    learner = dl.learner(make(width, K), dl.optimizer("adam", 1e-3, clip=1.0))
    x = jax.ShapeDtypeStruct((16, d), "float32")
    state = jax.eval_shape(learner.init, jax.random.key(1), x)
    compiled = jax.jit(learner.step, donate_argnums=0).lower(state, x).compile()
    assert not re.search(rf"= f32\[{width},{d}\]\S* copy\(", compiled.as_text())
    assert compiled.memory_analysis().temp_size_in_bytes < 5.3 * width * d * 4
