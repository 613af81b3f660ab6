"""List what does not hold as printed in the two papers, with the evidence."""
