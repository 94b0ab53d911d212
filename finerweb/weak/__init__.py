"The offline teachers."
