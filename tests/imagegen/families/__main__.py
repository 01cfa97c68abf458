"""Write docs/tested-models.md: python -m tests.imagegen.families."""

from tests.imagegen.families.page import PAGE, page

PAGE.write_text(page(), "utf-8")
