"""Readers of raw corpora, one per source, which yield English examples."""

from mblip.corpora.reading import READERS, Counted, count_examples, read_source
from mblip.corpora.sampling import EnglishStage, check_names, sample_source, sample_sources

__all__ = [
    "READERS",
    "Counted",
    "EnglishStage",
    "check_names",
    "count_examples",
    "read_source",
    "sample_source",
    "sample_sources",
]
