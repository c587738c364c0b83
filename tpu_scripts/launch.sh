#!/usr/bin/env bash
# Starts a run on all workers, in the background there.
#
#   launch.sh [--keep [--spot] [--queued]] ARGUMENT...
#
# ARGUMENT... is a command line, run in the folder of the code with the environment's programs first
# on the path, for example: launch.sh jaxinterp train --distributed --out /mnt/shared/runs
# (a program of your own for several workers calls jaxinterp.distributed.start() first). --keep
# stays here and watches: when the TPU is preempted it is made anew, set up, and the same command is
# started again, which should go on from its last checkpoint; it ends when the run does.
#
# Settings: RUN_ID (a name for the run; its log and process id on the workers carry it), and any of
# JAX_COMPILATION_CACHE_DIR LIBTPU_INIT_ARGS XLA_FLAGS HF_HOME, which are handed on. A run that
# is alive under the same RUN_ID is not started twice.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

keep=0
create_options=()
while (($#)); do
  case $1 in
    --keep) keep=1 ;;
    --spot | --queued) create_options+=("$1") ;;
    -h | --help) usage && exit 0 ;;
    *) break ;;
  esac
  shift
done
(($#)) || fail "no command: for example, launch.sh jaxinterp demo --distributed"
((keep == 1 || ${#create_options[@]} == 0)) || fail "${create_options[*]} goes with --keep"
begin
need RUN_ID
plain RUN_ID

folder=$REMOTE_RUNS/$RUN_ID
environment=(JAX_PLATFORMS=tpu)
for name in JAX_COMPILATION_CACHE_DIR LIBTPU_INIT_ARGS XLA_FLAGS HF_HOME; do
  if [[ -n ${!name:-} ]]; then environment+=("$name=${!name}"); fi
done
# Quoted for the worker's shell: an argument with spaces arrives as one.
printf -v words '%q ' "${environment[@]}" "$@"
start="set -e; mkdir -p $folder; \
if test -e $folder/pid && kill -0 \"\$(cat $folder/pid)\" 2>/dev/null; then echo 'already running' >&2; exit 0; fi; \
rm -f $folder/exit; \
if test -e $REMOTE_RUNS/hf_token; then HF_TOKEN=\$(cat $REMOTE_RUNS/hf_token); export HF_TOKEN; fi; \
cp $REMOTE_CODE/COMMIT $folder/commit; \
printf '%s\n' $(printf '%q' "${words% }") >$folder/command; \
nohup setsid bash -c 'home=\$PWD; cd $REMOTE_CODE; PATH=\$home/$REMOTE_VENV/bin:\$PATH; env \"\$@\" & \
echo \$! >\$home/$folder/pid; wait \$!; echo \$? >\$home/$folder/exit' run $words >>$folder/log 2>&1 </dev/null &"

on_workers "$start"
((keep == 1)) || exit 0
[[ ${DRY_RUN:-0} != 1 ]] || exit 0

# exits: the exit codes that workers have written so far, one to a line.
exits() {
  on_workers "cat $folder/exit 2>/dev/null || true" 2>/dev/null || true
}

while true; do
  sleep "${POLL_SECONDS:-60}"
  state=$(tpu_state)
  if [[ $state == READY ]]; then
    codes=$(exits)
    [[ -n $codes ]] || continue
    if ! grep -qvx 0 <<<"$codes"; then
      if (($(wc -l <<<"$codes") >= $(worker_count))); then
        say "the run is done"
        exit 0
      fi
      continue
    fi
    # A machine that is being taken away ends its run before it is gone: look once more.
    sleep "${POLL_SECONDS:-60}"
    state=$(tpu_state)
    [[ $state != READY ]] ||
      fail "the run ended with exit codes $(tr '\n' ' ' <<<"$codes"); see logs.sh"
  fi
  say "$TPU_NAME is $state: making it anew"
  "$HERE/create.sh" "${create_options[@]}"
  "$HERE/copy.sh"
  "$HERE/setup.sh"
  on_workers "$start"
done
