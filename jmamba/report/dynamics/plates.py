"""The pictures of the dynamics report: what each shows, in plain words."""

import numpy as np

from jmamba.report.dynamics import figures
from jmamba.report.dynamics.measure import DynamicsReport
from jmamba.report.plate import Plate
from jmamba.report.shared_figures import draw_token_norms
from jmamba.report.words import describe_layers, describe_norms


def _describe_growth(report: DynamicsReport) -> str:
    """Say where tokens grow least and most."""
    return describe_layers(report.growth)


def _describe_turning(report: DynamicsReport) -> str:
    """Say where tokens turn least and most."""
    angle = np.degrees(np.arccos(np.clip(report.cosine, -1, 1)))
    return describe_layers(angle, "°")


def _describe_regimes(report: DynamicsReport) -> str:
    """Say how many tokens are in the regimes."""
    return (
        f"{100 * report.expands.mean():.3g} % of tokens and layers move along; at most "
        f"{100 * report.fast.max():.3g} % of channels are fast"
    )


def _describe_contraction(report: DynamicsReport) -> str:
    """Say how many tokens are contracted, and where least and most."""
    share = 100 * (report.log_norms < 0).mean()
    return f"{share:.3g} % are below zero; {describe_layers(report.log_norms)}"


def _describe_exponents(report: DynamicsReport) -> str:
    """Name the exponents."""
    return "exponents " + ", ".join(f"{value:.3g}" for value in report.exponents)


DYNAMICS_PLATES = (
    Plate(
        "token_norms",
        "Tokens through depth",
        "How long each token's vector is after every layer.",
        "‖x after layer k, token i‖₂",
        ("residual_norms",),
        draw_token_norms,
        says=lambda report: describe_norms(report.norms),
    ),
    Plate(
        "growth",
        "What each layer does to a token's length",
        "Orange: the layer lengthens the token; purple: it shortens it.",
        "ln(‖h out‖ / ‖h in‖)",
        ("growth",),
        figures.growth,
        says=_describe_growth,
    ),
    Plate(
        "turning",
        "By how much each layer turns a token",
        "The angle between a token before and after the layer.",
        "arccos(⟨h in, h out⟩ / (‖h in‖ ‖h out‖))",
        ("cosine",),
        figures.turning,
        says=_describe_turning,
    ),
    Plate(
        "regimes",
        "The regime of every token",
        "The theory asks for two signs. The first says whether a layer moves a token "
        "along with the tokens it remembers or against them; the second whether its "
        "step sizes are in the fast branch of the softplus.",
        "mean of C[i]·B[j] over j ≤ i > 0;   δ > ln 2",
        ("expands", "fast"),
        figures.regimes,
        says=_describe_regimes,
    ),
    Plate(
        "contraction",
        "Which tokens a layer contracts",
        "Purple: whatever two values a token may have, the layer brings them closer. "
        "Orange: in some direction it takes them apart, by this much to first order. "
        "Only the token itself is varied; what the layer remembers is held still.",
        "largest eigenvalue of (J + Jᵀ)/2 − 1, J = ∂ h out[l] / ∂ h in[l]",
        ("log_norms",),
        figures.contraction,
        says=_describe_contraction,
    ),
    Plate(
        "exponents",
        "How fast small differences grow over depth",
        "Above zero a small difference between two runs grows from layer to layer, "
        "below it dies out; in as many directions as there are bars.",
        "mean over layers of ln R[i,i], V = J Q = Q' R",
        ("depth_exponents", "depth_exponents_per_layer"),
        figures.exponents,
        says=_describe_exponents,
    ),
)
