"""Figures and pages that show what a model does with a text or an image."""

from jmamba.report.compare.measure import TextComparison as TextComparison
from jmamba.report.compare.measure import compare_texts as compare_texts
from jmamba.report.compare.page import write_comparison as write_comparison
from jmamba.report.dynamics.measure import DynamicsReport as DynamicsReport
from jmamba.report.dynamics.page import write_dynamics as write_dynamics
from jmamba.report.image.explanation import ImageExplanation as ImageExplanation
from jmamba.report.image.measure import explain_image as explain_image
from jmamba.report.image.page import write_image as write_image
from jmamba.report.lens.measure import LensReport as LensReport
from jmamba.report.lens.measure import measure_lens as measure_lens
from jmamba.report.lens.page import write_lens as write_lens
from jmamba.report.patch.measure import measure_patches as measure_patches
from jmamba.report.patch.page import write_patches as write_patches
from jmamba.report.patch.report import PatchReport as PatchReport
from jmamba.report.patterns import HeadPatterns as HeadPatterns
from jmamba.report.patterns import explained_patterns as explained_patterns
from jmamba.report.patterns import head_patterns as head_patterns
from jmamba.report.predictions import Predictions as Predictions
from jmamba.report.text.explanation import Explanation as Explanation
from jmamba.report.text.measure import explain_text as explain_text
from jmamba.report.text.page import write_text as write_text
