"""From text to the samples of a step: cleaning, tokenizing, indexed files, mixtures, sample order."""
