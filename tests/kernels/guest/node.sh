# A node for the checks: this guest's own namespace, with two pods and a client beside it. Sourced.
set -u
shopt -s lastpipe
failures=0
FLAGS=(--hostname-override=node-a --cluster-cidr=10.244.0.0/16,fd00:10:244::/48 --manifests=/run/manifests)

fail() { echo "FAILED: $*"; failures=$((failures + 1)); }
finish() { exit $((failures > 0)); }
trap 'code=$?; [ "$failures" -eq 0 ] || code=1; exit $code' EXIT

# within SECONDS WHAT COMMAND...: waits until a command succeeds.
within() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ $SECONDS -lt $deadline ] || { fail "$what: not in time"; return 1; }
        sleep 0.2
    done
}

test_equal() {
    local is
    is=$($1)
    [ "$is" = "$2" ] || { echo "is $is, should be $2"; return 1; }
}

# The objects that Portway is given.
make_manifests() {
    mkdir -p /run/manifests
    cp /kernels/objects.yaml /run/manifests/
}

# A namespace with an address in both families, and the way to it and back.
make_place() {
    local name=$1 address4=$2 address6=$3
    ip netns add "$name"
    ip link add "to-$name" type veth peer name eth0 netns "$name"
    ip link set "to-$name" up
    ip -n "$name" link set lo up
    ip -n "$name" link set eth0 up
    ip address add 192.168.7.1/32 dev "to-$name"
    ip -n "$name" address add "$address4/32" dev eth0
    ip -n "$name" route add 192.168.7.1 dev eth0
    ip -n "$name" route add default via 192.168.7.1
    ip route add "$address4" dev "to-$name"
    [ -e /proc/sys/net/ipv6 ] || return 0
    ip address add fd00:7::1/128 dev "to-$name" nodad
    ip -n "$name" address add "$address6/128" dev eth0 nodad
    ip -n "$name" route add fd00:7::1 dev eth0
    ip -n "$name" route add default via fd00:7::1
    ip route add "$address6" dev "to-$name"
}

make_node() {
    sysctl -qw net.ipv4.ip_forward=1
    [ ! -e /proc/sys/net/ipv6 ] || sysctl -qw net.ipv6.conf.all.forwarding=1
    make_place pod-a 10.244.0.2 fd00:10:244::2
    make_place pod-b 10.244.0.3 fd00:10:244::3
    make_place client 192.168.7.2 fd00:7::2
    for pod in pod-a pod-b; do
        ip netns exec $pod python3 /kernels/sockets.py serve $pod </dev/null >/run/$pod.log 2>&1 &
    done
    for pod in 10.244.0.2 10.244.0.3; do
        within 30 "an answer of $pod" answers $pod
    done
}

answers() { ask "$1" 8080 tcp | grep -q '^pod'; }

# ask ADDRESS PORT PROTOCOL: connects from the client and prints who answered, or why nobody did.
ask() { ip netns exec client python3 /kernels/sockets.py ask "$@"; }

start_portway() {
    make_manifests
    portway run "${FLAGS[@]}" "$@" >/run/portway.log 2>&1 &
    portway_pid=$!
    within 60 "the first sync" grep -q 'first sync done' /run/portway.log
    grep -v FLAG /run/portway.log
}

stop_portway() {
    kill $portway_pid
    wait $portway_pid || fail "run ended with $?"
    portway cleanup
}
