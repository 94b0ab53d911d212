"From files to documents, chunks and tagged sentences."
