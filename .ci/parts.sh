# Parts of a script that run beside each other. Sourced by bash (5.1 or newer) with `set -m`.
#
#     begin NAME COMMAND [ARGUMENT]...   start a part in the background, with a log of its own
#     next                               wait until some part ends, and print its log with its time
#     ended NAME...                      wait until these have ended; if any part has failed by then, finish
#     finish                             wait for all of them; if any has failed, leave the script
#     limit SECONDS                      parts that run longer, counted from now, are interrupted and have failed

declare -A part_name=() part_since=() part_log=()
part_failed=()
part_clock=
part_logs=$(mktemp -d)
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

begin() {
    printf '\n== %s: begins at %ss\n' "$1" "$SECONDS"
    local log
    log=$(mktemp "$part_logs/XXXXXX")
    "${@:2}" </dev/null >"$log" 2>&1 &
    part_name[$!]=$1
    part_since[$!]=$SECONDS
    part_log[$!]=$log
}

next() {
    local pid='' code=0
    wait -n -p pid "${!part_name[@]}" ${part_clock:+"$part_clock"} || code=$?
    if [[ $pid == "$part_clock" ]]; then
        out_of_time
        return
    fi
    report "$pid" "$code"
}

report() {
    local name=${part_name[$1]} seconds=$((SECONDS - part_since[$1])) how="took"
    if (($2)); then
        how="FAILED with $2 after"
        part_failed+=("$name")
    fi
    unset "part_name[$1]"
    printf '\n== %s: %s %ss (at %ss)\n' "$name" "$how" "$seconds" "$SECONDS"
    cat "${part_log[$1]}"
}

ended() {
    local name
    for name in "$@"; do
        while [[ $'\n'$(printf '%s\n' "${part_name[@]}")$'\n' == *$'\n'"$name"$'\n'* ]]; do next; done
    done
    if ((${#part_failed[@]})); then finish; fi
}

finish() {
    while ((${#part_name[@]})); do next; done
    if ((${#part_failed[@]})); then
        printf '\n== FAILED: %s\n' "${part_failed[@]}"
        exit 1
    fi
}

limit() {
    sleep "$1" &
    part_clock=$!
}

# Interrupted first, so that a test tells where it stood
out_of_time() {
    local pid code
    printf '\n== out of time (at %ss)\n' "$SECONDS"
    part_clock=
    end_parts INT
    sleep 20
    end_parts KILL
    for pid in "${!part_name[@]}"; do
        code=0
        wait "$pid" || code=$?
        report "$pid" $((code ? code : 124))
    done
}

# At the end of the script: nothing stays behind, and what a part has said until now is not lost
leave() {
    local pid
    {
        end_parts KILL
        wait
    } 2>/dev/null
    for pid in "${!part_name[@]}"; do
        printf '\n== %s: was running; the last it said\n' "${part_name[$pid]}"
        tail -n 50 "${part_log[$pid]}"
    done
    rm -rf "$part_logs"
}

end_parts() {
    local pid
    for pid in "${!part_name[@]}" ${part_clock:+"$part_clock"}; do kill -"$1" -- "-$pid" 2>/dev/null || true; done
}
