"What is measured by hand."
