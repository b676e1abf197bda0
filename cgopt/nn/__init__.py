"""Networks over one flat parameter vector, with exact derivatives, and their losses."""

from .files import load, save
from .first_order import SGD, Adam, lbfgs, soft_update
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
from .mlp import MLP, MLPLinearization, Predictor
from .network import Network
from .recurrent import RNN, RNNLinearization

__all__ = [
    "MLP",
    "RNN",
    "SGD",
    "Adam",
    "DiagonalCurvature",
    "Huber",
    "LogisticCrossEntropy",
    "Loss",
    "MLPLinearization",
    "Network",
    "OuterCurvature",
    "OutputCurvature",
    "Predictor",
    "RNNLinearization",
    "SoftmaxCrossEntropy",
    "SoftmaxCurvature",
    "SquaredError",
    "lbfgs",
    "load",
    "save",
    "soft_update",
]
