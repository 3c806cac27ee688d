#!/usr/bin/env python3
"""Predicts how a training step scales to a thousand ranks, on clusters that are simulated by SimGrid.

    tools/scaling.py CONFIG [-o FOLDER] [key=value ...]

Times the network's operators on this machine with `pluvia bench`, in processor time, on one rank and grids of several
sizes. Then runs the halo exchanges and sums of a step on simulated ranks (tools/scaling/predict.cpp): on 1 to 8 that
share this machine, beside real ones, and on a cluster of CPU nodes and one of GPU nodes. Prints tables and writes
scaling.json and, where matplotlib is installed, scaling.png. What FOLDER (build/scaling/run) holds already is not done
again. Needs build/release/pluvia and SimGrid (libsimgrid-dev)."""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLUVIA, BUILD = ROOT / "build/release/pluvia", ROOT / "build/scaling"
CLOCK = BUILD / "processor_clock.so"
TIMED = [8, 16, 32, 64, 128]  # cells along the side of the grids whose operators are timed; beyond, cells cost the same
REPEATS = 3  # of each: the least times count, for other work on the machine only adds
TILES, RANKS, STRONG = [16, 32, 64, 128, 256], [1, 4, 16, 64, 256, 1024], 2048
REAL_SIDE, REAL_RANKS = 64, [1, 2, 4, 8]
ENOUGH = 0.8  # efficiency below which a tile counts as too small

# speed: a rank's, of a core of the measured machine. latency: of each of the two or four links between nodes.
CLUSTERS = {
    "CPU": {"ranks": 32, "nodes": 32, "speed": 1, "bandwidth": 12.5e9, "latency": 0.375e-6,
            "inside_bandwidth": 8e9, "inside_latency": 0.3e-6,
            "text": "32 nodes of 2 x 16 cores, one rank a core; 100 Gbit/s a node, 1.5 us"},
    "GPU": {"ranks": 4, "nodes": 256, "speed": 100, "bandwidth": 50e9, "latency": 0.75e-6,
            "inside_bandwidth": 200e9, "inside_latency": 2e-6,
            "text": "256 nodes of 4 GPUs, assumed to be 100 cores each; 400 Gbit/s a node, 3 us"},
}
# What SimGrid would assume of Ethernet and TCP is left out; large sums go by halves (Rabenseifner). Messages that are
# sent without waiting would stay in SimGrid's lists and make it slow, so that a send ends when it has been received.
SIMULATION = ["smpi/simulate-computation:no", "smpi/wtime:0", "smpi/coll-selector:ompi", "smpi/allreduce:rab_rdb",
              "smpi/send-is-detached-thresh:0", "smpi/bw-factor:0:1", "smpi/lat-factor:0:1",
              "network/bandwidth-factor:1", "network/latency-factor:1", "network/weight-S:0", "network/TCP-gamma:0",
              "network/crosstraffic:0"]


def cluster_platform(cluster, latency=True):
    """A fat tree of two levels with full bisection; without latency for telling what it costs."""
    nodes = cluster["nodes"]
    leaf = 16
    links = f'{leaf},{nodes // leaf};1,{leaf};1,1'
    times = cluster if latency else {**cluster, "latency": 0, "inside_latency": 0}
    return (f'<cluster id="cluster" prefix="node" suffix="" radical="0-{nodes - 1}" speed="{cluster["speed"]}Gf" '
            f'core="{cluster["ranks"]}" bw="{cluster["bandwidth"]}Bps" lat="{times["latency"]}s" topology="FAT_TREE" '
            f'topo_parameters="2;{links}" sharing_policy="SPLITDUPLEX" '
            f'loopback_bw="{cluster["inside_bandwidth"]}Bps" loopback_lat="{times["inside_latency"]}s"/>')


def machine_platform(cores, messages):
    """This machine as measured: ranks beyond its cores share them."""
    return (f'<zone id="machine" routing="Full"><host id="node0" speed="1Gf" core="{cores}"/>'
            f'<link id="memory" bandwidth="{messages["bytes_per_s"]}Bps" latency="{messages["latency_s"]}s" '
            f'sharing_policy="FATPIPE"/><route src="node0" dst="node0"><link_ctn id="memory"/></route></zone>')


