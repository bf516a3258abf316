"""The Hidden Attention of Mamba Models."""

from jmamba.attention.matrices.channels import channel_attention as channel_attention
from jmamba.attention.matrices.expressivity import counting_channel as counting_channel
from jmamba.attention.matrices.expressivity import linear_attention as linear_attention
from jmamba.attention.matrices.expressivity import run_lengths as run_lengths
from jmamba.attention.matrices.expressivity import softmax_head as softmax_head
from jmamba.attention.matrices.expressivity import (
    softmax_head_error as softmax_head_error,
)
from jmamba.attention.matrices.expressivity import without_decay as without_decay
from jmamba.attention.matrices.factorisation import bias_output as bias_output
from jmamba.attention.matrices.factorisation import factorise as factorise
from jmamba.attention.matrices.factors import FOLDS as FOLDS
from jmamba.attention.matrices.factors import (
    BidirectionalFactors as BidirectionalFactors,
)
from jmamba.attention.matrices.factors import Factors as Factors
from jmamba.attention.matrices.hidden_attention import (
    hidden_attention as hidden_attention,
)
from jmamba.attention.matrices.hidden_attention import (
    inner_attention as inner_attention,
)
from jmamba.attention.matrices.reduction import REDUCTIONS as REDUCTIONS
from jmamba.attention.matrices.reduction import reduced_attention as reduced_attention
from jmamba.attention.matrices.reduction import top_channels as top_channels
from jmamba.attention.matrices.statistics import LayerAverages as LayerAverages
from jmamba.attention.matrices.statistics import LayerMeasures as LayerMeasures
from jmamba.attention.matrices.statistics import average_layers as average_layers
from jmamba.attention.matrices.statistics import mean_cosine as mean_cosine
from jmamba.attention.matrices.statistics import mean_distance as mean_distance
from jmamba.attention.matrices.statistics import measure_layers as measure_layers
from jmamba.attention.question import Continuation as Continuation
from jmamba.attention.question import Contrast as Contrast
from jmamba.attention.question import MeanOf as MeanOf
from jmamba.attention.relevance.completeness import BASELINES as BASELINES
from jmamba.attention.relevance.completeness import completeness_gap as completeness_gap
from jmamba.attention.relevance.contributions import alti as alti
from jmamba.attention.relevance.contributions import alti_logit as alti_logit
from jmamba.attention.relevance.contributions import token_norms as token_norms
from jmamba.attention.relevance.gamma_rule import Gammas as Gammas
from jmamba.attention.relevance.gradients import Estimate as Estimate
from jmamba.attention.relevance.gradients import (
    estimate_smooth_grad as estimate_smooth_grad,
)
from jmamba.attention.relevance.gradients import gradient_x_input as gradient_x_input
from jmamba.attention.relevance.gradients import smooth_grad as smooth_grad
from jmamba.attention.relevance.heat_maps import heat_map as heat_map
from jmamba.attention.relevance.heat_maps import patch_grid as patch_grid
from jmamba.attention.relevance.integrated_gradients import (
    integrated_gradients as integrated_gradients,
)
from jmamba.attention.relevance.lrp import COMPOSITES as COMPOSITES
from jmamba.attention.relevance.lrp import mamba_lrp as mamba_lrp
from jmamba.attention.relevance.lrp import pixel_lrp as pixel_lrp
from jmamba.attention.relevance.methods import METHODS as METHODS
from jmamba.attention.relevance.methods import explain as explain
from jmamba.attention.relevance.rollout import attention_rollout as attention_rollout
from jmamba.attention.relevance.rollout import mamba_attribution as mamba_attribution
from jmamba.attention.relevance.rollout import raw_attention as raw_attention
from jmamba.attention.relevance.rollout import (
    unified_attribution as unified_attribution,
)
from jmamba.attention.relevance.scaling import discard_lowest as discard_lowest
from jmamba.attention.relevance.scaling import min_max as min_max
from jmamba.attention.relevance.scaling import roll_out as roll_out
from jmamba.attention.relevance.settings import PRESETS as PRESETS
from jmamba.attention.relevance.settings import AttentionSettings as AttentionSettings
from jmamba.attention.relevance.token_vectors import TokenVectors as TokenVectors
from jmamba.attention.relevance.token_vectors import (
    alti_contributions as alti_contributions,
)
from jmamba.attention.relevance.token_vectors import alti_matrix as alti_matrix
from jmamba.attention.relevance.token_vectors import (
    lp_contributions as lp_contributions,
)
from jmamba.attention.relevance.token_vectors import norm_matrix as norm_matrix
from jmamba.attention.relevance.token_vectors import token_vectors as token_vectors
