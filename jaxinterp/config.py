"""The settings of a run, one frozen dataclass; every field can be set on the command line."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from jaxinterp.data import INSTALLED
from jaxinterp.encoders.assets import EMBEDDED


@dataclass(frozen=True)
class RunConfig:
    """From a language model and text to a dictionary, its metrics and the geometry of the layers.

    Attributes:
        name: name of the run; its results lie in `out`/`name`.
        out: folder of all runs.
        model: "tiny" (the shipped model), a folder in Hugging Face format, or a hub name.
        text: "installed" (the English that this Python carries), a .txt / .jsonl / .parquet file,
            a folder of such files, or the name of a hub data set.
        text_column: column that holds the text, for tables.
        context: tokens in a row, the beginning-of-sequence token included.
        tokens: held-in tokens to harvest, at least (all, where the text is shorter).
        held_out_tokens: held-out tokens to measure on, at least (likewise).
        site: where the dictionary reads, e.g. "L2.resid_post"; empty for the middle of the model.
        width: latents of the dictionary; 0 for 8 times the width of the stream.
        k: latents kept per token, in the variants that keep a given number.
        variant: kind of dictionary: topk, batch_topk, jumprelu, relu, gated, matryoshka, ...
        options: further arguments of the variant, each as name=value: "weight=0.3",
            "penalty=tanh", "first_threshold=0.1".
        target_l0: mean number of active latents per token that a controller of the penalty's
            weight is to reach, for variants with a penalty; 0 for a fixed weight.
        normalise: what is done to the activations before training and folded into the dictionary
            after it: "none", "centring", "mean_norm", "unit_mean_square", "unit_variance",
            "standardising"; "auto" for mean_norm in variants with a penalty, else none.
        steps: training steps of the dictionary.
        batch: tokens in a training step.
        optimizer: "adam", "adam_b1_0" (without momentum), "muon", "schedule_free" or
            "sign_momentum".
        learning_rate: peak rate.
        warmup: updates of the rise to it; -1 for a tenth of the run, at most 200.
        decay: its fall: "cosine", "linear" (over the last fifth) or "constant".
        clip: largest norm of the gradient; 0 for no limit.
        average: decay of the average of the weights that is kept instead of them; 0 for none.
        accumulate: batches whose mean gradient makes one update.
        threshold_rate: learning rate of thresholds, in learning rates of the other weights.
        resample_every: steps between two new starts for dead latents, up to three quarters of the
            run; 0 for none.
        precision: of the products in training, "float32" or "bfloat16".
        trackers: where metrics go besides training.jsonl: tensorboard, wandb.
        points: tokens whose activations the dimension of every layer is estimated on.
        neighbors: neighbours of the Levina-Bickel estimate.
        features: features shown in the report.
        contexts: contexts shown per feature.
        mesh: how the devices of all processes share the training, e.g. "data=-1,model=2": batches
            are split over data, the width over model; empty for one device, or with several
            processes for "data=-1".
        checkpoint_every: steps between two checkpoints, the most that a lost machine costs.
        seed: the one seed.
    """

    name: str = "quickstart"
    out: str = "runs"
    model: str = EMBEDDED
    text: str = INSTALLED
    text_column: str = "text"
    context: int = 256
    tokens: int = 300_000
    held_out_tokens: int = 100_000
    site: str = ""
    width: int = 0
    k: int = 32
    variant: str = "topk"
    options: tuple[str, ...] = ()
    target_l0: float = 0.0
    normalise: Literal[
        "auto",
        "none",
        "centring",
        "mean_norm",
        "unit_mean_square",
        "unit_variance",
        "standardising",
    ] = "auto"
    steps: int = 2000
    batch: int = 2048
    optimizer: Literal["adam", "adam_b1_0", "muon", "schedule_free", "sign_momentum"] = "adam"
    learning_rate: float = 2e-3
    warmup: int = -1
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    clip: float = 0.0
    average: float = 0.0
    accumulate: int = 1
    threshold_rate: float = 10.0
    resample_every: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    points: int = 5000
    neighbors: int = 20
    features: int = 50
    contexts: int = 12
    mesh: str = ""
    checkpoint_every: int = 500
    seed: int = 0

    def outcome(self) -> dict[str, Any]:
        """The settings that decide what a run gives; it may go on with others of the rest."""
        rest = ("out", "mesh", "checkpoint_every", "trackers")
        return {n: v for n, v in dataclasses.asdict(self).items() if n not in rest}

    def check(self) -> None:
        """Refuses numbers that cannot be, before any work.

        Raises:
            ValueError: which setting, its value, and what it must be.
        """
        positive = "context tokens held_out_tokens k steps batch points neighbors features contexts"
        for field in [*positive.split(), "accumulate", "checkpoint_every"]:
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}: it must be at least 1")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}: it must be positive")
        for field in ("target_l0", "clip", "resample_every", "width", "seed"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field} is {getattr(self, field)}: it must not be negative")
        if self.accumulate > self.steps:
            raise ValueError(f"accumulate is {self.accumulate} in a run of {self.steps} steps")
        if self.points <= self.neighbors:
            raise ValueError(
                f"{self.points} points for {self.neighbors} neighbours: raise points "
                f"above {self.neighbors} or lower neighbors"
            )
        if self.width and self.k > self.width:
            raise ValueError(f"k is {self.k} with a width of {self.width}: need k <= width")


@dataclass(frozen=True)
class Processes:
    """How the processes of one run find each other; a run is one process unless told otherwise.

    Attributes:
        distributed: join the other processes of this TPU pod, Slurm, Open MPI or Kubernetes job.
        coordinator: HOST:PORT of process 0, where no such platform knows it; give `processes` and
            `process` with it.
        processes: how many there are.
        process: which this is, from 0.
        timeout: seconds to wait for the others, at the start and the end.
        heartbeat: seconds without a sign of life after which another process counts as lost.
        stall: seconds without any progress after which a process ends.
    """

    distributed: bool = False
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    timeout: int = 300
    heartbeat: int = 100
    stall: int = 1800

    @property
    def several(self) -> bool:
        """Whether there are others to join."""
        given = (self.coordinator, self.processes, self.process)
        return self.distributed or any(value is not None for value in given)

    def check(self) -> None:
        """Refuses times that cannot be.

        Raises:
            ValueError: which setting, its value, and what it must be.
        """
        for field in ("timeout", "heartbeat", "stall"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}: give 1 second or more")


@dataclass(frozen=True)
class HarvestConfig:
    """Which activations of which model, on what data.

    Attributes:
        store: where the rows go: a folder, or a URL that tensorstore knows (gs://, s3://, file://).
        model: "tiny" (the shipped model), a folder in Hugging Face format, or a hub name.
        sites: what is harvested, all in one forward: "L2.resid_post", "resid_post" (every layer),
            "L4-7.z", "L3.resid_*".
        text: "installed" (the English that this Python carries), a .txt / .jsonl / .parquet /
            .arrow file, a folder of such files, or the name of a hub data set
            ("name:configuration").
        text_column: column that holds the text, for tables.
        split: the split of a hub data set.
        side: which documents: "held_in" and "held_out" part them by a hash of their names, nine to
            one; "all".
        streaming: read tables while they are used, never whole.
        images: a folder of pictures or a hub data set, for models that read pictures; instead of
            text.
        image_column: column that holds the pictures, for tables.
        context: tokens in a row, the beginning-of-sequence token included.
        packed: fill rows with documents one behind the other, a separator between them; otherwise
            a row never spans two documents.
        special: what becomes of special tokens in the text: "mask" (the model reads them, their
            activations are left out), "drop" (taken out of the text), or "keep".
        skip_positions: places of a row whose activations are left out, such as the first tokens,
            which often have enormous norms, or the class token of a picture.
        tokens: rows of activations to harvest; all there are, where the data is shorter.
        batch: rows of tokens (or pictures) in a forward.
        dtype: of the stored activations, "float32" or "bfloat16".
        model_dtype: of the model's parameters, likewise.
        mesh: how this process' devices are used, e.g. "data=2,model=4"; empty for one device.
        seed: of the order of the documents.
    """

    store: str = "runs/activations"
    model: str = EMBEDDED
    sites: tuple[str, ...] = ("resid_post",)
    text: str = INSTALLED
    text_column: str = "text"
    split: str = "train"
    side: Literal["held_in", "held_out", "all"] = "held_in"
    streaming: bool = False
    images: str = ""
    image_column: str = "image"
    context: int = 256
    packed: bool = False
    special: Literal["mask", "drop", "keep"] = "mask"
    skip_positions: tuple[int, ...] = ()
    tokens: int = 300_000
    batch: int = 32
    dtype: Literal["float32", "bfloat16"] = "float32"
    model_dtype: Literal["float32", "bfloat16"] = "float32"
    mesh: str = ""
    seed: int = 0

    def check(self) -> None:
        """Refuses numbers that cannot be, before any work.

        Raises:
            ValueError: which setting, its value, and what it must be.
        """
        for field in ("context", "tokens", "batch"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}: it must be at least 1")
        if not self.sites:
            raise ValueError("sites is empty: name at least one, e.g. L2.resid_post")
        if self.streaming and self.images:
            raise ValueError("streaming is for text: leave it off for pictures")


@dataclass(frozen=True)
class FeedConfig:
    """Where a trainer's rows come from; the three ways give batches of the same form.

    Attributes:
        source: "live" (harvested while training), "store" (what `jaxinterp harvest` wrote) or
            "file" (.npy, .npz, .safetensors, .parquet).
        path: of the store or file.
        sites: what to read, as it is called there ("L2.resid_post"); one for batches that are
            arrays, several for batches that are dicts of arrays. Empty: the only one there is.
        harvest: model and data, for "live".
        pool: rows that are mixed with each other, for "live".
        batch: rows in a batch.
        seed: of the order.
    """

    source: Literal["live", "store", "file"] = "live"
    path: str = ""
    sites: tuple[str, ...] = ()
    harvest: HarvestConfig = HarvestConfig()
    pool: int = 200_000
    batch: int = 2048
    seed: int = 0


@dataclass(frozen=True)
class ReportConfig:
    """A finished run, and how much of it the page shows.

    Attributes:
        name: name of the run; its results lie in `out`/`name`.
        out: folder of all runs.
        features: features shown in the report; as many as the run has in its settings, if not
            given.
        contexts: contexts shown per feature; likewise.
    """

    name: str = "quickstart"
    out: str = "runs"
    features: int | None = None
    contexts: int | None = None


@dataclass(frozen=True)
class InspectConfig:
    """A dictionary to look at.

    Attributes:
        path: folder or file of any format that is known, or a name on the hub.
    """

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]


@dataclass(frozen=True)
class ConvertConfig:
    """A dictionary to write in another format.

    Attributes:
        source: folder or file of any format that is known, or a name on the hub.
        destination: folder to write; it must not be there yet.
        to: the format to write.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    destination: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DEST")]
    to: Literal["jaxinterp", "saelens", "dictionary_learning", "sparsify", "crosscoder_pt"]


@dataclass(frozen=True)
class PlanConfig:
    """A training step that is compiled but not run, on devices that need not be there.

    Attributes:
        variant: kind of dictionary: topk, batch_topk, jumprelu, relu, gated, ...
        options: further arguments of the variant, each as name=value: "aux_k=256".
        d: dimension of the activations.
        width: latents of the dictionary.
        k: latents kept per token, in the variants that keep a given number.
        batch: tokens in a step, over all devices.
        optimizer: as in training.
        precision: of the products, "float32" or "bfloat16".
        mesh: how the devices share the work, e.g. "data=-1,model=4".
        devices: how many; the step is compiled for as many virtual ones.
        topology: instead of virtual devices, a TPU slice by its name, e.g. "v5e:4x4", "v4:2x2x2" or
            "tpu7x:2x2x1": the TPU's own compiler, which needs libtpu but no TPU, says what it would
            run and whether it fits.
        chip: whose peak numbers the time is predicted from: v4, v5e, v5p, v6e, tpu7x, a100, h100,
            h200, b200; empty for the topology's, or v5e.
    """

    variant: str = "topk"
    options: tuple[str, ...] = ()
    d: int = 4096
    width: int = 65_536
    k: int = 32
    batch: int = 16_384
    optimizer: Literal["adam", "adam_b1_0", "muon", "schedule_free", "sign_momentum"] = "adam"
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    mesh: str = "data=-1"
    devices: int = 8
    topology: str = ""
    chip: str = ""

    def check(self) -> None:
        """Refuses sizes that cannot be.

        Raises:
            ValueError: which setting, its value, and what it must be.
        """
        for field in ("d", "width", "k", "batch", "devices"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}: it must be at least 1")
        if self.k > self.width:
            raise ValueError(f"k is {self.k} with a width of {self.width}: need k <= width")
