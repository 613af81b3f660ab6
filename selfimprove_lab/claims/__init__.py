"""List the papers' claims, each with what was seen here, an interval and a verdict."""
