"""What the pictures of the dynamics report show, in words and numbers."""

import numpy as np

from jmamba.report.dynamics.measure import DynamicsReport
from jmamba.report.words import describe_layers


def describe_growth(report: DynamicsReport) -> str:
    """Say where tokens grow least and most."""
    return describe_layers(report.growth)


def describe_turning(report: DynamicsReport) -> str:
    """Say where tokens turn least and most."""
    angle = np.degrees(np.arccos(np.clip(report.cosine, -1, 1)))
    return describe_layers(angle, "°")


def describe_regimes(report: DynamicsReport) -> str:
    """Say how many tokens are in the regimes."""
    return (
        f"{100 * report.expands.mean():.3g} % of tokens and layers move along; at most "
        f"{100 * report.fast.max():.3g} % of channels are fast"
    )


def describe_contraction(report: DynamicsReport) -> str:
    """Say how many tokens are contracted, and where least and most."""
    share = 100 * (report.log_norms < 0).mean()
    return f"{share:.3g} % are below zero; {describe_layers(report.log_norms)}"


def describe_exponents(report: DynamicsReport) -> str:
    """Name the exponents."""
    return "exponents " + ", ".join(f"{value:.3g}" for value in report.exponents)
