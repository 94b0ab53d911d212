"Encoders, embeddings and the filter model."
