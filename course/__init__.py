"""Teach with the book: nine sessions, their release to students, grading, slides, and bundles of finished runs."""
