"What the figures and tables of the paper have in common, and those that a study fills."
