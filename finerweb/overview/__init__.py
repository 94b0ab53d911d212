"The page that a person reviews a dataset with: its rows, their order, the page, the answers."
