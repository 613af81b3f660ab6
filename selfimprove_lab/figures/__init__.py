"""Figures, films and number formats of the pages."""
