"""The figures of a run: one row each, a value per round, and where there is one the peer's."""
import json
import statistics


class Row:
    def __init__(self, phase, figure, unit, peer_name):
        self.phase, self.figure, self.unit, self.peer_name = phase, figure, unit, peer_name
        self.granary, self.peer = [], []

    @property
    def ratios(self):
        return [ours / theirs for ours, theirs in zip(self.granary, self.peer) if theirs]


class Report:
    def __init__(self):
        self.rows = {}

    def add(self, phase, figure, unit, granary, peer=None, peer_name=None):
        row = self.rows.setdefault((phase, figure, unit), Row(phase, figure, unit, peer_name))
        row.granary.append(granary)
        if peer is not None:
            row.peer.append(peer)

    def show(self):
        """An aligned table of medians; a ratio is the median of the rounds' own ratios."""
        table = [("phase", "figure", "granary", "peer", "ratio", "(least-most)", "unit", "peer is")]
        for row in self.rows.values():
            ratio = spread = peer = "-"
            if row.ratios:
                peer = number(statistics.median(row.peer))
                ratio = f"{statistics.median(row.ratios):.2f}"
                if len(row.ratios) > 1:
                    spread = f"({min(row.ratios):.2f}-{max(row.ratios):.2f})"
            elif len(row.granary) > 1:
                spread = f"({number(min(row.granary))}-{number(max(row.granary))})"
            table.append((row.phase, row.figure, number(statistics.median(row.granary)), peer, ratio,
                          spread, row.unit, row.peer_name or "-"))
        widths = [max(map(len, column)) for column in zip(*table)]
        numeric = (2, 3, 4)
        for line in table:
            cells = (cell.rjust(width) if i in numeric else cell.ljust(width)
                     for i, (cell, width) in enumerate(zip(line, widths)))
            print("  ".join(cells).rstrip())

    def write(self, path):
        rows = [{
            "phase": row.phase, "figure": row.figure, "unit": row.unit,
            "granary": row.granary, "granary_median": statistics.median(row.granary),
            "peer_name": row.peer_name, "peer": row.peer or None,
            "peer_median": statistics.median(row.peer) if row.peer else None,
            "ratio": row.ratios or None,
            "ratio_median": statistics.median(row.ratios) if row.ratios else None,
        } for row in self.rows.values()]
        with open(path, "w") as f:
            json.dump(rows, f, indent=1)
            f.write("\n")


def number(value):
    """Three digits that matter."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
