import jax.numpy as jnp
import pytest

from jaxinterp.encoders import causal, sites
from jaxinterp.encoders.stack import BlockConfig, block_sites

from .models import CONFIGS

LLAMA = causal.sites(CONFIGS["llama"])


def resolve(request):
    return sites.resolve(request, 12, LLAMA)


@pytest.mark.parametrize(
    ("request_", "site", "layers", "single"),
    [
        ("L6.resid_post", "resid_post", (6,), True),
        ("blocks.6.hook_resid_post", "resid_post", (6,), True),
        ("blocks.6.attn.hook_z", "z", (6,), True),
        ("blocks.6.attn.o.hook_in", "z", (6,), True),
        ("blocks.6.hook_out", "resid_post", (6,), True),
        ("L4-7.z", "z", (4, 5, 6, 7), False),
        ("L*.z", "z", tuple(range(12)), False),
        ("z", "z", tuple(range(12)), False),
        ("attn.hook_z", "z", tuple(range(12)), False),
        ("hook_embed", "embed", (), True),
        ("unembed.hook_out", "logits", (), True),
    ],
)
def test_spellings(request_, site, layers, single):
    (found,) = resolve(request_)
    assert found == (request_, site, layers, single)


def test_a_glob_gives_every_match():
    assert [r.name for r in resolve("L3.resid_*")] == [
        "L3.resid_pre",
        "L3.resid_mid",
        "L3.resid_post",
    ]
    assert {r.site for r in resolve("*")} == set(LLAMA)


def test_every_word_has_one_long_form():
    longs = [*sites.BLOCK_SITES.values(), *sites.OUTER_SITES.values()]
    assert len(set(longs)) == len(longs)
    for short, long in sites.BLOCK_SITES.items():
        if short in LLAMA:
            assert resolve(f"blocks.2.{long}")[0][1:] == resolve(f"L2.{short}")[0][1:]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("L12.z", r"'L12.z': layers 12..12 asked for, this model has 0..11"),
        ("L5-3.z", r"layers 5..3 asked for"),
        ("L3.resid_pots", r"did you mean 'resid_post'"),
        ("L3.embed", r"'embed' is outside the layers; ask for 'embed'"),
        ("L3.ln1_post", r"this model has no site 'ln1_post'; it has"),
        ("pos_embed", r"no site 'pos_embed'"),
        ("nonsense", r"unknown site"),
    ],
)
def test_bad_requests(request_, message):
    with pytest.raises(ValueError, match=message):
        resolve(request_)


def test_names_of_the_bridge_follow_the_layout():
    """Of a block whose norms follow the additions, and of one with norms behind its parts."""
    shape = dict(n_layers=2, d_model=8, n_heads=2, n_kv_heads=2, d_head=4, d_mlp=16)
    bert = block_sites(BlockConfig(**shape, norm_after=True))
    for name, site in (("hook_out", "ln2"), ("ln1.hook_in", "resid_mid")):
        assert sites.resolve(f"blocks.0.{name}", 2, bert)[0].site == site
    assert sites.resolve("blocks.0.ln2.hook_in", 2, bert)[0].site == "resid_post"
    gemma = causal.sites(CONFIGS["gemma"])
    assert sites.resolve("blocks.0.hook_out", 2, gemma)[0].site == "resid_post"
    for name in ("attn", "mlp"):
        with pytest.raises(ValueError, match=f"behind that norm it is '{name}_out'"):
            sites.resolve(f"blocks.0.{name}.hook_out", 2, gemma)


def test_one_name_has_one_reducer():
    wanted = (("L0.z", jnp.mean), ("L0.z", jnp.max))
    with pytest.raises(ValueError, match=r"'L0.z' is captured with two reducers"):
        sites.plan(wanted, {}, 12, LLAMA)
    assert len(sites.plan((("L0.z", jnp.mean), ("L0.z", jnp.mean)), {}, 12, LLAMA).captures) == 2


def test_a_parallel_block_has_no_middle():
    with pytest.raises(ValueError, match="its blocks are parallel"):
        sites.resolve("L0.resid_mid", 4, causal.sites(CONFIGS["neox"]))
