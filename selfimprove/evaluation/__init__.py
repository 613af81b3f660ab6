"""Evaluation of models: protocols, per-image scores, tables, statistics and figures."""
