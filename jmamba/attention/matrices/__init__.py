"""Hidden attention: matrices, rows, reductions and measures of them."""
