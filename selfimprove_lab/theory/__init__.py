"""Execute the derivations: each module computes what one numbered notebook claims, and returns the claims to be checked."""
