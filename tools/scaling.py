#!/usr/bin/env python3
"""Predicts how a training step scales to a thousand ranks, on clusters that are simulated by SimGrid.

    tools/scaling.py CONFIG [-o FOLDER] [--ranks N,...] [key=value ...]

Times the network's operators on this machine with `pluvia bench`, in processor time, on one rank and grids of several
sizes. Then runs steps of the program's own stages, halos, gathers and sums on simulated ranks
(tools/scaling/predict.cpp): on 1 to 8 that share this machine, beside real ones, and on a cluster of CPU nodes and one
of GPU nodes, for every axis along which ranks share the work, and for products of them, on one domain, and for tiles on
one that grows with the ranks. Prints tables and writes
scaling.json and, where matplotlib is installed, scaling.png. What FOLDER (build/scaling/run) holds already is not done
again. Needs build/release/pluvia and SimGrid (libsimgrid-dev)."""
import argparse
import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLUVIA, BUILD = ROOT / "build/release/pluvia", ROOT / "build/scaling"
CLOCK = BUILD / "processor_clock.so"
TIMED = [8, 16, 32, 64, 128]  # cells along the side of the grids whose operators are timed; beyond, cells cost the same
REPEATS = 3  # of each: the least times count, for other work on the machine only adds
SIDE, BATCH, RANKS = 512, 2, [16, 64, 256, 1024]  # of the domain, cells; samples of a step
WEAK_SIDE = 64  # of each rank's tile where the domain grows with the ranks
REAL_SIDE, REAL_RANKS = 64, [1, 2, 4, 8]
ENOUGH = 0.8  # efficiency below which ranks count as too many
AXES = [{}, {"replicas": 2}, {"stages": 2}, {"time": 2}, {"time": 4}, {"tensor": 2}, {"tensor": 4}]
PRODUCTS_FROM, PRODUCTS_MOST = 256, 3  # ranks on which all products are tried; more of them get the best so many

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
SIMULATION = ["smpi/simulate-computation:no", "smpi/wtime:0", "smpi/test:0", "smpi/coll-selector:ompi",
              "smpi/allreduce:rab_rdb", "smpi/allgather:rdb", "smpi/send-is-detached-thresh:0",
              "smpi/bw-factor:0:1", "smpi/lat-factor:0:1",
              "network/bandwidth-factor:1", "network/latency-factor:1", "network/weight-S:0", "network/TCP-gamma:0",
              "network/crosstraffic:0"]


def cluster_platform(cluster):
    """A fat tree of two levels with full bisection."""
    nodes, leaf = cluster["nodes"], 16
    links = f'{leaf},{nodes // leaf};1,{leaf};1,1'
    return (f'<cluster id="cluster" prefix="node" suffix="" radical="0-{nodes - 1}" speed="{cluster["speed"]}Gf" '
            f'core="{cluster["ranks"]}" bw="{cluster["bandwidth"]}Bps" lat="{cluster["latency"]}s" topology="FAT_TREE" '
            f'topo_parameters="2;{links}" sharing_policy="SPLITDUPLEX" '
            f'loopback_bw="{cluster["inside_bandwidth"]}Bps" loopback_lat="{cluster["inside_latency"]}s"/>')


def machine_platform(cores, messages):
    """This machine as measured: ranks beyond its cores share them."""
    return (f'<zone id="machine" routing="Full"><host id="node0" speed="1Gf" core="{cores}"/>'
            f'<link id="memory" bandwidth="{messages["bytes_per_s"]}Bps" latency="{messages["latency_s"]}s" '
            f'sharing_policy="FATPIPE"/><route src="node0" dst="node0"><link_ctn id="memory"/></route></zone>')


