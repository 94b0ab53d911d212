"The released dataset: its rows, numbers, cards and metadata, the way to the hub and back."
