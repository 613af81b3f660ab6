"""Rebuild every shipped weight of the shapes world from scratch: `python -m selfimprove_lab.pretrain`."""
