"""Judging models: protocols, per-image scores, tables, statistics and figures."""
