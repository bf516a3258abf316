"""The token dynamics of deep selective state space models."""

from jmamba.dynamics.theory.blow_ups import BlowUp as BlowUp
from jmamba.dynamics.theory.blow_ups import GrowthFlow as GrowthFlow
from jmamba.dynamics.theory.blow_ups import blow_up as blow_up
from jmamba.dynamics.theory.blow_ups import flow_by_growth as flow_by_growth
from jmamba.dynamics.theory.blow_ups import lifetimes as lifetimes
from jmamba.dynamics.theory.fates import Fates as Fates
from jmamba.dynamics.theory.fates import FateTable as FateTable
from jmamba.dynamics.theory.fates import draw_systems as draw_systems
from jmamba.dynamics.theory.fates import follow_fates as follow_fates
from jmamba.dynamics.theory.fates import tabulate_fates as tabulate_fates
from jmamba.dynamics.theory.integration import Flow as Flow
from jmamba.dynamics.theory.integration import integrate as integrate
from jmamba.dynamics.theory.integration import march as march
from jmamba.dynamics.theory.log_time import convergence_bound as convergence_bound
from jmamba.dynamics.theory.log_time import (
    convergence_constants as convergence_constants,
)
from jmamba.dynamics.theory.log_time import flow_in_log_time as flow_in_log_time
from jmamba.dynamics.theory.log_time import log_time_bound as log_time_bound
from jmamba.dynamics.theory.scalar_portraits import Convergence as Convergence
from jmamba.dynamics.theory.scalar_portraits import Explosion as Explosion
from jmamba.dynamics.theory.scalar_portraits import GrowthFactors as GrowthFactors
from jmamba.dynamics.theory.scalar_portraits import PhaseDiagram as PhaseDiagram
from jmamba.dynamics.theory.scalar_portraits import SlowDivergence as SlowDivergence
from jmamba.dynamics.theory.scalar_portraits import portray_blow_up as portray_blow_up
from jmamba.dynamics.theory.scalar_portraits import (
    portray_convergence as portray_convergence,
)
from jmamba.dynamics.theory.scalar_portraits import (
    portray_growth_factors as portray_growth_factors,
)
from jmamba.dynamics.theory.scalar_portraits import portray_phases as portray_phases
from jmamba.dynamics.theory.scalar_portraits import (
    portray_slow_divergence as portray_slow_divergence,
)
from jmamba.dynamics.theory.scalar_system import ScalarSystem as ScalarSystem
from jmamba.dynamics.theory.scalar_system import log_gains as log_gains
from jmamba.dynamics.theory.scalar_system import log_velocity as log_velocity
from jmamba.dynamics.theory.scalar_system import scalar_jacobian as scalar_jacobian
from jmamba.dynamics.theory.scenarios import Scenario as Scenario
from jmamba.dynamics.theory.scenarios import classify_scenario as classify_scenario
from jmamba.dynamics.theory.scenarios import time_alone as time_alone
from jmamba.dynamics.theory.sphere import attention_field as attention_field
from jmamba.dynamics.theory.sphere import flow_on_sphere as flow_on_sphere
from jmamba.dynamics.theory.sphere import interaction_energy as interaction_energy
from jmamba.dynamics.theory.sphere import project_to_sphere as project_to_sphere
from jmamba.dynamics.theory.system import TokenSystem as TokenSystem
from jmamba.dynamics.theory.system import system_attention as system_attention
from jmamba.dynamics.theory.system import vector_field as vector_field
from jmamba.dynamics.theory.system import with_scalar_rates as with_scalar_rates
from jmamba.dynamics.theory.token_portraits import (
    AttentionOverTime as AttentionOverTime,
)
from jmamba.dynamics.theory.token_portraits import PlanePaths as PlanePaths
from jmamba.dynamics.theory.token_portraits import (
    portray_attention as portray_attention,
)
from jmamba.dynamics.theory.token_portraits import portray_plane as portray_plane
from jmamba.dynamics.trained.collapse import Collapse as Collapse
from jmamba.dynamics.trained.collapse import alignment_matrix as alignment_matrix
from jmamba.dynamics.trained.collapse import centred_alignment as centred_alignment
from jmamba.dynamics.trained.collapse import measure_collapse as measure_collapse
from jmamba.dynamics.trained.contraction import ContractionMap as ContractionMap
from jmamba.dynamics.trained.contraction import contraction_map as contraction_map
from jmamba.dynamics.trained.exponents import DepthExponents as DepthExponents
from jmamba.dynamics.trained.exponents import LayerStack as LayerStack
from jmamba.dynamics.trained.exponents import depth_exponents as depth_exponents
from jmamba.dynamics.trained.exponents import layer_stack as layer_stack
from jmamba.dynamics.trained.exponents import memory_horizons as memory_horizons
from jmamba.dynamics.trained.exponents import run_stack as run_stack
from jmamba.dynamics.trained.exponents import sequence_exponents as sequence_exponents
from jmamba.dynamics.trained.importance import importance_scores as importance_scores
from jmamba.dynamics.trained.importance import reordered_scan as reordered_scan
from jmamba.dynamics.trained.importance import sorting_variances as sorting_variances
from jmamba.dynamics.trained.jacobian import jacobian_norms as jacobian_norms
from jmamba.dynamics.trained.jacobian import layer_span as layer_span
from jmamba.dynamics.trained.jacobian import token_jacobian as token_jacobian
from jmamba.dynamics.trained.ladder import OMITTED as OMITTED
from jmamba.dynamics.trained.ladder import partial_block as partial_block
from jmamba.dynamics.trained.operators import block_eigenvalues as block_eigenvalues
from jmamba.dynamics.trained.operators import diagonal_blocks as diagonal_blocks
from jmamba.dynamics.trained.operators import log_norms as log_norms
from jmamba.dynamics.trained.operators import singular_values as singular_values
from jmamba.dynamics.trained.paths import PATHS as PATHS
from jmamba.dynamics.trained.paths import path_map as path_map
from jmamba.dynamics.trained.paths import run_paths as run_paths
from jmamba.dynamics.trained.perturbation import Ladder as Ladder
from jmamba.dynamics.trained.perturbation import compare_traces as compare_traces
from jmamba.dynamics.trained.perturbation import perturb as perturb
from jmamba.dynamics.trained.recency import Decay as Decay
from jmamba.dynamics.trained.recency import fit_decay as fit_decay
from jmamba.dynamics.trained.recency import leaky_average as leaky_average
from jmamba.dynamics.trained.recency import measure_spread as measure_spread
from jmamba.dynamics.trained.recency import smoothing_bound as smoothing_bound
from jmamba.dynamics.trained.regimes import RegimeReport as RegimeReport
from jmamba.dynamics.trained.regimes import report_regimes as report_regimes
from jmamba.dynamics.trained.signs import RegimeMap as RegimeMap
from jmamba.dynamics.trained.signs import SignStatistics as SignStatistics
from jmamba.dynamics.trained.signs import map_regimes as map_regimes
from jmamba.dynamics.trained.signs import measure_signs as measure_signs
from jmamba.dynamics.trained.spectra import GateSpectrum as GateSpectrum
from jmamba.dynamics.trained.spectra import Inertia as Inertia
from jmamba.dynamics.trained.spectra import count_inertia as count_inertia
from jmamba.dynamics.trained.spectra import gate_spectrum as gate_spectrum
from jmamba.dynamics.trained.spectra import layer_system as layer_system
from jmamba.dynamics.trained.spectra import residual_matrix as residual_matrix
from jmamba.dynamics.trained.state import flatten_state as flatten_state
from jmamba.dynamics.trained.state import state_map as state_map
from jmamba.dynamics.trained.trajectories import GrowthLaw as GrowthLaw
from jmamba.dynamics.trained.trajectories import Trajectories as Trajectories
from jmamba.dynamics.trained.trajectories import fit_growth as fit_growth
from jmamba.dynamics.trained.trajectories import (
    measure_trajectories as measure_trajectories,
)
from jmamba.refinements.definite import DefiniteGates as DefiniteGates
from jmamba.refinements.definite import definite_gates as definite_gates
from jmamba.refinements.definite import draw_gates as draw_gates
from jmamba.refinements.definite import gate_decay_mask as gate_decay_mask
from jmamba.refinements.definite import live_entries as live_entries
from jmamba.refinements.definite import semidefinite_gate as semidefinite_gate
from jmamba.refinements.definite import signed_scales as signed_scales
from jmamba.refinements.permutations import anneal_tau as anneal_tau
from jmamba.refinements.permutations import normalise_scores as normalise_scores
from jmamba.refinements.permutations import remaining_variance as remaining_variance
from jmamba.refinements.permutations import soft_sort as soft_sort
from jmamba.refinements.signs import MODES as MODES
from jmamba_kernels.versions import enable_x64 as enable_x64
