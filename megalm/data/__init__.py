"""Text in, samples out: preparing corpora, the indexed format on disk, and the order in which a run reads them."""
