"""Leave out autodoc's line for each field of a named tuple, "Alias for field number 3"; the signature shows the fields."""

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-skip-member", without_words)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def without_words(app: Sphinx, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """Skip a member whose only description is the one that Python generates."""
    return True if (member.__doc__ or "").startswith("Alias for field number") else None
