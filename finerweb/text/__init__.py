"Words, sentences, languages and likeness of texts."