class Simulator:
    def __init__(self, folder, config, measured, replaced):
        self.folder, self.arguments, self.replaced = folder, [config, ",".join(map(str, measured))], replaced

    def step(self, platform, ranks_per_node, ranks, ny, nx, settings=()):
        """A step on so many ranks, as predict prints it."""
        with tempfile.TemporaryDirectory() as scratch:
            return self.step_in(Path(scratch), platform, ranks_per_node, ranks, ny, nx, settings)

    def step_in(self, scratch, platform, ranks_per_node, ranks, ny, nx, settings):
        xml, hosts = scratch / "platform.xml", scratch / "hosts"
        xml.write_text('<?xml version="1.0"?>\n<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">\n'
                       f'<platform version="4.1">{platform}</platform>\n')
        hosts.write_text("".join(f"node{rank // ranks_per_node}\n" for rank in range(ranks)))
        run = subprocess.run(
            ["smpirun", "-quiet", "-no-privatize", "-np", str(ranks), "-platform", xml, "-hostfile", hosts,
             *(f"--cfg={setting}" for setting in SIMULATION), "--log=root.thres:error", BUILD / "predict",
             *self.arguments, *self.replaced, *settings, f"bench.ny={ny}", f"bench.nx={nx}"],
            cwd=self.folder, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if run.returncode != 0:
            sys.exit(f"scaling.py: the simulation of {ranks} ranks failed ({run.returncode})\n{run.stderr}")
        return json.loads(run.stdout)


def bench(config, ranks, output, settings, clock=True):
    """What pluvia bench writes, measured once; in processor time with `clock`, else in that of the wall."""
    if not output.exists():
        command = [PLUVIA, "bench", config, f"bench.output={output}", *settings]
        if ranks > 1:
            command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks), *command]
        print("  " + " ".join(([f"{ranks} ranks"] if ranks > 1 else []) + settings), flush=True)
        preload = {"LD_PRELOAD": str(CLOCK), "OMP_NUM_THREADS": "1"} if clock else {}
        run = subprocess.run([*map(str, command), "parallel.threads=1", "train.precision=f32"], capture_output=True,
                             text=True, env={**os.environ, **preload})
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
    return max(1, round(cores * real["timings"]["training step f32"]["min_s"] / statistics.mean(beside)))


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


def product(axis):
    """How many ranks share a tile, and settings that share it out so; each replica has its part of the batch."""
    ranks = 1
    for n in axis.values():
        ranks *= n
    return ranks, [f"parallel.{key}={n}" for key, n in axis.items()] + [
        f"bench.samples={BATCH // axis.get('replicas', 1)}"]


def name_of(axis):
    words = {"replicas": "replicas", "stages": "stages", "time": "parts of the frames",
             "tensor": "shares of the channels"}
    return " x ".join(f"{n} {words[key]}" for key, n in axis.items()) or "tiles alone"


def products():
    """Of two axes or more, for which the batch has enough samples."""
    for numbers in itertools.product(*[[1, 2]] * 4):
        axis = {key: n for key, n in zip(["replicas", "stages", "time", "tensor"], numbers) if n > 1}
        if len(axis) > 1 and BATCH // axis.get("replicas", 1) >= axis.get("stages", 1):
            yield axis


def validate(simulator, folder, config, replaced):
    """Real steps on this machine, the fastest of each kind, beside predicted ones."""
    side = [f"bench.ny={REAL_SIDE}", f"bench.nx={REAL_SIDE}", "bench.rounds=10"]
    alone = bench(config, 1, folder / "bench_alone.json", [*replaced, *side, "bench.samples=1"], clock=False)
    cores = cores_at_hand(config, folder, [*replaced, *side, "bench.samples=1"], alone)
    rows, messages = [], None
    print(f"\nhere, {cores} of {alone['machine']['cores']} cores at hand\n"
          f"{'':24} {'ranks':>5} {'real s':>8} {'predicted s':>11} {'error':>6}")
    for ranks, axis in itertools.product(REAL_RANKS, AXES):
        members, settings = product(axis)
        if members > ranks:
            continue
        name = "_".join(f"{key}{n}" for key, n in axis.items()) or "tiles"
        real = bench(config, ranks, folder / f"bench_real_{ranks}_{name}.json", [*replaced, *side, *settings],
                     clock=False)
        messages = real.get("messages") or messages or {"bytes_per_s": 1e9, "latency_s": 1e-6}
        predicted = simulator.step(machine_platform(cores, messages), max(REAL_RANKS), ranks, REAL_SIDE, REAL_SIDE,
                                   settings)
        took = real["timings"]["training step f32"]["min_s"]
        rows.append({"axis": axis, "ranks": ranks, "real_s": took, "predicted_s": predicted["step_s"],
                     "error": predicted["step_s"] / took - 1,
                     "messages_agree": predicted["halo"] == real["halo"]})
        print(f"{name_of(axis):24} {ranks:>5} {took:>8.3f} {predicted['step_s']:>11.3f} "
              f"{100 * rows[-1]['error']:>+5.0f}%" + ("" if rows[-1]["messages_agree"] else "  other messages"))
    return rows


