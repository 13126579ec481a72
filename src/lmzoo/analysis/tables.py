"""What stands in a report: results as headings, paragraphs and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lmzoo.analysis.document import Block, Bullets, Document, Figure, Heading, Table, Text
from lmzoo.analysis.matching import QUANTITIES, to_one
from lmzoo.analysis.wording import SIGNS, interval, many, number, probability, settle
from lmzoo.summary import ABSENT, count, duration

SECTIONS = {"yardstick": "Yardsticks", "task": "Tasks", "loss": "Losses"}
_MOST_IN_TITLE = 6
_MOST_PAIRS_ACROSS = 6

Results = Mapping[str, Any]


def document(results: Results, figures: Sequence[Figure]) -> Document:
    """The report of some results, with those figures that were drawn of them."""
    drawn = {figure.name: figure for figure in figures}

    def pictures(*names: str) -> list[Block]:
        return [drawn[name] for name in names if name in drawn]

    arms = list(results["arms"])
    several = ", ".join(arms) if len(arms) <= _MOST_IN_TITLE else f"{len(arms)} arms"
    blocks = [*_beginning(results), *_short(results), *_differs(results), *_costs(results), *_rates(results)]
    blocks += _section(
        results, "yardstick", pictures("yardsticks", "yardsticks_along", "lengths", "phenomena")
    )
    blocks += _section(results, "task", pictures("layers"))
    blocks += _section(results, "loss", pictures("losses"))
    if there := pictures("cost"):
        blocks += [Heading("Score against cost"), *there]
    blocks += _made(results)
    return Document(f"Comparison: {several}", blocks)


# ---------------------------------------------------------------------------------- the parts of the page


def _beginning(results: Results) -> list[Block]:
    runs, arms = results["runs"], results["arms"]
    lines = [f"{many(len(runs), 'run')} of {many(len(arms), 'arm')}, in {results['folder']}."]
    for pattern, n in results["passed_over"].items():
        lines.append(f"Passed over, of what {pattern} names: {many(n, 'folder')} without a run.")
    blocks: list[Block] = [Text(" ".join(lines))]
    waiting = [run["name"] for run in runs if not run["finished"]]
    if waiting:
        blocks.append(Text(f"NOT FINISHED, and taken as they are: {', '.join(waiting)}.", strong=True))
    matching = results["matching"]
    return [*blocks, Text(matching["head"], strong=len(arms) > 1 and not matching["matched"])]


def _short(results: Results) -> list[Block]:
    """The verdicts, one line a yardstick."""
    cells = [cell for cell in results["cells"] if cell["comparisons"] and cell["merit"]]
    if not cells:
        return []
    pairs = list(
        dict.fromkeys((each["arm"], each["against"]) for cell in cells for each in cell["comparisons"])
    )
    note = (
        "▲ better, ▼ worse, ○ inconclusive, with the difference; Holm-corrected within each line, p < 0.05."
    )
    if any(each["about"] != "the arms" for cell in cells for each in cell["comparisons"]):
        note += " A star: one seed on a side, so it is said of these runs alone and not of the arms."
    if any(not cell["matching"]["matched"] for cell in cells):
        note += " † These arms are not matched; the line's own table says by what ratio."
    blocks: list[Block] = [Heading("In short")]
    if len(pairs) <= _MOST_PAIRS_ACROSS:
        rows = []
        for cell in cells:
            by_pair = {(each["arm"], each["against"]): each for each in cell["comparisons"]}
            rows.append([_name(cell), *(_verdict(by_pair.get(pair), cell["unit"]) for pair in pairs)])
        columns = ["", *(f"{arm} against {against}" for arm, against in pairs)]
        return [*blocks, Table(columns, rows, left=columns, head=note)]
    rows = [
        [_name(cell), each["arm"], each["against"], _verdict(each, cell["unit"])]
        for cell in cells
        for each in cell["comparisons"]
        if each["verdict"] != "inconclusive"
    ]
    total = sum(len(cell["comparisons"]) for cell in cells)
    if not rows:
        return [*blocks, Text(f"All {total} comparisons are inconclusive.")]
    blocks.append(Text(f"Of {total} comparisons {total - len(rows)} are inconclusive; these are not:"))
    columns = ["", "arm", "against", "verdict"]
    return [*blocks, Table(columns, rows, left=columns, head=note)]


def _name(cell: Mapping[str, Any]) -> str:
    kind = f" ({cell['kind']})" if cell["section"] == "yardstick" and cell["kind"] != "accuracy" else ""
    return f"{cell['name']}{kind}{'' if cell['matching']['matched'] else ' †'}"


def _verdict(comparison: Mapping[str, Any] | None, unit: str) -> str:
    if comparison is None:
        return ABSENT
    star = "" if comparison["about"] == "the arms" else " *"
    return f"{SIGNS[comparison['verdict']]} {number(comparison['difference'], unit, signed=True)}{star}"


def _differs(results: Results) -> list[Block]:
    arms, differs, equal = list(results["arms"]), results["differs"], results["equal"]
    blocks: list[Block] = [Heading("What differs, and what is equal")]
    if differs and len(arms) <= _MOST_IN_TITLE:
        rows = [[key, *(by_arm[arm] for arm in arms)] for key, by_arm in differs.items()]
        blocks.append(
            Table(
                ["key", *arms],
                rows,
                left=["key", *arms],
                head="Differs (– : there is no such key):",
            )
        )
    elif differs:
        several, one = _by_values(differs)
        rows = [[arm, *(differs[key][arm] for key in several)] for arm in arms]
        head = "Differs (– : there is no such key):"
        if several:
            blocks.append(Table(["arm", *several], rows, left=["arm", *several], head=head))
        if one:
            told = " · ".join(
                f"{key} {value} ({_some(having, arms)})" for key, (value, having) in one.items()
            )
            blocks.append(Text(f"The same wherever there is such a key: {told}."))
    told = " · ".join(f"{key} {value}" for key, value in equal.items())
    return [*blocks, Text(f"The same in all, of what is set: {told}.")]


def _by_values(
    differs: Mapping[str, Mapping[str, str]],
) -> tuple[list[str], dict[str, tuple[str, list[str]]]]:
    """Keys that have several values, and those that some arms have, all with one: its value, and the arms."""
    several: list[str] = []
    one: dict[str, tuple[str, list[str]]] = {}
    for key, by_arm in differs.items():
        having = {arm: value for arm, value in by_arm.items() if value != ABSENT}
        values = set(having.values())
        if len(values) == 1:
            one[key] = (values.pop(), list(having))
        else:
            several.append(key)
    return several, one


def _some(having: list[str], arms: list[str]) -> str:
    """Which arms, by name where they are few."""
    return ", ".join(having) if len(having) <= 3 else f"{len(having)} of {len(arms)} arms"


_AMOUNTS: dict[str, Callable[[float], str]] = {"seconds": duration}


def _costs(results: Results) -> list[Block]:
    amounts = results["matching"]["amounts"]
    columns = ["arm", "runs", *(QUANTITIES[amount["name"]] for amount in amounts)]
    rows = []
    for arm, members in results["arms"].items():
        told = [
            ABSENT if (value := amount["by_arm"][arm]) is None else _AMOUNTS.get(amount["name"], count)(value)
            for amount in amounts
        ]
        rows.append([arm, str(len(members["runs"])), *told])
    if len(results["arms"]) > 1:
        ratios = [ABSENT if amount["ratio"] is None else to_one(amount["ratio"]) for amount in amounts]
        equal = {True: "equal", False: "not equal", None: "not known"}
        rows.append(["largest to smallest", "", *ratios])
        rows.append(["to 2 %, run by run", "", *(equal[amount["equal"]] for amount in amounts)])
    head = f"{results['matching']['head']} Means over the runs of an arm."
    return [Heading("What the runs cost"), Table(columns, rows, left=["arm"], head=head)]


def _rates(results: Results) -> list[Block]:
    blocks: list[Block] = [Heading("Learning rates")]
    found = results["search"]
    if not found:
        rates = sorted({run["lr"] for run in results["runs"] if run["lr"] is not None})
        blocks.append(
            Text(
                "Learning rates were not searched: no search.json lies beside these runs.",
                strong=len(results["arms"]) > 1,
            )
        )
        if len(rates) == 1 and len(results["arms"]) > 1:
            blocks.append(
                Text(
                    f"All arms have optimizer.lr {rates[0]:g}. One rate for all favours the arm that it "
                    "happens to suit."
                )
            )
        return blocks
    columns = ["arm", "metric", "share of the budget", "rates tried, and what they gave", "chosen", "remarks"]
    rows = []
    for each in found:
        trials = ", ".join(
            f"{t['lr']:g}: {ABSENT if t['loss'] is None else format(t['loss'], '.4f')}"
            for t in each["trials"]
        )
        chosen = ABSENT if each["chosen"] is None else f"{each['chosen']:g}"
        share = ABSENT if each["share"] is None else f"{each['share']:.0%}"
        rows.append([each["arm"], str(each["metric"]), share, trials, chosen, "; ".join(each["remarks"])])
    return [
        *blocks,
        Table(columns, rows, left=columns, head="The arm's own validation decides; equal numbers of trials."),
    ]


def _section(results: Results, section: str, pictures: list[Block]) -> list[Block]:
    cells = [cell for cell in results["cells"] if cell["section"] == section]
    apart = [each for each in results["apart"] if _of_section(each["name"], section, results)]
    lacking = [each for each in results["lacking"] if _of_section(each["name"], section, results)]
    if not cells and not lacking:
        return []
    blocks: list[Block] = [Heading(SECTIONS[section]), *pictures]
    for name in dict.fromkeys(cell["name"] for cell in cells):
        several = [cell for cell in cells if cell["name"] == name]
        for place, cell in enumerate(several, 1):
            blocks += _cell(cell, f" ({place} of {len(several)}, kept apart)" if len(several) > 1 else "")
    if apart:
        blocks.append(Heading(f"Kept apart: {SECTIONS[section].lower()}", 3))
        blocks.append(
            Bullets([f"{each['name']}: {_groups(each['groups'])}. Why: {each['reason']}." for each in apart])
        )
    if lacking:
        told: dict[tuple[str, str], list[str]] = {}
        for each in lacking:
            told.setdefault((each["name"], each["reason"]), []).append(each["arm"])
        blocks.append(Heading(f"Without a figure: {SECTIONS[section].lower()}", 3))
        blocks.append(
            Bullets([f"{name}, {', '.join(arms)}: {reason}" for (name, reason), arms in told.items()])
        )
    return blocks


def _groups(groups: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{kind}: {', '.join(arms)}" for kind, arms in groups.items())


def _of_section(name: str, section: str, results: Results) -> bool:
    loss, tasks = name.endswith((" loss", " losses")), results["tasks"]
    return section == ("loss" if loss else "task" if name in tasks else "yardstick")


def _cell(cell: Mapping[str, Any], which: str) -> list[Block]:
    unit = cell["unit"]
    controls = list(dict.fromkeys(name for row in cell["rows"] for name in row["controls"]))
    way = "the higher the better" if cell["higher_is_better"] else "the lower the better"
    columns = ["arm", f"mean, {unit}", "95 % interval", "seeds", "interval by", *controls]
    rows = [
        [
            row["arm"],
            number(row["mean"], unit),
            interval(row["low"], row["high"], unit),
            str(len(row["seeds"])),
            row["method"] if row["low"] is not None else ABSENT,
            *(number(row["controls"].get(name), unit) for name in controls),
        ]
        for row in cell["rows"]
    ]
    kind = f" · {cell['kind']}" if cell["section"] == "yardstick" else ""
    items = f" {cell['units']:,} {cell['drawn']}." if cell["drawn"] else ""
    head = f"{cell['matching']['brief']} {unit}{f', {way}' if cell['merit'] else ''}.{items}".lstrip()
    blocks: list[Block] = [Heading(f"{cell['name']}{kind}{which}", 3)]
    blocks.append(Table(columns, rows, left=["arm", "interval by"], head=head))
    blocks += _comparisons(cell)
    notes = [*cell["notes"]]
    if cell["why_not_drawn"] and cell["section"] != "loss":
        notes.append(f"intervals are over seeds alone: {cell['why_not_drawn']}")
    return [*blocks, Bullets(notes)] if notes else blocks


def _comparisons(cell: Mapping[str, Any]) -> list[Block]:
    several, unit = cell["comparisons"], cell["unit"]
    if not several:
        return []
    chance = any(each["permutation_p"] is not None for each in several)
    both = any(each["two_level"] is not None for each in several)
    said = [(each["about"], _counted(each)) for each in several]
    alike = len(set(said)) == 1
    columns = ["arm", "against", "difference", "95 % interval", "p (Holm)", "verdict"]
    columns += [] if alike else ["said of", "seeds"]
    columns += ["two-level bootstrap"] * both + ["permutation p (Holm)"] * chance + ["seeds to settle"]
    rows = []
    for each, scope in zip(several, said, strict=True):
        row = [each["arm"], each["against"], number(each["difference"], unit, signed=True)]
        row += [interval(each["low"], each["high"], unit, signed=True)]
        row += [f"{probability(each['p'])} ({probability(each['p_holm'])})"]
        row += [SIGNS.get(each["verdict"], "describes"), *(() if alike else scope)]
        low, high = each["two_level"] or (None, None)
        row += [interval(low, high, unit, signed=True)] * both
        row += [f"{probability(each['permutation_p'])} ({probability(each['permutation_p_holm'])})"] * chance
        rows.append([*row, settle(each)])
    left = ["arm", "against", "verdict", "said of", "seeds", "seeds to settle"]
    methods = ", ".join(dict.fromkeys(each["method"] for each in several))
    scope = f", said of {said[0][0]}, {said[0][1]}" if alike else ""
    return [Table(columns, rows, left=left, head=f"Differences, by {methods}{scope}.")]


def _counted(comparison: Mapping[str, Any]) -> str:
    one, other = comparison["seeds"]
    return f"{one} and {many(other, 'seed')}{', paired' if comparison['paired'] else ''}"


def _made(results: Results) -> list[Block]:
    percent = f"{results['confidence']:.0%}".replace("%", " %")
    texts = [
        f"Intervals are of {percent}. With two seeds or more: Student's t over the seeds and over the "
        "items, each part of the variance with its own degrees of freedom (Banerjee 1960). With one: the "
        "bootstrap over the items, which says nothing of other seeds.",
        f"Bootstraps have {results['draws']:,} draws from seed {results['seed']}; every run is given the same "
        "draws of the items, so differences are paired.",
        "Runs of one seed on the same text are paired, as they see the same batches in the same order.",
        "p is of no difference, and stands in parentheses as corrected over its table (Holm 1979). A "
        "verdict wants less than 0.05 there. A table is one yardstick's: of twenty tables without any true difference "
        "one may still have a verdict.",
        "Seeds to settle: so many a side would find a difference as large as this one with probability 0.8.",
        "The two-level bootstrap (seeds, then items) is too narrow for few seeds and gives no verdict; a "
        "permutation test is done from six seeds on, since three cannot give less than 0.25.",
    ]
    columns = ["run", "arm", "seed", "finished", "steps", "version", "git", "text and tokenizer"]
    rows = [
        [
            run["name"],
            run["arm"],
            str(run["seed"]),
            "yes" if run["finished"] else "no",
            count(run["ledger"].get("steps")),
            str(run["version"] or ABSENT),
            (run["git"] or ABSENT)[:8],
            (run["content"] or ABSENT)[:8],
        ]
        for run in results["runs"]
    ]
    left = ["run", "arm", "finished", "version", "git", "text and tokenizer"]
    return [
        Heading("How this was made"),
        Bullets(texts),
        Text(f"lmzoo {results['lmzoo']}; results.json has all of this, results.csv a line a figure."),
        Heading("The runs", 3),
        Table(columns, rows, left=left),
    ]
