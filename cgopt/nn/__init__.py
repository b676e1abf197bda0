"""Networks over one flat parameter vector, with exact derivatives, and their losses."""

from .losses import (
    DiagonalCurvature,
    Huber,
    LogisticCrossEntropy,
    Loss,
    OuterCurvature,
    OutputCurvature,
    SoftmaxCrossEntropy,
    SoftmaxCurvature,
    SquaredError,
)
from .network import MLP, MLPLinearization, Network

__all__ = [
    "MLP",
    "DiagonalCurvature",
    "Huber",
    "LogisticCrossEntropy",
    "Loss",
    "MLPLinearization",
    "Network",
    "OuterCurvature",
    "OutputCurvature",
    "SoftmaxCrossEntropy",
    "SoftmaxCurvature",
    "SquaredError",
]
