"""The torch contestants of `bench_dictionaries.py`: whole training steps of the peers.

    PYTHON experiments/bench_dictionaries_torch.py NAME DATA.npy '{"width": 4096, ...}'

Run by that script, in a Python that has torch, sae-lens, eai-sparsify and overcomplete.
"""

import json
import os
import sys
from collections.abc import Callable

from contestants import answers, memory, serve

Step = Callable[..., None]


def saelens(torch, name: str, size: dict, batches) -> Step:
    import sae_lens
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    prefixes = [size["width"] // 2**i for i in reversed(range(5))]
    stem, options = {
        "topk": ("TopK", {"k": size["k"]}),
        "relu": ("Standard", {"l1_coefficient": 5.0}),
        "jumprelu": ("JumpReLU", {"l0_coefficient": 1.0}),
        "batch_topk": ("BatchTopK", {"k": size["k"]}),
        "matryoshka": ("MatryoshkaBatchTopK", {"k": size["k"], "matryoshka_widths": prefixes}),
        "matching_pursuit": ("MatchingPursuit", {"max_iterations": size["k"]}),
    }[name]
    device = batches[0].device.type
    config = getattr(sae_lens, f"{stem}TrainingSAEConfig")(
        d_in=size["d"], d_sae=size["width"], dtype="float32", device=device, **options
    )
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=10**9,
            train_batch_size_samples=size["batch"],
            lr_end=3e-5,
            device=device,
            autocast=size["dtype"] == "bfloat16",
            logger=LoggingConfig(log_to_wandb=False),
        ),
        sae=getattr(sae_lens, f"{stem}TrainingSAE")(config),
        data_provider=iter(()),
    )

    def step(x) -> None:
        trainer.step(x)
        trainer.n_training_steps += 1

    return step


def sparsify(torch, name: str, size: dict, batches) -> Step:
    from sparsify import SparseCoder
    from sparsify.config import SparseCoderConfig

    config = SparseCoderConfig(num_latents=size["width"], k=size["k"])
    coder = SparseCoder(size["d"], config, device=batches[0].device, dtype=torch.float32)
    coder.b_dec.data = batches[0].mean(0)
    optimizer = torch.optim.Adam(coder.parameters(), lr=1e-4)
    silent = torch.zeros(size["width"], dtype=torch.long, device=batches[0].device)

    def step(x) -> None:
        coder.set_decoder_norm_to_unit_norm()
        out = coder(x)
        out.fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        silent.add_(x.shape[0])
        silent[out.latent_indices.flatten()] = 0

    return step


def overcomplete(torch, name: str, size: dict, batches) -> Step:
    from overcomplete.sae import OMPSAE, MpSAE

    kind = {"matching_pursuit": MpSAE, "orthogonal_pursuit": OMPSAE}[name]
    sae = kind(size["d"], size["width"], k=size["k"], device=batches[0].device)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-4)
    silent = torch.zeros(size["width"], dtype=torch.long, device=batches[0].device)

    def step(x) -> None:
        _, codes, guess = sae(x)
        (guess - x).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            silent.add_(x.shape[0])
            silent[(codes > 0).any(0)] = 0

    return step


def plain(torch, name: str, size: dict, batches) -> Step:
    """What one writes by hand: dense codes, automatic differentiation."""
    device = batches[0].device
    decoder = torch.nn.functional.normalize(
        torch.randn(size["width"], size["d"], device=device), dim=1
    )
    weights = [decoder.clone(), decoder, torch.zeros(size["width"], device=device)]
    encoder, decoder, encoder_bias, decoder_bias = parameters = [
        torch.nn.Parameter(w) for w in (*weights, batches[0].mean(0))
    ]
    optimizer = torch.optim.Adam(parameters, lr=1e-4)
    silent = torch.zeros(size["width"], dtype=torch.long, device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=size["dtype"] == "bfloat16")

    def step(x) -> None:
        with autocast:
            scores = torch.relu((x - decoder_bias) @ encoder.T + encoder_bias)
            values, indices = scores.topk(size["k"], sorted=False)
            codes = torch.zeros_like(scores).scatter(-1, indices, values)
            guess = codes @ decoder + decoder_bias
        loss = (guess - x).square().sum() / (x - x.mean(0)).square().sum()
        loss.backward()
        with torch.no_grad():
            along = (decoder.grad * decoder).sum(1, keepdim=True)
            decoder.grad -= along * decoder
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            decoder.div_(decoder.norm(dim=1, keepdim=True))
            silent.add_(x.shape[0])
            silent[indices.flatten()] = 0

    return step


def main(kind: str, data: str, size: dict) -> None:
    stream = answers()
    import numpy as np
    import torch

    torch.set_num_threads(size["threads"])
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its kernels are for GPUs
    library, name = kind.split("/")
    builders = {"saelens": saelens, "sparsify": sparsify, "overcomplete": overcomplete}
    build = builders.get(library, plain)
    if library == "overcomplete":
        import matplotlib.pyplot as plt

        plt.cm.get_cmap = plt.get_cmap  # its figures ask for a name that matplotlib 3.9 dropped
    if library != "torch":
        __import__({"saelens": "sae_lens"}.get(library, library))
    peak = memory if device == "cpu" else lambda: torch.cuda.max_memory_allocated() / 2**20
    libraries = peak()
    rows = torch.from_numpy(np.load(data)).to(device)
    batches = [b.contiguous() for b in rows.split(size["batch"])]
    step = build(torch, name, size, batches)

    def run() -> None:
        for i in range(size["steps"]):
            step(batches[i % len(batches)])
        if device == "cuda":
            torch.cuda.synchronize()

    serve(stream, run, libraries, peak)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", str(json.loads(sys.argv[3])["threads"]))
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
