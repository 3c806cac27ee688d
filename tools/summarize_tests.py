#!/usr/bin/env python3
"""Prints what a JUnit report of ctest says: failures with their output, skipped tests, the slowest, the counts.

    tools/summarize_tests.py REPORT.xml

A program of GoogleTest counts as its single tests, anything else as one. Status 1 when a test failed or none ran.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

RESULT = re.compile(r"^\[ +(OK|FAILED|SKIPPED) +\] (\S+?)(?:, where .*)? \(\d+ ms\)", re.MULTILINE)
FAILURE_LINES = 60


def results_of(case):
    """(name, OK | FAILED | SKIPPED) of every single test in one entry of the report."""
    name, status = case.get("name"), case.get("status")
    singles = [(f"{name}: {single}", outcome) for outcome, single in RESULT.findall(case.findtext("system-out") or "")]
    if status == "run":
        return singles or [(name, "OK")]
    if status == "fail":  # a crash, a time limit or a failing rank other than 0 leaves no line of its own
        return singles if any(outcome == "FAILED" for _, outcome in singles) else singles + [(name, "FAILED")]
    return [(name, "SKIPPED" if case.find("skipped") is not None else "FAILED")]


def main():
    report = Path(sys.argv[1])
    if not report.exists():
        print(f"{report} was not written: ctest did not run\n0 passed, 0 failed")
        return 1
    cases = ElementTree.parse(report).getroot().findall("testcase")
    results = [result for case in cases for result in results_of(case)]

    for case in cases:
        if any(outcome == "FAILED" for _, outcome in results_of(case)):
            lines = (case.findtext("system-out") or "").strip().splitlines()
            print(f"\nFAILED {case.get('name')}, the end of its output:")
            print("\n".join("    " + line for line in lines[-FAILURE_LINES:]))
    skipped = [name for name, outcome in results if outcome == "SKIPPED"]
    if skipped:
        print("\nskipped:\n" + "\n".join("    " + name for name in skipped))
    slowest = sorted(cases, key=lambda case: -float(case.get("time", 0)))[:5]
    print("slowest: " + ", ".join(f"{case.get('name')} {float(case.get('time', 0)):.0f} s" for case in slowest))

    counts = {outcome: sum(other == outcome for _, other in results) for outcome in ("OK", "FAILED", "SKIPPED")}
    tail = f", {counts['SKIPPED']} skipped" if counts["SKIPPED"] else ""
    print(f"{counts['OK']} passed, {counts['FAILED']} failed{tail}")
    return 1 if counts["FAILED"] or not counts["OK"] else 0


if __name__ == "__main__":
    sys.exit(main())
