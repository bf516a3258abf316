"""The token dynamics of deep selective state space models."""

from jmamba.dynamics.jacobian import jacobian_norms as jacobian_norms
from jmamba.dynamics.jacobian import layer_span as layer_span
from jmamba.dynamics.jacobian import token_jacobian as token_jacobian
