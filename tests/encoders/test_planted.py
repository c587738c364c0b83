"""The planted circuit: it solves its task, by the heads that it says and by no others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.encoders import planted


def test_the_planted_model_solves_its_task_by_its_circuit_alone():
    model = planted.induction_model(jax.random.key(0))
    encoder, n = model.encoder, 40
    prompts = planted.induction_prompts(jax.random.key(1), encoder.config, n)
    assert (prompts.tokens[:n] != prompts.tokens[n:]).sum(1).tolist() == [1] * n
    tokens, answer = jnp.asarray(prompts.tokens), prompts.answer
    logits, seen = encoder.forward(encoder.params, encoder.config, tokens, capture=("z",))
    last = np.asarray(logits)[:, -1]
    assert (last[:n].argmax(1) == answer[:n]).all()
    assert np.abs(last[n:]).max() < 0.1 * last[:n].max(1).min()
    mean = seen["z"][:, n:].mean(1)

    @jax.jit
    def without(gone):
        """The last logits with some heads at their means over the negatives."""

        def edit(value, layer):
            return jnp.where(gone[layer][None, None, :, None], mean[layer][None], value)

        return encoder.forward(encoder.params, encoder.config, tokens[:n], edits={"z": edit})[0][
            :, -1
        ]

    def answered(*kinds):
        """The logit of the answer, in shares of the untouched one, and whether it is given."""
        logits = np.asarray(without(jnp.asarray(np.isin(model.kinds, kinds))))
        share = logits[np.arange(n), answer[:n]] / last[np.arange(n), answer[:n]]
        return share.mean(), (logits.argmax(1) == answer[:n]).mean()

    assert answered("")[0] > 0.95  # without the distractors
    assert answered("")[1] == 1
    # Either route does without the other; a route is gone when one of its two parts is.
    for kind in ("before", "duplicate", "induction", "mover"):
        assert answered(kind)[0] < 0.75, kind
        assert answered(kind)[1] == 1, kind
    for first in ("before", "induction"):
        for second in ("duplicate", "mover"):
            assert answered(first, second)[0] < 0.05, (first, second)
    # At the last position, the visible heads and no others of the circuit tell the two apart.
    outputs = planted.head_outputs(encoder, prompts.tokens)
    apart = jnp.linalg.norm(outputs[:n] - outputs[n:], axis=-1).min(0)
    assert (np.asarray(apart)[model.visible()] > 0.05).all()
    assert (np.asarray(apart)[model.circuit() & ~model.visible()] < 1e-4).all()


def test_impossible_models_and_prompts_are_refused():
    with pytest.raises(ValueError, match="need 3 layers"):
        planted.induction_model(jax.random.key(0), layers=2)
    config = planted.induction_model(jax.random.key(0)).encoder.config
    with pytest.raises(ValueError, match="n=0"):
        planted.induction_prompts(jax.random.key(0), config, 0)
