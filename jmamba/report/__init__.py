"""Figures and the page that explain what a model does with a text or an image."""

from jmamba.report.explain import explain as explain
from jmamba.report.explain_image import explain_image as explain_image
from jmamba.report.explanation import Explanation as Explanation
from jmamba.report.explanation import Predictions as Predictions
from jmamba.report.folder import write as write
from jmamba.report.image_explanation import ImageExplanation as ImageExplanation
from jmamba.report.image_page import write_image as write_image
