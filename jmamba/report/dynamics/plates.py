"""The pictures of the dynamics report: what each shows, in plain words."""

from jmamba.report.dynamics import figures, words
from jmamba.report.figures.shared import draw_token_norms
from jmamba.report.plate import Plate
from jmamba.report.words import describe_norms

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
        says=words.describe_growth,
    ),
    Plate(
        "turning",
        "By how much each layer turns a token",
        "The angle between a token before and after the layer.",
        "arccos(⟨h in, h out⟩ / (‖h in‖ ‖h out‖))",
        ("cosine",),
        figures.turning,
        says=words.describe_turning,
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
        says=words.describe_regimes,
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
        says=words.describe_contraction,
    ),
    Plate(
        "exponents",
        "How fast small differences grow over depth",
        "Above zero a small difference between two runs grows from layer to layer, "
        "below it dies out; in as many directions as there are bars.",
        "mean over layers of ln R[i,i], V = J Q = Q' R",
        ("depth_exponents", "depth_exponents_per_layer"),
        figures.exponents,
        says=words.describe_exponents,
    ),
)
