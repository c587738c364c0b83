"""Small checkpoints of several families, and a way to change what is in them."""

from safetensors.numpy import load_file, save_file

from . import oracle
from .oracle import transformers as hft

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
LLAMA = dict(
    vocab_size=97,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)


def make(folder, name):
    classes = {
        "llama": (hft.LlamaForCausalLM, hft.LlamaConfig(**LLAMA)),
        "gpt2": (
            hft.GPT2LMHeadModel,
            hft.GPT2Config(vocab_size=97, n_positions=64, n_embd=48, n_layer=2, n_head=4),
        ),
        "neox": (
            hft.GPTNeoXForCausalLM,
            hft.GPTNeoXConfig(**LLAMA, rotary_pct=0.5),
        ),
        "gemma3": (
            hft.Gemma3ForCausalLM,
            hft.Gemma3TextConfig(**LLAMA, head_dim=12, sliding_window=4),
        ),
        "vit": (
            hft.ViTModel,
            hft.ViTConfig(
                hidden_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=64,
                image_size=16,
                patch_size=8,
            ),
        ),
    }
    return oracle.save_random(folder, *classes[name])


def rewrite(folder, change):
    """Rewrites the tensors through `change(dict) -> dict`."""
    tensors = change(load_file(folder / FILE))
    save_file(tensors, folder / FILE)
