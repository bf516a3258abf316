"""Figures and the page that explain what a model does with a text or an image."""

from jmamba.report.folder import write as write
from jmamba.report.image.explain import explain_image as explain_image
from jmamba.report.image.explanation import ImageExplanation as ImageExplanation
from jmamba.report.image.page import write_image as write_image
from jmamba.report.text.explain import explain_text as explain_text
from jmamba.report.text.explanation import Explanation as Explanation
from jmamba.report.text.explanation import Predictions as Predictions
