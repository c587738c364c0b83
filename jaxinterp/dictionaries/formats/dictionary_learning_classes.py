"""dictionary_learning's classes: which of our variants each is, and how its tensors are kept."""

from typing import NamedTuple

from jaxinterp.dictionaries.formats.named import MATRIX, SWAPPED, Kept

_LINEAR = {
    "encoder": Kept("encoder.weight", MATRIX),
    "encoder_bias": Kept("encoder.bias"),
    "decoder": Kept("decoder.weight", SWAPPED),
}
_PLAIN = {
    "encoder": Kept("W_enc", SWAPPED),
    "encoder_bias": Kept("b_enc"),
    "decoder": Kept("W_dec", MATRIX),
    "decoder_bias": Kept("b_dec"),
    "threshold": Kept("threshold"),
}


class Class(NamedTuple):
    """One class of dictionary_learning.

    Attributes:
        variant: ours.
        layout: where our parameters are kept.
        others: tensors besides parameters.
        centred: whether the encoder takes the decoder's bias away from its input.
        trainer: the trainer class that makes it.
    """

    variant: str
    layout: dict[str, Kept]
    others: tuple[str, ...] = ()
    centred: bool = True
    trainer: str = ""


CLASSES = {
    "AutoEncoder": Class(
        "relu", _LINEAR | {"decoder_bias": Kept("bias")}, trainer="StandardTrainer"
    ),
    "AutoEncoderNew": Class(
        "relu",
        _LINEAR | {"decoder_bias": Kept("decoder.bias")},
        centred=False,
        trainer="StandardTrainerAprilUpdate",
    ),
    "GatedAutoEncoder": Class(
        "gated",
        _LINEAR
        | {
            "encoder_bias": Kept("gate_bias"),
            "magnitude_bias": Kept("mag_bias"),
            "log_magnitude": Kept("r_mag"),
            "decoder_bias": Kept("decoder_bias"),
        },
        trainer="GatedSAETrainer",
    ),
    "AutoEncoderTopK": Class(
        "topk",
        _LINEAR | {"decoder_bias": Kept("b_dec")},
        ("k", "threshold"),
        trainer="TopKTrainer",
    ),
    "BatchTopKSAE": Class(
        "batch_topk",
        _LINEAR | {"decoder_bias": Kept("b_dec"), "threshold": Kept("threshold")},
        ("k",),
        trainer="BatchTopKTrainer",
    ),
    "JumpReluAutoEncoder": Class("jumprelu", _PLAIN, centred=False, trainer="JumpReluTrainer"),
    "MatryoshkaBatchTopKSAE": Class(
        "matryoshka", _PLAIN, ("k", "group_sizes"), trainer="MatryoshkaBatchTopKTrainer"
    ),
}
# Tensors that only one class has, for files without a configuration.
SIGNS = {
    "group_sizes": "MatryoshkaBatchTopKSAE",
    "W_enc": "JumpReluAutoEncoder",
    "gate_bias": "GatedAutoEncoder",
    "decoder.bias": "AutoEncoderNew",
    "bias": "AutoEncoder",
}
