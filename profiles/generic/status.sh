#!/bin/sh
# Grid Engine: what has become of a job, for Snakemake: running, success or failed.
if found=$(qstat -j "$1" 2>/dev/null); then
    # A job that cannot be started stays in the queue, in error.
    case $found in *"error reason"*) echo failed ;; *) echo running ;; esac
    exit
fi
# The accounting file is written a moment after the job has left the queue.
for _ in 1 2 3 4 5 6; do
    if found=$(qacct -j "$1" 2>/dev/null); then
        # A job that was taken off a node has several records; the last one counts.
        echo "$found" | awk '$1 == "failed" {f = $2} $1 == "exit_status" {e = $2} END {print f + e ? "failed" : "success"}'
        exit
    fi
    sleep 5
done
echo failed