def shares(step):
    """Where the time of a step goes. Waiting for ranks that have more to do is no matter of the network; of the rest
    each kind of waiting has its part."""
    parts = {"operators": step["operators_s"] - step["optimiser_s"], "optimiser": step["optimiser_s"],
             "copies": step["copies_s"], "sums of gradients": step["sums_least_s"],
             "uneven work": step["operators_most_s"] - step["operators_s"]}
    rest = max(0.0, step["step_s"] - sum(parts.values()))
    waits = {"halos": step["halo_wait_s"], "gathers": step["gather_wait_s"], "stages": step["stage_wait_s"]}
    all_waits = sum(waits.values()) or 1
    return {**parts, **{name: rest * seconds / all_waits for name, seconds in waits.items()}}


class Study:
    """Steps on the clusters; those of before are in steps.json."""
    def __init__(self, simulator, folder):
        self.simulator, self.store = simulator, folder / "steps.json"
        self.done = json.loads(self.store.read_text()) if self.store.exists() else {}
        self.lock = threading.Lock()

    def step(self, name, axis, ranks):
        return self.simulated(f"{name} {ranks} {name_of(axis)}", name, axis, ranks, SIDE, SIDE)

    def weak_step(self, name, ranks):
        """Of tiles, of the same size whatever the ranks."""
        rows = max(n for n in range(1, math.isqrt(ranks) + 1) if ranks % n == 0)
        return self.simulated(f"{name} {ranks} weak", name, {}, ranks, WEAK_SIDE * rows, WEAK_SIDE * (ranks // rows))

    def simulated(self, key, name, axis, ranks, ny, nx):
        cluster = CLUSTERS[name]
        if key not in self.done:
            print(f"  {key}", flush=True)
            took = self.simulator.step(cluster_platform(cluster), cluster["ranks"], ranks, ny, nx, product(axis)[1])
            with self.lock:
                self.done[key] = took
                self.store.write_text(json.dumps(self.done, indent=1))
        return self.done[key]

    def run(self, ranks):
        """All axes on each number of ranks, and then the products that are worth it; a simulation on each core."""
        chosen = {name: list(products()) for name in CLUSTERS}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for n in sorted({1, *ranks}):
                wanted = [(name, axis) for axis in (AXES if n > 1 else [{}]) for name in CLUSTERS]
                if n >= PRODUCTS_FROM:
                    wanted += [(name, axis) for name in CLUSTERS for axis in chosen[name]]
                steps = [pool.submit(self.weak_step, name, n) for name in CLUSTERS]
                steps += [pool.submit(self.step, name, axis, n) for name, axis in wanted]
                try:
                    [step.result() for step in steps]
                except SystemExit:
                    pool.shutdown(cancel_futures=True)
                    raise
                if n >= PRODUCTS_FROM:
                    for name in CLUSTERS:
                        chosen[name].sort(key=lambda axis: self.step(name, axis, n)["step_s"])
                        chosen[name] = chosen[name][:PRODUCTS_MOST]


def report(name, study, ranks):
    """The table of a cluster, and what it holds."""
    out = {"axes": [], "best": {}}
    alone = study.step(name, {}, 1)["step_s"]
    print(f"\n{name}: {CLUSTERS[name]['text']}; {SIDE} x {SIDE} cells, {BATCH} samples a step\n{'':32}"
          + "".join(f"{n:>10}" for n in ranks) + "  ms a step on so many ranks\n" + f"{'':32}"
          + "".join(f"{'eff.':>10}" for _ in ranks) + "  below 80 % with tiles of, limited by")
    kept = [axis for axis in products() if any(f"{name} {n} {name_of(axis)}" in study.done for n in ranks)]
    for axis in [*AXES, *kept]:
        row = {"axis": axis, "name": name_of(axis), "ranks": [], "step_s": [], "efficiency": [], "shares": []}
        for n in ranks:
            if f"{name} {n} {name_of(axis)}" not in study.done:
                continue
            step = study.step(name, axis, n)
            row["ranks"].append(n), row["step_s"].append(step["step_s"])
            row["efficiency"].append(alone / n / step["step_s"])
            row["shares"].append({part: seconds / step["step_s"] for part, seconds in shares(step).items()})
            if row["efficiency"][-1] < ENOUGH and "limit" not in row:
                lost = {part: share for part, share in row["shares"][-1].items() if part != "operators"}
                # More than their part of one rank's: cells of small tiles are slower, some work ranks do alike.
                lost["slower cells" if axis.get("tensor", 1) == 1 else "work done alike"] = (
                    row["shares"][-1]["operators"] - row["efficiency"][-1])
                row["limit"] = {"ranks": n, "tile": [SIDE // step["rows"], SIDE // step["cols"]],
                                "by": max(lost, key=lost.get)}
        out["axes"].append(row)
        cell = lambda values, n, text: format(text(values[row["ranks"].index(n)]) if n in row["ranks"] else "", ">10")
        limit = ""
        if "limit" in row:
            limit = f"  {row['limit']['tile'][0]} x {row['limit']['tile'][1]}, {row['limit']['by']}"
        print(f"{row['name']:32}" + "".join(cell(row["step_s"], n, lambda s: f"{1e3 * s:.2f}") for n in ranks) + "\n"
              + f"{'':32}" + "".join(cell(row["efficiency"], n, lambda e: f"{100 * e:.0f}%") for n in ranks) + limit)
    weak = {n: study.weak_step(name, n)["step_s"] for n in [1, *ranks]}
    out["weak"] = {"ranks": list(weak), "step_s": list(weak.values()), "efficiency": [weak[1] / s for s in weak.values()]}
    print(f"{f'tiles of {WEAK_SIDE} x {WEAK_SIDE}, 1 rank {1e3 * weak[1]:.2f}':32}"
          + "".join(f"{1e3 * weak[n]:>10.2f}" for n in ranks) + f"\n{'':32}"
          + "".join(f"{f'{100 * weak[1] / weak[n]:.0f}%':>10}" for n in ranks))
    for n in ranks:
        rows = [row for row in out["axes"] if n in row["ranks"]]
        best = min(rows, key=lambda row: row["step_s"][row["ranks"].index(n)])
        out["best"][n] = best["name"]
        print(f"fastest on {n} ranks: {best['name']}")
    return out


def draw(clusters, file):
    try:
        import matplotlib
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return print("no plot: matplotlib is not installed")
    colours = ["#000000", "#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7"]
    figure, axes = plt.subplots(1, len(clusters), figsize=(8, 4.2), sharey=True)
    ticks = sorted({n for tables in clusters.values() for row in tables["axes"] for n in row["ranks"]})
    for axis, (name, tables) in zip(axes, clusters.items()):
        for i, row in enumerate(tables["axes"]):
            single = i < len(AXES)
            axis.semilogx(row["ranks"], [100 * e for e in row["efficiency"]], "o-" if single else "x", base=2,
                          ms=3 if single else 4, color=colours[i] if single else "grey",
                          label=row["name"] if single else "products" if i == len(AXES) else None)
        weak = tables["weak"]
        axis.semilogx(weak["ranks"][1:], [100 * e for e in weak["efficiency"][1:]], "s--", base=2, ms=3, color="black",
                      label=f"tiles of {WEAK_SIDE} x {WEAK_SIDE}")
        axis.axhline(100 * ENOUGH, color="grey", lw=0.5)
        axis.set(title=f"{name} nodes", xlabel="ranks", xticks=ticks, xticklabels=ticks, ylim=(0, 105))
    axes[0].set_ylabel("efficiency [%], predicted")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="lower center", ncol=5)
    figure.subplots_adjust(left=0.08, right=0.98, top=0.93, bottom=0.25, wspace=0.06)
    figure.savefig(file, dpi=100)
    return print(f"plot in {file}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("replaced", nargs="*", metavar="key=value")
    parser.add_argument("--ranks", type=lambda text: [int(n) for n in text.split(",")], default=RANKS)
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
    simulator = Simulator(folder, config, measured, args.replaced)
    validation = validate(simulator, folder, config, args.replaced)
    print("simulating", flush=True)
    study = Study(simulator, folder)
    study.run(args.ranks)
    print(f"\n{timed['program']}, {timed['machine']['processor']}, {timed['date']}")
    out = {"machine": timed["machine"], "date": timed["date"], "assumptions": CLUSTERS, "validation": validation,
           "clusters": {name: report(name, study, args.ranks) for name in CLUSTERS}}
    print(f"\nlargest error here {100 * max(abs(row['error']) for row in out['validation']):.0f} %, median "
          f"{100 * statistics.median(abs(row['error']) for row in out['validation']):.0f} %")
    (folder / "scaling.json").write_text(json.dumps(out, indent=1) + "\n")
    print(f"results in {folder / 'scaling.json'}")
    draw(out["clusters"], folder / "scaling.png")


if __name__ == "__main__":
    main()
