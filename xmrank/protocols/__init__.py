"""The lists and galleries on which every method is measured, and the tables of the results."""
