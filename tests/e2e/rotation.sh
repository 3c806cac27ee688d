#!/usr/bin/env bash
# A rotation over test days trains each model without its day, prints the skill that pluvia verify computes, and goes on
# where it was. Needs PLUVIA (the program) and MPIEXEC, as ctest sets them.
source "$(dirname "$0")/lib/opening.sh"
small_archive 24 32
rotate() {
  python3 "$here/../../tools/rotation.py" deck.yaml data.train.to=2020-01-05 forecast.init= forecast.write_logits=false \
    --days 2020-01-03 2020-01-04 --seeds 1 2 --members model.base=climatology --pluvia "$PLUVIA" \
    --mpirun "$MPIEXEC --oversubscribe --bind-to none"
}
rotate >first.txt
[ "$(grep -c training first.txt)" -eq 4 ] || { cat first.txt; exit 1; }
grep -q 'without what it shares' rotation/2020-01-03/log || { echo "the day was not left out"; exit 1; }

# Nothing is trained again, but what is missing is.
rotate >second.txt
! grep training second.txt
rm -r rotation/2020-01-04/seed2_0
rotate | grep -c training | grep -qx 1

python3 - <<'END_OF_CHECK'
import json
report = json.load(open("rotation/scores_all/scores.json", encoding="utf-8"))
skill = {(s["lead_hours"], s["threshold_mm"]): s["value"] for s in report["scores"]
         if s["score"] == "BSS" and s["system"] == "pluvia"}
assert len(report["sums"]["days"]) == 2, report["sums"]["days"]
rows = [line.split() for line in open("second.txt", encoding="utf-8") if " mm " in line]
assert len(rows) == 6, rows
for row in rows:  # lead h threshold mm least mean greatest all regression difference
    expected = skill[float(row[0]), float(row[2])]
    assert abs(float(row[7]) - expected) <= 0.00051, (row, expected)
    assert abs(float(row[9]) - (float(row[7]) - float(row[8]))) <= 0.00151, row
END_OF_CHECK
