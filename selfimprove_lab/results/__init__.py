"""Make tables and figures from the exported experiments in `book/results/`, and compute what single pages show."""
