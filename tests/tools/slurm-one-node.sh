#!/bin/bash
# A real Slurm of one node for tests/slurm.rs (Debian, root, no systemd): munge, slurmctld and slurmd, two pretended GPUs, and two partitions, of
# which `high` takes what `low` runs on. `up` | `down`.
set -euo pipefail
host=$(hostname -s)
up() {
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge >/dev/null
  mkdir -p /run/munge /var/spool/slurmctld /var/spool/slurmd /var/log/slurm
  chown munge: /run/munge
  chown slurm: /var/spool/slurmctld /var/log/slurm
  touch /run/slurmctld.pid && chown slurm: /run/slurmctld.pid
  cat >/etc/slurm/slurm.conf <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=slurm
AuthType=auth/munge
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
SchedulerType=sched/backfill
ReturnToService=2
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
KillWait=5
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=2000 Gres=gpu:2 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
  printf 'Name=gpu File=/dev/null Count=1\nName=gpu File=/dev/zero Count=1\n' >/etc/slurm/gres.conf
  runuser -u munge -- munged
  slurmctld
  slurmd
  for _ in $(seq 40); do sinfo -h -o %t 2>/dev/null | grep -q idle && break; sleep 0.5; done
  sinfo
}
down() {
  for pid in $(pgrep -x slurmd) $(pgrep -x slurmctld) $(pgrep -x munged); do kill "$pid"; done || true
}
"${1:-up}"
