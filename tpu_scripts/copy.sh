#!/usr/bin/env bash
# Copies the committed code to all workers.
#
#   copy.sh
#
# What is sent is the last commit, so that a run can be traced to it; uncommitted changes are
# refused unless ALLOW_DIRTY=1 (they are not sent either way).

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
  '') ;;
  -h | --help) usage && exit 0 ;;
  *) fail "unknown argument '$1'" ;;
esac
begin
commit=$(git -C "$HERE" rev-parse HEAD)
if [[ -n $(git -C "$HERE" status --porcelain) && ${ALLOW_DIRTY:-0} != 1 ]]; then
  fail "there are uncommitted changes, which would not be sent: commit them, or set ALLOW_DIRTY=1"
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
archive=$folder/jaxinterp.tar.gz
git -C "$(git -C "$HERE" rev-parse --show-toplevel)" archive --format=tar.gz --output="$archive" HEAD
[[ ${DRY_RUN:-0} != 1 ]] || archive=jaxinterp.tar.gz
tpu scp "$archive" "$TPU_NAME:jaxinterp.tar.gz" --worker=all
# Unpacked beside and moved into place, so that a broken transfer leaves the old code.
on_workers "set -e; rm -rf $REMOTE_CODE.new; mkdir $REMOTE_CODE.new; tar -xzf jaxinterp.tar.gz -C $REMOTE_CODE.new; echo $commit >$REMOTE_CODE.new/COMMIT; rm -rf $REMOTE_CODE; mv $REMOTE_CODE.new $REMOTE_CODE"
