"""What is trained and judged on: captioned images, labelled pairs, prompt sets, and their latents on disk."""
