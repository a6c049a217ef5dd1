"""The table of docs/compatibility.md: a column for each kernel, a row for each check."""

import re

BEGIN, END = "<!-- kernels: begin -->\n", "<!-- kernels: end -->\n"
# Rows above those of the checks.
RELEASE, DATE = "release", "tried on"
NOT_TRIED = "–"


class Table:
    """Cells by column and row."""

    def __init__(self, path, rows):
        self.path = path
        self.rows = [RELEASE, DATE, *rows]
        _, old, _ = self.parts()
        lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in old.splitlines() if "|" in line]
        names = lines[0][1:] if lines else []
        self.columns = {name: {} for name in names}
        for line in lines[2:]:
            for name, cell in zip(names, line[1:]):
                self.columns[name][line[0]] = cell

    def parts(self):
        """What is before the table, the table, and what is behind it."""
        before, rest = self.path.read_text().split(BEGIN)
        return before, *rest.split(END)

    def was_ok(self, column, row):
        """Whether the table as it is says that a check was passed."""
        return self.columns.get(column, {}).get(row) == "ok"

    def is_of(self, column, release, date):
        """Whether a column says what became of this kernel on this day, or nothing yet."""
        cells = self.columns.get(column)
        return not cells or (cells.get(RELEASE), cells.get(DATE)) == (release, date)

    def put(self, column, release, date, cells):
        """Takes over what a run found; what it did not try stays."""
        self.columns.setdefault(column, {}).update({RELEASE: release, DATE: date, **cells})

    def text(self):
        """The table as Markdown, the oldest kernel first."""
        names = sorted(self.columns, key=numbers)
        lines = [["", *names], ["---"] * (len(names) + 1)]
        lines += [[row, *(self.columns[name].get(row, NOT_TRIED) for name in names)] for row in self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def write(self):
        """Puts the table into the document as it is now: a run takes long, and somebody may have changed the rest."""
        before, _, after = self.parts()
        self.path.write_text(before + BEGIN + self.text() + END + after)


def numbers(name):
    return [int(part) for part in re.findall(r"\d+", name)], name
