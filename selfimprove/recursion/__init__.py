"""What RSIDiff adds to a round: prompts and their judges, selection, weights, and signs of collapse."""
