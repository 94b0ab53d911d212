"Where runs and their outputs lie."
