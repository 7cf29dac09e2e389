# shellcheck shell=bash
# What the scripts beside this file share. Sourced, never run.

BUREAU_USER=bureau
BUREAU_BIN=/usr/local/bin/bureau
BUREAU_DATA=/var/lib/bureau
BUREAU_CACHE=/var/cache/bureau
BUREAU_ETC=/etc/bureau
BUREAU_RUN=/run/bureau
BUREAU_LOG=/var/log/bureau
BUREAU_PID=$BUREAU_RUN/serve.pid
BUREAU_UNIT=/etc/systemd/system/bureau.service
export BUREAU_USER BUREAU_BIN BUREAU_DATA BUREAU_CACHE BUREAU_ETC BUREAU_RUN BUREAU_LOG BUREAU_PID BUREAU_UNIT

# Tools of root's are not in every user's PATH, nor Go in root's.
export PATH="$PATH:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Some machines start their jobs without one, and Go's caches are in it.
export HOME="${HOME:-/root}"

# These scripts speak to the appliance of this host, whichever one the caller has been using.
unset BUREAU_URL BUREAU_KEY BUREAU_CA

say() { printf '%s\n' "$*"; }
die() {
	printf 'bureau: %s\n' "$*" >&2
	exit 1
}

# as_root runs a command as root, by sudo where needed.
as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	else
		command -v sudo >/dev/null || die "this needs root, and there is no sudo: run it as root"
		sudo "$@"
	fi
}

# systemd tells whether systemd runs this machine.
systemd() { [ -d /run/systemd/system ]; }

# stage NAME COMMAND… runs a part of something longer and says how long it took.
stage() {
	local name=$1 began took
	shift
	say "── $name"
	began=$(date +%s%N)
	"$@"
	took=$((($(date +%s%N) - began) / 100000000))
	STAGES+=("$(printf '%-28s %6d.%d s' "$name" $((took / 10)) $((took % 10)))")
}
STAGES=()

# stages prints how long each took.
stages() {
	say
	printf '%s\n' "${STAGES[@]}"
}

# try COUNT COMMAND… runs a command until it succeeds: mirrors and networks hiccup.
try() {
	local left=$1
	shift
	until "$@"; do
		left=$((left - 1))
		[ "$left" -gt 0 ] || return 1
		say "   trying again: $*"
		sleep 5
	done
}

# serving prints the process id of an appliance that up started without systemd.
serving() {
	local pid
	pid=$(cat "$BUREAU_PID" 2>/dev/null) || return 1
	case $pid in '' | *[!0-9]*) return 1 ;; esac
	# The number may be another process's by now.
	{ tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -q "^$BUREAU_BIN serve" || return 1
	printf '%s\n' "$pid"
}

# detach COMMAND… runs it in the background, in a session of its own, its standard input empty. No
# descriptor of the caller's beyond the first three is kept, or whoever waits for its end would wait for
# that of the command.
detach() {
	# shellcheck disable=SC2016
	setsid --fork /bin/bash -c '
		for fd in /proc/self/fd/*; do
			fd=${fd##*/}
			if [ "$fd" -gt 2 ]; then exec {fd}>&-; fi
		done
		exec "$@"' detach "$@" </dev/null
}
