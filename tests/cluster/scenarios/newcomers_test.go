// New pods, made by the kubelet: what they send from their first instruction on, long before anybody is told their address.
// What is denied never arrives, what is allowed is never lost. The witness is what the server's interface saw, not the client.
package scenarios

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"podgate/tests/cluster/kit"
)

// roles: a mute pod may not send, a stranger is not let in, a friend is by its label alone, at both ends.
const roles = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: mute}
spec:
  podSelector: {matchLabels: {role: mute}}
  policyTypes: [Egress]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friend}
spec:
  podSelector: {matchLabels: {role: friend}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {role: witness}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: witness}
spec:
  podSelector: {matchLabels: {role: witness}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {matchExpressions: [{key: role, operator: In, values: [mute, friend]}]}}]}]
`

// newcomer is a pod that attempts all witnesses from its first instruction on.
type newcomer struct {
	*kit.Pod
	role  string
	known time.Time
}

// trial is a world with a witness on each node, and what is measured of newcomers in it.
type trial struct {
	*kit.World
	known     *kit.Known
	witnesses []*kit.Pod
	targets   []string
	made      int
	early     []time.Duration // how long before the API server told its address a pod had sent its first packet
	transits  []time.Duration // of the first packet of each kind of a friend
	after     []time.Duration // of this what came after the address was told, and the packet was sent
	waits     []time.Duration // of first attempts; those by IPv6 wait for the CNI's link to the pod (duplicate address detection)
	repeated  int
}

func TestNewPodsLeakNothingAndLoseNothing(t *testing.T) {
	w := kit.NewWorld(t)
	w.Apply(t, roles)
	tr := &trial{World: w, known: w.Follow(t, nil)}
	for _, node := range []string{"n1", "n2"} {
		tr.witnesses = append(tr.witnesses, w.Bare(t, "witness-"+node, node, map[string]string{"role": "witness"}, "witness"))
	}
	for _, witness := range tr.witnesses {
		tr.known.Since(t, witness)
		witness.Saw(t) // it listens
		tr.targets = append(tr.targets, witness.Addresses()...)
	}
	held, denied := tr.counters(t)

	// One after the other, then many at once.
	var newcomers []*newcomer
	for round := range 3 {
		for _, node := range []string{"n1", "n2"} {
			for _, role := range []string{"mute", "stranger", "friend"} {
				n := tr.arrive(t, role, node)
				newcomers = append(newcomers, n)
				if round == 0 {
					tr.known.Since(t, n.Pod)
				}
			}
		}
	}
	tr.judge(t, newcomers)

	heldNow, deniedNow := tr.counters(t)
	t.Logf("%d pods sent %s before the API server told their address; %v packets held, %v denied past a bound",
		tr.made, spread(tr.early), heldNow-held, deniedNow-denied)
	t.Logf("first packets of friends arrived after %s, of this %s after the address was told; attempts took %s, %d SYNs were repeated",
		spread(tr.transits), spread(tr.after), spread(tr.waits), tr.repeated)
	// Else nothing of this was shown: every pod was known before it spoke.
	if heldNow-held < float64(tr.made) {
		t.Errorf("of %d new pods only %v packets were held", tr.made, heldNow-held)
	}
}

func (tr *trial) arrive(t *testing.T, role, node string) *newcomer {
	t.Helper()
	tr.made++
	arguments := []string{"newcomer"}
	if role != "friend" {
		arguments = append(arguments, "--patience=250ms")
	}
	name := fmt.Sprintf("%s-%d", role, tr.made)
	return &newcomer{Pod: tr.Bare(t, name, node, map[string]string{"role": role}, append(arguments, tr.targets...)...), role: role}
}

// judge waits until each has attempted everything often enough after it was known, and looks at what came of it.
func (tr *trial) judge(t *testing.T, newcomers []*newcomer) {
	t.Helper()
	for _, n := range newcomers {
		n.known = tr.known.Since(t, n.Pod)
	}
	sights := make([]kit.Sight, len(newcomers))
	for i, n := range newcomers {
		sights[i] = tr.untilTried(t, n)
	}
	var arrived []kit.Packet
	for _, witness := range tr.witnesses {
		arrived = append(arrived, witness.Saw(t).Packets...)
	}
	for i, n := range newcomers {
		if n.role == "friend" {
			tr.losesNothing(t, n, sights[i], arrived)
		} else {
			leaksNothing(t, n.Pod, sights[i].Attempts, arrived)
		}
		if sent := sights[i].Packets; len(sent) > 0 {
			tr.early = append(tr.early, n.known.Sub(sent[0].At))
		}
	}
}

// untilTried asks a newcomer until it has begun and ended five attempts of each kind after it was known.
func (tr *trial) untilTried(t *testing.T, n *newcomer) (sight kit.Sight) {
	t.Helper()
	kit.Eventually(t, kit.Patience, func() error {
		sight = n.Saw(t)
		kinds := sight.ByKind()
		if len(kinds) < 2*len(tr.targets) {
			return fmt.Errorf("%s has attempted only %d of %d", n.Name, len(kinds), 2*len(tr.targets))
		}
		for kind, attempts := range kinds {
			late := slices.DeleteFunc(slices.Clone(attempts), func(a kit.Attempt) bool { return a.Begun.Before(n.known) })
			if len(late) < 5 {
				return fmt.Errorf("%s has attempted %v only %d times since it is known", n.Name, kind, len(late))
			}
		}
		return nil
	})
	return sight
}

// leaksNothing fails the test unless all attempts of a pod that is denied everything waited in vain, and nothing of it arrived.
func leaksNothing(t *testing.T, denied *kit.Pod, attempts []kit.Attempt, arrived []kit.Packet) {
	t.Helper()
	for _, a := range attempts {
		if a.Outcome != "timeout" {
			t.Errorf("%s, which is denied everything: %+v", denied.Name, a)
		}
	}
	for _, p := range arrived {
		if slices.Contains(denied.Addresses(), p.From.Addr().String()) {
			t.Errorf("a packet of %s leaked: %+v", denied.Name, p)
		}
	}
}

func (tr *trial) losesNothing(t *testing.T, n *newcomer, saw kit.Sight, arrived []kit.Packet) {
	t.Helper()
	for kind, attempts := range saw.ByKind() {
		for _, a := range attempts {
			if a.Outcome != "ok" {
				t.Errorf("%s, which is allowed, known %v: %+v", n.Name, n.known, a)
			}
		}
		tr.waits = append(tr.waits, attempts[0].Took)
		tr.repeated += attempts[0].Repeated
		sent, there, found := saw.Transit(kind, arrived)
		if !found {
			t.Errorf("the first packet of %s, known %v, by %v did not arrive: %+v", n.Name, n.known, kind, attempts[0])
			continue
		}
		tr.transits = append(tr.transits, there.Sub(sent))
		if n.known.After(sent) {
			sent = n.known
		}
		tr.after = append(tr.after, there.Sub(sent))
	}
}

// counters are, over both nodes, packets that were held, and those denied because that ended without an answer.
func (tr *trial) counters(t *testing.T) (held, denied float64) {
	t.Helper()
	for _, node := range []string{"n1", "n2"} {
		for name, value := range map[string]*float64{"podgate_held_packets_total": &held, "podgate_hold_denied_packets_total": &denied} {
			one, err := tr.Agent(node).Metric(name)
			if err != nil {
				t.Fatal(err)
			}
			*value += one
		}
	}
	return held, denied
}

// spread is the median and the most of durations.
func spread(all []time.Duration) string {
	if len(all) == 0 {
		return "none"
	}
	slices.Sort(all)
	return fmt.Sprintf("median %v, most %v", all[len(all)/2].Round(time.Millisecond/10), all[len(all)-1].Round(time.Millisecond/10))
}

// inbound: only callers may speak to new witnesses, and callers to nobody else.
const inbound = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: caller}
spec:
  podSelector: {matchLabels: {role: caller}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {role: witness}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: witness}
spec:
  podSelector: {matchLabels: {role: witness}}
  ingress: [{from: [{podSelector: {matchLabels: {role: caller}}}]}]
`

