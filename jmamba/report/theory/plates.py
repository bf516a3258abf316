"""The pictures of the theory: what each shows, and whether the paper is right."""

from jmamba.report.plate import Plate
from jmamba.report.theory import figures

PORTRAIT_PLATES = (
    Plate(
        "convergence",
        "F1. Convergence",
        "μ = −0.8, s = 1.5. Confirms the paper's rate O(1/√t), and sharpens it: √t "
        "|x| tends to a constant (dashed), one for the first token and one for all "
        "later ones, which depends neither on the place nor on where a token started."
        " The constants hold ln 2, the step size at zero; a bias b makes it "
        "softplus(b), in trained models 7 to 700 times less, and the convergence as "
        "much slower.",
        "√t |x₁| → (2|μ| δ₀)^(−1/2), √t |x_l| → ((1 − e^(−a δ₀)) / (2|μ| δ₀))^(1/2), "
        "δ₀ = ln 2",
        ("convergence_sizes", "convergence_bounds", "convergence_limits"),
        figures.convergence,
    ),
    Plate(
        "slow_divergence",
        "F2. Slow divergence",
        "μ = 1, s = −1, a = 1, four tokens at 0.5. The paper's O((ln t)^l) is true as"
        " a bound and is not the growth: every token grows like ln t itself (left), "
        "and falls ever further behind (ln t)^l for l > 1 (right). Tokens differ in "
        "the factor, not in the power; once a token is large its step size is so "
        "small that the ratio to its predecessor freezes.",
        "|s| |x_l| ~ C_l ln t, C₁ = 1",
        ("slow_log_times", "slow_x", "slow_bound"),
        figures.slow_divergence,
    ),
    Plate(
        "blow_ups",
        "F3. Fast divergence",
        "μ = 1, a = 1. Confirms the blow-up in finite time T, with the power −1/3 of "
        "the time left, and −1/2 where s = 0 (dashed: theory, constants included). "
        "Contradicts that all tokens diverge then: those before the first to go are "
        "finite at T, since nothing later reaches them; those after it go with it.",
        "|x| (3 μ |s| (T − t))^(1/3) → 1;   s = 0: |x| (2 μ δ₀ (T − t))^(1/2) → 1",
        ("blow_up_0_left", "blow_up_0_sizes", "blow_up_0_law"),
        figures.blow_ups,
    ),
    Plate(
        "phases",
        "F4. Which regime, for one token",
        "Colours are what the simulation did up to t = e^40, dashed lines are where "
        "the theory puts the borders, contours the time of the blow-up by quadrature."
        " Confirms the paper's dichotomy and its two kinds of divergence.",
        "T = ∫ du / (μ u³ softplus(s sgn(x) u)), from |x| to infinity",
        ("phases_mu", "phases_sx", "phases_regimes", "phases_fine_sx",
         "phases_time_alone"),
        figures.phases,
    ),
    Plate(
        "plane",
        "F5. Two channels",
        "The plane is drawn as a disc: the rim is infinity, open dots are starts, "
        "full dots ends, dashed lines the null cone xᵀMx = 0; each token in the run "
        "that ends with it. Confirms the paper's figure 6 where M is definite: A "
        "diverges, C converges. Where M has one positive eigenvalue the paper's "
        "reading (all tokens diverge) does not hold: a first token with xᵀMx < 0 "
        "shrinks, and may come to rest on the null cone away from the origin (right).",
        "d|x₁|²/dt = 2 (x₁ᵀ M x₁) (x₁ᵀ diag(δ) x₁)",
        ("plane_0_paths", "plane_1_paths", "plane_2_paths", "plane_3_paths"),
        figures.plane,
    ),
    Plate(
        "attention",
        "F6. Hidden attention over time",
        "Ten equal tokens, |μ| = |s| = a = 1. Converging tokens end with attention "
        "that decays by e^(−a ln 2) = 1/2 per step and vanishes with x². In slow "
        "divergence step sizes vanish: nothing is forgotten, each row looks at the "
        "earliest, smallest tokens, whose step sizes are largest. Before a blow-up "
        "step sizes grow without bound: the past is forgotten and a token reads only "
        "itself. The paper speaks of P only through its consequences.",
        "P[i,j] = μ x[i] x[j] δ[j] exp(−a Σ δ[k], j<k≤i), as shares of |P| by row",
        ("attention_convergence_P", "attention_slow_divergence_P",
         "attention_fast_divergence_P"),
        figures.attention,
    ),
    Plate(
        "growth_factors",
        "F7. How far later tokens lead",
        "The factor C_l of slow divergence for equal tokens, read at ln t = 640; the "
        "band reaches to its value at ln t = 320 and shows what is still missing. "
        "Confirms that later tokens diverge faster here, by a factor and not by a "
        "power, and that forgetting (large a) takes the differences away. With "
        "unequal tokens the order may be another.",
        "C_l = lim |x_l| / |x₁|",
        ("factors_rates", "factors_factors", "factors_earlier"),
        figures.growth_factors,
    ),
)  # fmt: skip
