"""Read Markdown tables."""


def rows_of(text):
    """Return the cells of each row of a text's tables, with the heads and without the rules."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line] for line in lines]
    return [row for row in rows if not set(row[0]) <= set(":-")]
