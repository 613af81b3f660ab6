"""Self-play (SPIN-Diffusion) and recursive self-improvement for diffusion models."""

__version__ = "0.1.0"
