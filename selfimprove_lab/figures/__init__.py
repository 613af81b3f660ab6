"""Draw the figures and films of the pages."""
