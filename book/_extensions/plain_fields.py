"""A named tuple's fields stand in its signature; autodoc's own line for each, "Alias for field number 3", is left out."""

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-skip-member", without_words)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def without_words(app: Sphinx, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """Skip a member whose only description is Python's."""
    return True if (member.__doc__ or "").startswith("Alias for field number") else None