class Simulator:
    def __init__(self, folder, config, measured, replaced):
        self.folder, self.arguments, self.replaced = folder, [config, ",".join(map(str, measured))], replaced

    def step(self, platform, ranks_per_node, ranks, ny, nx):
        """A step on so many ranks, as predict prints it."""
        xml, hosts = self.folder / "platform.xml", self.folder / "hosts"
        xml.write_text('<?xml version="1.0"?>\n<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">\n'
                       f'<platform version="4.1">{platform}</platform>\n')
        hosts.write_text("".join(f"node{rank // ranks_per_node}\n" for rank in range(ranks)))
        run = subprocess.run(
            ["smpirun", "-quiet", "-no-privatize", "-np", str(ranks), "-platform", xml, "-hostfile", hosts,
             *(f"--cfg={setting}" for setting in SIMULATION), "--log=root.thres:error", BUILD / "predict",
             *self.arguments, *self.replaced, f"bench.ny={ny}", f"bench.nx={nx}"],
            cwd=self.folder, capture_output=True, text=True)
        if run.returncode != 0:
            sys.exit(f"scaling.py: the simulation of {ranks} ranks failed ({run.returncode})\n{run.stderr}")
        return json.loads(run.stdout)


def bench(config, ranks, output, settings):
    """What pluvia bench writes, measured once; on one rank in processor time."""
    if not output.exists():
        command = [PLUVIA, "bench", config, f"bench.output={output}", *settings]
        if ranks > 1:
            command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks), *command]
        print("  " + " ".join(settings), flush=True)
        clock = {"LD_PRELOAD": str(CLOCK), "OMP_NUM_THREADS": "1"} if ranks == 1 else {}
        run = subprocess.run([*map(str, command), "parallel.threads=1", "train.precision=f32"], capture_output=True,
                             text=True, env={**os.environ, **clock})
        if run.returncode != 0:
            sys.exit(f"scaling.py: pluvia bench failed\n{run.stderr}")
    return json.loads(output.read_text())


def cores_at_hand(config, folder, settings, real):
    """As many cores as others leave: programs of one rank, one on each core, are slowed down by as much."""
    cores = real["machine"]["cores"]
    files = [folder / f"bench_beside_{core}.json" for core in range(cores)]
    if not all(file.exists() for file in files):
        command = [str(PLUVIA), "bench", config, *settings, "parallel.threads=1", "train.precision=f32"]
        running = [subprocess.Popen([*command, f"bench.output={file}"], stdout=subprocess.DEVNULL) for file in files]
        if any(program.wait() != 0 for program in running):
            sys.exit("scaling.py: pluvia bench failed")
    beside = [json.loads(file.read_text())["timings"]["training step f32"]["min_s"] for file in files]
    alone = min(row["min_s"] for row in real["scaling"] if row["ranks"] == 1)
    return max(1, round(cores * alone / statistics.mean(beside)))


def build():
    compiler = shutil.which("smpicxx")
    if not compiler:
        sys.exit("scaling.py: smpicxx was not found (SimGrid brings it); apt-get install libsimgrid-dev")
    for command in (["cmake", "-S", ROOT / "tools/scaling", "-B", BUILD, f"-DCMAKE_CXX_COMPILER={compiler}"],
                    ["cmake", "--build", BUILD, "--parallel"],
                    ["c++", "-shared", "-fPIC", ROOT / "tools/scaling/processor_clock.cpp", "-o", CLOCK, "-ldl"]):
        run = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if run.returncode != 0:
            sys.exit(f"scaling.py: the predictor was not built\n{run.stdout}{run.stderr}")


