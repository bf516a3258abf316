"""How good explanations are: perturbation and segmentation."""

from jmamba.evaluation.perturbation import FRACTIONS as FRACTIONS
from jmamba.evaluation.perturbation import PerturbationScores as PerturbationScores
from jmamba.evaluation.perturbation import area_under_curve as area_under_curve
from jmamba.evaluation.perturbation import black_out as black_out
from jmamba.evaluation.perturbation import perturbation_scores as perturbation_scores
from jmamba.evaluation.segmentation import SegmentationCounts as SegmentationCounts
from jmamba.evaluation.segmentation import SegmentationScores as SegmentationScores
from jmamba.evaluation.segmentation import average_precision as average_precision
from jmamba.evaluation.segmentation import count_segmentation as count_segmentation
from jmamba.evaluation.segmentation import segmentation_scores as segmentation_scores
