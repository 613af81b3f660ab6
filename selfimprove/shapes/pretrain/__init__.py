"""Rebuilds every shipped weight of the shapes world from nothing: `python -m selfimprove.shapes.pretrain`."""
