"""Model families: loading a pipeline folder, its adapters, and writing a player that plain diffusers loads."""
