import pytest

from jaxinterp.encoders import causal, sites

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


def test_a_parallel_block_has_no_middle():
    with pytest.raises(ValueError, match="its blocks are parallel"):
        sites.resolve("L0.resid_mid", 4, causal.sites(CONFIGS["neox"]))
