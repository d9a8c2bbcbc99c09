# shellcheck shell=bash disable=SC2034
# What the scripts of this directory share. Each follows one way of use literally, as root on a
# throw-away copy of this machine (see dev/sandbox), with a Kafka and a PostgreSQL that
# dev/package-test has started.
#
# Needs in the environment: KAFKA_BROKERS, DATABASE_URL (an administrator's), POSTGRES_BIN,
# WRITER_URL and WRITER_PASSWORD (a role's that has to say its password).

# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

ok() { say "ok: $*"; }

check() { # WHAT FOUND WANTED
    [[ $2 == "$3" ]] || die 1 "wrong: $1: is '$2', not '$3'"
    ok "$1: $2"
}

# Waits for COMMAND to succeed.
await() { # SECONDS WHAT COMMAND...
    local until=$(($(now_ms) + $1 * 1000)) what=$2
    shift 2
    until "$@"; do
        [[ $(now_ms) -lt $until ]] || {
            journalctl --no-pager -n 30 >&2
            die 1 "not in time: $what"
        }
        sleep 0.2
    done
}

# The commands that stand in the head of a file, indented, each with WRITER_PASSWORD as what is typed.
follow() { # FILE
    local line
    while read -r line; do
        # Two spaces begin a comment.
        line=${line%%  *#*}
        say "\$ $line"
        bash -ec "$line" <<<"$WRITER_PASSWORD" || die 1 "wrong: $1: this command failed: $line"
    done < <(sed -n '/^[^#]/q; s/^#     \([a-z].*\)$/\1/p' "$1" | grep -v '^[0-9]')
}

sql() { "$POSTGRES_BIN/psql" -X -q -A -t -v ON_ERROR_STOP=1 -d "$DATABASE_URL" -c "$1"; }

# Records that become rows.
produce() { # COUNT
    local n
    for ((n = 0; n < $1; n++)); do
        printf 'AAPL\t{"symbol":"AAPL","price":%d.25,"timestamp":1709562600}\n' $((n + 1))
    done | kcat -P -b "$KAFKA_BROKERS" -t stock_prices -K '\t'
}

# Whether everything in Kafka is in PostgreSQL.
caught_up() {
    local ends
    ends=$(kcat -Q -b "$KAFKA_BROKERS" -t stock_prices:0:-1 -t stock_prices:1:-1 -t stock_prices:2:-1 |
        awk '{ sum += $NF } END { print sum }')
    [[ $(sql "SELECT sum(next_offset) FROM writer_offsets WHERE topic = 'stock_prices'" 2>/dev/null) == "$ends" ]] &&
        [[ $(sql "SELECT count(*) FROM stock_prices") == "$ends" ]]
}
