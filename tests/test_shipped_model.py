"""The model that ships: small, as good as its card says, and the same through torch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp import data
from jaxinterp.encoders import assets

TEXTS = [
    f"{start} {end}"
    for start in (
        "Return a new array",
        "If the file does not exist,",
        "The keyword argument",
        "Raised when",
        "See also the documentation of",
    )
    for end in (
        "of the given shape and type, filled with zeros.",
        "a ValueError is raised.",
        "x = np.arange(10)\n    >>> x.sum()\n    45",
        "is deprecated since version 3.12.",
    )
]


def test_it_is_small_and_documented():
    folder = assets.folder()
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 8_000_000
    card = (folder / "README.md").read_text()
    facts = json.loads((folder / "training.json").read_text())
    assert f"{facts['bits_per_byte']:.3f}" in card
    assert "experiments/train_tiny_lm.py" in card
    assert "seed" in card


@pytest.mark.slow
def test_its_loss_on_held_out_text_is_what_the_card_says(shipped):
    """Recomputed on a sample of the held-out documents of this installation."""
    _, held_out = data.split(data.installed_text())
    sample = held_out[::6]
    rows = data.token_rows(sample, shipped.tokenizer, shipped.config.context)

    @jax.jit
    def nats(params, tokens, mask):
        logits, _ = shipped.forward(params, shipped.config, tokens, mask=mask)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:])
        return (losses * mask[:, 1:]).sum()

    total = 0.0
    for start in range(0, len(rows.tokens), 16):
        tokens, mask = rows.tokens[start : start + 16], rows.mask[start : start + 16]
        missing = ((0, 16 - len(tokens)), (0, 0))
        total += float(nats(shipped.params, np.pad(tokens, missing), np.pad(mask, missing)))
    bits = total / np.log(2) / sum(len(d.text.encode()) for d in sample)
    assert bits <= 1.6
    facts = json.loads((assets.folder() / "training.json").read_text())
    assert abs(bits - facts["bits_per_byte"]) < 0.15  # another sample, maybe another Python


def test_logits_equal_transformers(shipped):
    torch = pytest.importorskip("torch", reason="the oracle is torch: pip install torch")
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(assets.folder()).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(assets.folder())
    forward = jax.jit(lambda p, t: shipped.forward(p, shipped.config, t)[0])
    for text, ids in zip(TEXTS, shipped.tokenizer.encode_batch(TEXTS), strict=True):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
        padded = [shipped.tokenizer.bos, *ids]
        with torch.no_grad():
            expected = model(torch.tensor([padded])).logits[0].numpy()
        ours = forward(shipped.params, jnp.asarray([padded + [1] * (48 - len(padded))]))
        np.testing.assert_allclose(ours[0, : len(padded)], expected, atol=1e-4)


def test_every_text_round_trips_through_the_tokenizer(shipped):
    hostile = ["tabs\tand\n\nnewlines  ", "caf\u00e9 \u4f60\u597d \U0001f600", "<bos> as text", ""]
    for text, ids in zip(hostile, shipped.tokenizer.encode_batch(hostile), strict=True):
        joined = shipped.tokenizer.backend.decode(ids, skip_special_tokens=False)
        assert joined == text
