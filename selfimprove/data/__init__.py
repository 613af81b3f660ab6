"""Data for training and evaluation: captioned images, labelled pairs, prompt sets, and latents cached on disk."""