func TestNewPodsAreReachedAsSoonAsTheirAddressIsTold(t *testing.T) {
	w := kit.NewWorld(t)
	w.Apply(t, inbound)
	var lock sync.Mutex
	var calls []func(string)
	known := w.Follow(t, func(name string, addresses []string) {
		lock.Lock()
		defer lock.Unlock()
		for _, call := range calls {
			for _, address := range addresses {
				call(address)
			}
		}
	})
	var callers []*kit.Pod
	for _, role := range []string{"caller", "stranger"} {
		for _, node := range []string{"n1", "n2"} {
			pod := w.Bare(t, role+"-"+node, node, map[string]string{"role": role}, "pause")
			known.Since(t, pod)
			callers = append(callers, pod)
		}
	}
	for n, caller := range callers {
		patience := 20 * time.Second
		if n >= 2 {
			patience = 250 * time.Millisecond
		}
		call := caller.Caller(t, patience)
		lock.Lock()
		calls = append(calls, call)
		lock.Unlock()
	}

	var fresh []*kit.Pod
	for n := range 8 {
		pod := w.Bare(t, fmt.Sprintf("witness-%d", n), fmt.Sprintf("n%d", 1+n%2), map[string]string{"role": "witness"}, "witness")
		fresh = append(fresh, pod)
		if n < 2 {
			known.Since(t, pod) // the first two one after the other, the others at once
		}
	}
	var transits, waits []time.Duration
	repeated := 0
	for _, pod := range fresh {
		since := known.Since(t, pod)
		tried := make([]kit.Sight, len(callers))
		for n, caller := range callers {
			tried[n] = untilCalled(t, caller, pod)
		}
		arrived := pod.Saw(t).Packets
		for n, caller := range callers {
			for kind, attempts := range tried[n].ByKind() {
				if !slices.Contains(pod.Addresses(), kind.To.Addr().String()) {
					continue
				}
				if n >= 2 {
					leaksNothing(t, caller, attempts, arrived)
					continue
				}
				// Refused: it was reached before it listened.
				first := attempts[0]
				sent, there, found := tried[n].Transit(kind, arrived)
				if first.Outcome != "refused" && (first.Outcome != "ok" || !found) {
					t.Errorf("%s → %s, known %v, lost its first packet: %+v", caller.Name, pod.Name, since, first)
				}
				if found {
					transits = append(transits, there.Sub(sent))
				}
				waits = append(waits, first.Took)
				repeated += first.Repeated
			}
		}
	}
	t.Logf("first packets to %d new pods as soon as their address was told arrived after %s; attempts took %s, %d SYNs were repeated",
		len(fresh), spread(transits), spread(waits), repeated)
}

// untilCalled asks a caller until it has ended three attempts of each kind at a pod.
func untilCalled(t *testing.T, caller, pod *kit.Pod) (sight kit.Sight) {
	t.Helper()
	kit.Eventually(t, kit.Patience, func() error {
		sight = caller.Saw(t)
		kinds := sight.ByKind()
		for _, address := range pod.Addresses() {
			for _, protocol := range []string{"tcp", "udp"} {
				to := netip.AddrPortFrom(netip.MustParseAddr(address), kit.MeetingPort)
				if tried := len(kinds[kit.Kind{Protocol: protocol, To: to}]); tried < 3 {
					return fmt.Errorf("%s has attempted %s %s %d times", caller.Name, protocol, to, tried)
				}
			}
		}
		return nil
	})
	return sight
}
