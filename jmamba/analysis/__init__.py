"""Analyses of many documents, streamed to disk."""

from jmamba.analysis.documents import Documents as Documents
from jmamba.analysis.documents import open_documents as open_documents
from jmamba.analysis.kinds import ANALYSES as ANALYSES
from jmamba.analysis.kinds import Analysis as Analysis
from jmamba.analysis.kinds import AnalysisOptions as AnalysisOptions
from jmamba.analysis.kinds import named_analyses as named_analyses
from jmamba.analysis.results import AnalysedDocuments as AnalysedDocuments
from jmamba.analysis.run import AnalysisReport as AnalysisReport
from jmamba.analysis.run import analyse as analyse
