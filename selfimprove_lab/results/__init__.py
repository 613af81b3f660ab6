"""Tables and figures from the exported experiments in `book/results/`, and what single pages compute."""
