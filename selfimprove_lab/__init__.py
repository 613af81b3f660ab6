"""What the pages of the book compute: theory, results, claims, errata and figures. It imports the package; the package never imports it."""
