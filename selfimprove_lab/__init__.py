"""Compute what the pages of the book show: theory, results, claims, errata and figures. `selfimprove` never imports this package."""
