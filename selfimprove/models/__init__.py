"""Load the pipeline folder of a model family, add adapters, and write a player that plain diffusers can load."""
