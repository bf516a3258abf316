"""Figures and the page that explain what a model does with a text."""

from jmamba.report.explain import explain as explain
from jmamba.report.explanation import Explanation as Explanation
from jmamba.report.explanation import Predictions as Predictions
from jmamba.report.folder import write as write
