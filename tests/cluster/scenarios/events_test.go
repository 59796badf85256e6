// What happens to a cluster: agents are replaced, the API server goes away, a node fails.
package scenarios

import (
	"fmt"
	"strings"
	"testing"

	"podgate/tests/cluster/kit"
)

// travellers are a server on n1 that only `friend` may reach, and only on its first port.
func travellers(t *testing.T, w *kit.World) (web, friend, stranger *kit.Pod) {
	t.Helper()
	pods := w.Pods(t, "web=n1", "friend=n2", "stranger=n1")
	web, friend, stranger = pods[0], pods[1], pods[2]
	w.Apply(t, allowWeb)
	w.Denies(t, friend, kit.TCP(web.Four, kit.Second))
	w.Denies(t, stranger, kit.TCP(web.Four, kit.HTTP))
	w.Allows(t, friend, kit.TCP(web.Four, kit.HTTP))
	return web, friend, stranger
}

func TestRollingUpdateUnderTraffic(t *testing.T) {
	w := kit.NewWorld(t)
	web, friend, _ := travellers(t, w)
	before := map[string]bool{}
	for _, node := range []string{"n1", "n2"} {
		for _, pod := range w.Agent(node).Pods(t) {
			before[pod.Name] = true
		}
	}

	traffic := friend.Traffic(t, kit.TCP(web.Four, kit.HTTP), kit.TCP(web.Four, kit.Second))
	w.Kubectl(t, "", "--namespace", kit.System, "rollout", "restart", "daemonset/podgate")
	w.Kubectl(t, "", "--namespace", kit.System, "rollout", "status", "daemonset/podgate", "--timeout=180s")
	traffic.Stop(t).Unbroken(t)

	for _, node := range []string{"n1", "n2"} {
		for _, pod := range w.Agent(node).Pods(t) {
			if before[pod.Name] {
				t.Errorf("%s was not replaced", pod.Name)
			}
		}
		w.Agent(node).WaitReady(t)
	}
}

func TestAgentKilledUnderTraffic(t *testing.T) {
	w := kit.NewWorld(t)
	web, friend, _ := travellers(t, w)
	traffic := friend.Traffic(t, kit.TCP(web.Four, kit.HTTP), kit.TCP(web.Four, kit.Second))
	w.Agent("n1").Kill(t)
	w.Agent("n1").WaitReady(t)
	result := traffic.Stop(t)
	// New connections wait for the next agent, or are dropped: fail-closed. What was accepted goes on.
	if result.Established.Failed > 0 || result.Established.Dials != 1 {
		t.Errorf("an accepted connection was disturbed: %+v", result.Established)
	}
	result.Closed(t)
	w.Allows(t, friend, kit.TCP(web.Four, kit.HTTP))
}

func TestAPIServerAway(t *testing.T) {
	w := kit.NewWorld(t)
	web, friend, stranger := travellers(t, w)
	traffic := friend.Traffic(t, kit.TCP(web.Four, kit.HTTP), kit.TCP(web.Four, kit.Second))
	w.Script(t, "apiserver", "kill")
	back := false
	restore := func() {
		if !back {
			w.Script(t, "apiserver", "start")
			back = true
		}
	}
	t.Cleanup(restore)

	// It goes on with what it knows, and says since when.
	w.Agent("n1").WaitSays(t, "not followed")
	w.Denies(t, stranger, kit.TCP(web.Four, kit.HTTP))
	w.Allows(t, friend, kit.TCP(web.Four, kit.HTTP))
	traffic.Stop(t).Unbroken(t)

	// One that starts meanwhile knows it from disk, and says so.
	w.Agent("n1").Kill(t)
	restored(t, w.Agent("n1"), 1)
	w.Denies(t, stranger, kit.TCP(web.Four, kit.HTTP))
	w.Denies(t, friend, kit.TCP(web.Four, kit.Second))
	w.Allows(t, friend, kit.TCP(web.Four, kit.HTTP))

	// When it is back, changes take effect again.
	restore()
	for _, node := range []string{"n1", "n2"} {
		w.Agent(node).WaitReady(t)
	}
	w.Delete(t, "networkpolicy/allow-web")
	w.Allows(t, stranger, kit.TCP(web.Four, kit.HTTP))
	restored(t, w.Agent("n1"), 0)
}

// restored waits until the agent says whether (1 or 0) it enforces a world from disk.
func restored(t *testing.T, agent kit.Agent, whether float64) {
	t.Helper()
	kit.Eventually(t, kit.Patience, func() error {
		value, err := agent.Metric("podgate_restored_world")
		if err == nil && value != whether {
			err = fmt.Errorf("podgate_restored_world is %v on %s", value, agent.Node)
		}
		return err
	})
}

func TestNodeFailsAndComesBack(t *testing.T) {
	w := kit.NewWorld(t)
	web, friend, stranger := travellers(t, w)
	w.Script(t, "node", "fail", "n1")
	restarted := false
	restore := func() {
		if !restarted {
			w.Script(t, "node", "start", "n1")
			restarted = true
		}
	}
	t.Cleanup(restore)
	w.Denies(t, friend, kit.TCP(web.Four, kit.HTTP)) // nobody is there

	// Policies change while it is away.
	w.Apply(t, strings.ReplaceAll(allowWeb, "port: 8080", "port: 9090"))
	restore()
	w.Kubectl(t, "", "wait", "--for=condition=Ready", "node/n1", "--timeout=90s")
	w.Agent("n1").WaitReady(t)
	for _, pod := range []*kit.Pod{web, stranger} {
		pod.WaitRestarted(t)
	}
	w.Denies(t, friend, kit.TCP(web.Four, kit.HTTP))
	w.Denies(t, stranger, kit.TCP(web.Four, kit.Second))
	w.Allows(t, friend, kit.TCP(web.Four, kit.Second))
}
