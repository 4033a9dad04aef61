"""Write the tables of docs/reference/detectors/index.md from the detectors' declarations.

make detectors-page
"""

from __future__ import annotations

from pathlib import Path

from oodbench.cli.content.detector_tables import markdown
from oodbench.cli.content.list_rows import detectors
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.content_folders import BUILT_IN

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "detectors" / "index.md"
BEGIN = "<!-- Made from the declarations by `make detectors-page`: do not edit. -->\n\n"
END = "\n<!-- End of what is made. -->"


def updated(text: str) -> str:
    """The page with new tables between its marks."""
    catalog = Catalog()
    rows = [row for row in detectors(catalog) if row["source"] == BUILT_IN]
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + markdown(catalog, rows) + END + after


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
