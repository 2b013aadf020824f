"""What became of the mutants, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from mutation.mutants import Mutant
from mutation.plan import equivalent

KILLED, EQUIVALENT, SURVIVED = "killed", "equivalent", "survived"


def is_equivalent(mutant: Mutant) -> bool:
    """Returns whether the plan says why nothing can see this mutant."""
    return (mutant.file, mutant.before, mutant.after) in equivalent()


def difference(mutant: Mutant) -> str:
    """Returns the changed lines, with the mutant's name."""
    lines = [f"{mutant.name}"]
    lines += [f"  - {line}" for line in mutant.before.splitlines()]
    lines += [f"  + {line}" for line in mutant.after.splitlines()]
    return "\n".join(lines)


def table(verdicts: Mapping[Mutant, str], files: Sequence[str]) -> str:
    """Returns the counts by file, as a Markdown table."""
    rows = ["| module | mutants | killed | equivalent | survived | killed, % |"]
    rows.append("| :-- | --: | --: | --: | --: | --: |")
    for file in [*files, "all"]:
        found = Counter(v for m, v in verdicts.items() if file in (m.file, "all"))
        mutants = sum(found.values())
        counts = [found[v] for v in (KILLED, EQUIVALENT, SURVIVED)]
        share = f"{100 * found[KILLED] / mutants:.1f}" if mutants else "-"
        rows.append("| " + " | ".join(map(str, [file, mutants, *counts, share])) + " |")
    return "\n".join(rows)
