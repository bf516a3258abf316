"""How good explanations are: faithfulness, perturbation, segmentation, alignment."""

from jmamba.evaluation.alignment import AlignmentCounts as AlignmentCounts
from jmamba.evaluation.alignment import align_words as align_words
from jmamba.evaluation.alignment import alignment_error_rate as alignment_error_rate
from jmamba.evaluation.alignment import count_alignment as count_alignment
from jmamba.evaluation.alignment import merge_words as merge_words
from jmamba.evaluation.comparisons import Comparison as Comparison
from jmamba.evaluation.comparisons import compare_over_seeds as compare_over_seeds
from jmamba.evaluation.comparisons import correct_for_many as correct_for_many
from jmamba.evaluation.faithfulness import FaithfulnessScores as FaithfulnessScores
from jmamba.evaluation.faithfulness import flipping_scores as flipping_scores
from jmamba.evaluation.faithfulness import insertion_scores as insertion_scores
from jmamba.evaluation.intervals import Interval as Interval
from jmamba.evaluation.intervals import bootstrap_interval as bootstrap_interval
from jmamba.evaluation.masked_images import MaskedImage as MaskedImage
from jmamba.evaluation.masked_images import MaskedImages as MaskedImages
from jmamba.evaluation.masked_images import (
    open_imagenet_segmentation as open_imagenet_segmentation,
)
from jmamba.evaluation.masked_images import open_mask_folder as open_mask_folder
from jmamba.evaluation.masked_images import resize_masked_image as resize_masked_image
from jmamba.evaluation.perturbation import FRACTIONS as FRACTIONS
from jmamba.evaluation.perturbation import PerturbationScores as PerturbationScores
from jmamba.evaluation.perturbation import area_under_curve as area_under_curve
from jmamba.evaluation.perturbation import black_out as black_out
from jmamba.evaluation.perturbation import perturbation_scores as perturbation_scores
from jmamba.evaluation.rank_correlation import rank_correlation as rank_correlation
from jmamba.evaluation.records import Measurements as Measurements
from jmamba.evaluation.records import read_records as read_records
from jmamba.evaluation.removal import STEPS as STEPS
from jmamba.evaluation.removal import RemovalCurve as RemovalCurve
from jmamba.evaluation.removal import removal_curve as removal_curve
from jmamba.evaluation.removal import removal_masks as removal_masks
from jmamba.evaluation.replacement import FILLINGS as FILLINGS
from jmamba.evaluation.replacement import WordRelevance as WordRelevance
from jmamba.evaluation.replacement import replace_patches as replace_patches
from jmamba.evaluation.replacement import replace_tokens as replace_tokens
from jmamba.evaluation.replacement import sum_over_words as sum_over_words
from jmamba.evaluation.restoring import activation_scores as activation_scores
from jmamba.evaluation.restoring import pruning_scores as pruning_scores
from jmamba.evaluation.retrieval import RetrievalScores as RetrievalScores
from jmamba.evaluation.retrieval import ranking_auc as ranking_auc
from jmamba.evaluation.retrieval import recall_at as recall_at
from jmamba.evaluation.retrieval import retrieval_scores as retrieval_scores
from jmamba.evaluation.runs import EvaluationReport as EvaluationReport
from jmamba.evaluation.runs import evaluate as evaluate
from jmamba.evaluation.segmentation import SegmentationCounts as SegmentationCounts
from jmamba.evaluation.segmentation import SegmentationScores as SegmentationScores
from jmamba.evaluation.segmentation import average_precision as average_precision
from jmamba.evaluation.segmentation import count_segmentation as count_segmentation
from jmamba.evaluation.segmentation import segmentation_scores as segmentation_scores
