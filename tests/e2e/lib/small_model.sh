# Sourced: a small simulated archive and a deck for a network that trains in seconds.
# small_archive NY NX: writes archive.nc and deck.yaml into the current folder.
run() { "$MPIEXEC" --oversubscribe --bind-to none -np "$1" "$PLUVIA" "${@:2}"; }
small_archive() {
  cat >deck.yaml <<'END'
simulate: {output: archive.nc, from: 2020-01-01T00:00, days: 4, cell_km: 25, missing_frames: 0.05, missing_lines: 0.01}
data:
  archive: archive.nc
  predictors: [tb_window, tb_vapour, rain]
  target: rain
  train: {from: 2020-01-01T00:00, to: 2020-01-03T00:00}
  validate: {from: 2020-01-03T00:00, to: 2020-01-04T00:00}
  test: {from: 2020-01-04T00:00, to: 2020-01-05T00:00}
target: {leads_hours: [6, 12], thresholds_mm: [0.2, 1, 5]}
model: {history: 3, channels: [16, 32, 32], skip_radius: 1, attention: {radius: 2}}
train: {steps: 2, batch: 1, warmup: 2, validate_every: 2, validate_samples: 2, checkpoint_every: 2}
forecast: {init: "2020-01-03T22:00,2020-01-04T01:00", write_logits: true}
END
  run 2 simulate deck.yaml simulate.ny="$1" simulate.nx="$2" >/dev/null 2>simulate.err || { cat simulate.err; exit 1; }
}
