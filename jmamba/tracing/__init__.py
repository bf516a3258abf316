"""What happened inside of a model."""

from jmamba.tracing.trace import Trace as Trace
from jmamba.tracing.trace import trace as trace
