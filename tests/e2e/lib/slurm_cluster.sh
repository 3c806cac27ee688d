# Sourced. A SLURM of this script's own for as long as it runs: two nodes of two processors on this machine, each in a
# network namespace with its own name, whose network can be cut. Needs root and Debian's slurmctld, slurmd, munge and
# iproute2; touches nothing of a SLURM that is installed.
#   start_cluster FOLDER    starts it there and sets SLURM_CONF; prints why and returns 1 when it cannot
#   stop_cluster            ends it
#   cluster_cut NODE, cluster_heal NODE
cluster_parts=() # process ids of its daemons
cluster_net=10.231.$(($$ % 250 + 1))
cluster_id=pv$(($$ % 100000))

start_cluster() {
  local program
  [ "$(id -u)" -eq 0 ] || { echo "only root can make the nodes of a test cluster"; return 1; }
  for program in slurmctld slurmd munged munge ip nsenter unshare; do
    command -v "$program" >/dev/null || { echo "$program is not installed"; return 1; }
  done
  ip link add "$cluster_id" type bridge 2>/dev/null || { echo "no network namespaces can be made here"; return 1; }
  cluster=$1
  mkdir -p "$cluster/state" "$cluster/munge" "$cluster/run"
  chmod go+x "$(dirname "$cluster")" # munge lets everybody come to its socket
  chmod 755 "$cluster" "$cluster"/*
  chmod 711 "$cluster/munge"
  ip addr add "$cluster_net.1/24" dev "$cluster_id"
  ip link set "$cluster_id" up
  (umask 077 && head -c 256 /dev/urandom >"$cluster/munge/key")
  cluster_daemon munged munged --foreground --key-file="$cluster/munge/key" --socket="$cluster/munge/socket" \
    --pid-file="$cluster/munge/pid" --log-file="$cluster/munge/log" --seed-file="$cluster/munge/seed"
  cp /etc/hosts "$cluster/hosts"
  local memory port=$((20000 + $$ % 20000)) node
  memory=$(awk '/MemTotal/ {print int($2 / 2048)}' /proc/meminfo)
  {
    # Jobs that are queued again wait as on other clusters, lest a node still clears the stopped one away; a silent node
    # is given up after half a minute. The folder of PMIx must differ between nodes and its name be short.
    cat <<END
ClusterName=pluvia
SlurmctldHost=$(hostname)($cluster_net.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$cluster/munge/socket
StateSaveLocation=$cluster/state
SlurmctldPidFile=$cluster/run/controller
SlurmdPidFile=$cluster/run/%n
SlurmdSpoolDir=$cluster/%n
TmpFS=$cluster/%n
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=pmix
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=5,sched_min_interval=0,bf_interval=5
ReturnToService=2
KillWait=5
MinJobAge=3600
MessageTimeout=10
TCPTimeout=2
SlurmdTimeout=30
PartitionName=all Nodes=ALL Default=YES MaxTime=60 DefaultTime=10 OverSubscribe=YES:4
END
    for node in 1 2; do
      echo "NodeName=n$node NodeAddr=$cluster_net.1$node CPUs=2 CoresPerSocket=2 RealMemory=$memory"
    done
  } >"$cluster/slurm.conf"
  printf 'CgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\n' >"$cluster/cgroup.conf"
  export SLURM_CONF=$cluster/slurm.conf
  for node in 1 2; do
    mkdir -p "$cluster/n$node"
    chmod 1777 "$cluster/n$node"
    echo "$cluster_net.1$node n$node" >>"$cluster/hosts"
    ip netns add "$cluster_id-$node"
    ip link add "$cluster_id.$node" type veth peer name eth0 netns "$cluster_id-$node"
    ip link set "$cluster_id.$node" master "$cluster_id" up
    ip -n "$cluster_id-$node" link set lo up
    ip -n "$cluster_id-$node" addr add "$cluster_net.1$node/24" dev eth0
    ip -n "$cluster_id-$node" link set eth0 up
    ip -n "$cluster_id-$node" route add default via "$cluster_net.1"
  done
  cluster_wait munge -S "$cluster/munge/socket" -n || return 1
  cluster_daemon slurmctld slurmctld -D
  cluster_wait scontrol ping || return 1
  for node in 1 2; do # with shared memory of its own; exec keeps the process that is to be ended later
    cluster_daemon "n$node" nsenter --net="/run/netns/$cluster_id-$node" unshare --uts --mount sh -c \
      'hostname "$1"; mount --bind "$2/hosts" /etc/hosts; mount -t tmpfs shm /dev/shm; exec slurmd -D -N "$1"' \
      sh "n$node" "$cluster"
  done
  cluster_wait sh -c '[ "$(sinfo -h -N -t idle -o %N | sort -u | wc -l)" -eq 2 ]'
}
# cluster_daemon NAME COMMAND...: in the background, with its output in FOLDER/run/NAME.log.
cluster_daemon() {
  setsid "${@:2}" >"$cluster/run/$1.log" 2>&1 </dev/null &
  cluster_parts+=("$!")
}
# cluster_wait COMMAND...: up to half a minute until it succeeds.
cluster_wait() {
  for _ in $(seq 150); do
    "$@" >/dev/null 2>&1 && return
    sleep 0.2
  done
  echo "the test cluster does not answer ($*)"
  tail -n 5 "$cluster"/run/*.log
  return 1
}
cluster_cut() { ip link set "$cluster_id.${1#n}" down; }
cluster_heal() { ip link set "$cluster_id.${1#n}" up; }
stop_cluster() {
  local node i
  [ -n "${cluster:-}" ] || return 0
  scancel --full --state=RUNNING --user=root >/dev/null 2>&1 || true
  for i in "${!cluster_parts[@]}"; do # the last first: nodes, controller, munged
    kill "${cluster_parts[-1 - i]}" 2>/dev/null || true
    wait "${cluster_parts[-1 - i]}" 2>/dev/null || true
  done
  for node in 1 2; do
    ip netns pids "$cluster_id-$node" 2>/dev/null | xargs -r kill -9 || true # steps that outlived their node
    ip netns del "$cluster_id-$node" 2>/dev/null || true
  done
  ip link del "$cluster_id" 2>/dev/null || true
}