def shape_of(ranks):
    """Rows and columns of ranks, a power of two, as pluvia lays them out over a square."""
    rows = 2 ** ((ranks.bit_length() - 1) // 2)
    return rows, ranks // rows


def validate(simulator, real, cores):
    """Real steps on this machine, the fastest of each kind, beside predicted ones."""
    platform = machine_platform(cores, real["messages"])
    rows = []
    print(f"\nhere, {cores} of {real['machine']['cores']} cores at hand\n"
          f"{'':7} {'ranks':>5} {'grid':>11} {'real s':>8} {'predicted s':>11} {'error':>6}")
    size = lambda row: (row["ranks"], row["ny"], row["nx"])
    for row in real["scaling"]:
        took = min(other["min_s"] for other in real["scaling"] if size(other) == size(row))
        predicted = simulator.step(platform, max(REAL_RANKS), *size(row))["step_s"]
        rows.append({**{key: row[key] for key in ("scaling", "ranks", "ny", "nx")}, "real_s": took,
                     "predicted_s": predicted, "error": predicted / took - 1})
        print(f"{row['scaling']:7} {row['ranks']:>5} {row['ny']:>5} x {row['nx']:<4}{took:>8.3f} "
              f"{predicted:>11.3f} {100 * rows[-1]['error']:>+5.0f}%")
    return rows


def shares(step, latency):
    """Where the time of a step goes, `latency` of it into that of halos. Waiting for tiles that have more to do is no
    matter of the network."""
    parts = {"operators": step["operators_s"], "copies": step["copies_s"], "all-reduce": step["sums_least_s"]}
    parts["imbalance"] = step["operators_most_s"] - step["operators_s"]
    halos = max(0.0, step["step_s"] - sum(parts.values()))
    latency = min(halos, max(0.0, latency))
    return {**parts, "halo latency": latency, "halo bandwidth": halos - latency}


def ladder(simulator, name, cluster, done, keep):
    """Every step of the weak and strong ladder; `done` holds those of before."""
    sizes = {(ranks, tile * shape_of(ranks)[0], tile * shape_of(ranks)[1]) for tile in TILES for ranks in RANKS}
    sizes |= {(ranks, STRONG, STRONG) for ranks in RANKS}
    for ranks, ny, nx in sorted(sizes):
        key = f"{name} {ranks} {ny} {nx}"
        if key not in done:
            print(f"  {key}", flush=True)
            done[key] = simulator.step(cluster_platform(cluster), cluster["ranks"], ranks, ny, nx)
            keep()
    for tile in TILES:  # neighbours are the same on any number of ranks, so that few show what latency does
        side = 8 * tile
        key = f"{name} 64 {side} {side} without latency"
        if key not in done:
            done[key] = simulator.step(cluster_platform(cluster, latency=False), cluster["ranks"], 64, side, side)
            keep()


def report(name, done):
    """Tables of a cluster, and what they hold."""
    get = lambda ranks, ny, nx: done[f"{name} {ranks} {ny} {nx}"]
    out = {"strong": [], "weak": []}
    print(f"\n{name}: {CLUSTERS[name]['text']}\n\nstrong, {STRONG} x {STRONG} cells\n"
          f"{'ranks':>6} {'tile':>11} {'step s':>9} {'efficiency':>10}")
    first = get(1, STRONG, STRONG)["step_s"]
    for ranks in RANKS:
        step, (rows, cols) = get(ranks, STRONG, STRONG), shape_of(ranks)
        row = {"ranks": ranks, "tile": [STRONG // rows, STRONG // cols], "step_s": step["step_s"],
               "efficiency": first / ranks / step["step_s"]}
        out["strong"].append(row)
        print(f"{ranks:>6} {row['tile'][0]:>5} x {row['tile'][1]:<4}{step['step_s']:>9.4f} "
              f"{100 * row['efficiency']:>9.1f}%")
    parts = ["operators", "copies", "halo latency", "halo bandwidth", "all-reduce", "imbalance"]
    print(f"\nweak, efficiency on so many ranks, and shares of the step on {RANKS[-1]}\n{'tile':>10} "
          + " ".join(f"{ranks:>6}" for ranks in RANKS[1:]) + "   " + " ".join(f"{part:>14}" for part in parts))
    for tile in TILES:
        steps = [get(ranks, tile * shape_of(ranks)[0], tile * shape_of(ranks)[1]) for ranks in RANKS]
        efficiency = [steps[0]["step_s"] / step["step_s"] for step in steps]
        key = f"{name} 64 {8 * tile} {8 * tile}"
        latency = done[key]["halo_wait_s"] - done[f"{key} without latency"]["halo_wait_s"]
        where = {part: seconds / steps[-1]["step_s"] for part, seconds in shares(steps[-1], latency).items()}
        out["weak"].append({"tile": tile, "ranks": RANKS, "step_s": [s["step_s"] for s in steps],
                            "efficiency": efficiency, "shares": where})
        print(f"{tile:>4} x {tile:<4}" + " ".join(f"{100 * e:>5.1f}%" for e in efficiency[1:]) + "   "
              + " ".join(f"{100 * where[part]:>13.1f}%" for part in parts))
    small = [row for row in out["weak"] if row["efficiency"][-1] < ENOUGH]
    if small:
        worst = max((part for part in parts if part != "operators"), key=lambda part: small[-1]["shares"][part])
        out["limit"] = {"tile": small[-1]["tile"], "by": worst}
        print(f"below {100 * ENOUGH:.0f} % on {RANKS[-1]} ranks with {small[-1]['tile']} cells a side: {worst}")
    else:
        print(f"never below {100 * ENOUGH:.0f} %")
    return out


def draw(clusters, file):
    try:
        import matplotlib
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return print("no plot: matplotlib is not installed")
    colours = ["#D55E00", "#E69F00", "#CC79A7", "#0072B2", "#009E73"]
    figure, axes = plt.subplots(1, len(clusters), figsize=(8, 3), sharey=True, layout="constrained")
    for axis, (name, tables) in zip(axes, clusters.items()):
        for row, colour in zip(tables["weak"], colours):
            axis.semilogx(row["ranks"], [100 * e for e in row["efficiency"]], "o-", ms=3, color=colour, base=2,
                          label=f"{row['tile']} x {row['tile']} cells a rank")
        axis.semilogx(RANKS, [100 * row["efficiency"] for row in tables["strong"]], "ks--", ms=3, base=2,
                      label=f"{STRONG} x {STRONG} cells in all")
        axis.axhline(100 * ENOUGH, color="grey", lw=0.5)
        axis.set(title=f"{name} nodes", xlabel="ranks", xticks=RANKS, xticklabels=RANKS, ylim=(0, 110))
    axes[0].set_ylabel("efficiency [%], predicted")
    axes[-1].legend(fontsize=7, loc="lower left")
    figure.savefig(file, dpi=100)
    return print(f"plot in {file}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("replaced", nargs="*", metavar="key=value")
    parser.add_argument("-o", "--output", type=Path, default=BUILD / "run")
    args = parser.parse_args()
    folder, config = args.output.resolve(), str(Path(args.config).resolve())
    folder.mkdir(parents=True, exist_ok=True)
    build()

    print("timing operators", flush=True)
    measured = []
    for side in TIMED:
        for repeat in range(REPEATS):
            measured.append(folder / f"bench_{side}_{repeat}.json")
            timed = bench(config, 1, measured[-1],
                          [*args.replaced, f"bench.ny={side}", f"bench.nx={side}", "bench.rounds=1"])
    print("timing real ranks", flush=True)
    settings = [*args.replaced, f"bench.ny={REAL_SIDE}", f"bench.nx={REAL_SIDE}", "bench.rounds=10"]
    real = bench(config, max(REAL_RANKS), folder / "bench_ranks.json",
                 [*settings, f"bench.ranks={REAL_RANKS}".replace(" ", "")])
    cores = cores_at_hand(config, folder, settings, real)

    simulator = Simulator(folder, config, measured, args.replaced)
    store = folder / "steps.json"
    done = json.loads(store.read_text()) if store.exists() else {}
    print("simulating", flush=True)
    for name, cluster in CLUSTERS.items():
        ladder(simulator, name, cluster, done, lambda: store.write_text(json.dumps(done, indent=1)))
    print(f"\n{timed['program']}, {timed['machine']['processor']}, {timed['date']}")
    out = {"machine": timed["machine"], "date": timed["date"], "assumptions": CLUSTERS,
           "validation": validate(simulator, real, cores), "clusters": {name: report(name, done) for name in CLUSTERS}}
    print(f"\nlargest error here {100 * max(abs(row['error']) for row in out['validation']):.0f} %, median "
          f"{100 * statistics.median(abs(row['error']) for row in out['validation']):.0f} %")
    (folder / "scaling.json").write_text(json.dumps(out, indent=1) + "\n")
    print(f"results in {folder / 'scaling.json'}")
    draw(out["clusters"], folder / "scaling.png")


if __name__ == "__main__":
    main()
