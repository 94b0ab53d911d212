"The released dataset: rows, statistics, cards, metadata, upload, and its way back in."
