"""Column likelihoods: one family a class, and the row that composes them."""
