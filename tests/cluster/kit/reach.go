// What passes: single attempts out of a pod, and expectations about them.
package kit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
)

// Effect is how long a change of policy may take until it is seen by attempts out of a pod. The goal is milliseconds;
// this is the patience of a test on a machine that does much else, and bench/ measures the goal.
const Effect = 15 * time.Second

// Target is an address to speak to.
type Target struct {
	Protocol string // tcp or udp
	Address  string
}

func (t Target) String() string { return t.Protocol + " " + t.Address }

// TCP is that port of an address.
func TCP(address string, port int) Target { return target("tcp", address, port) }

// UDP is that port of an address; what is sent is a request with a short answer, like a DNS query.
func UDP(address string, port int) Target { return target("udp", address, port) }

func target(protocol, address string, port int) Target {
	return Target{protocol, net.JoinHostPort(address, strconv.Itoa(port))}
}

// Allows waits until the attempt succeeds.
func (w *World) Allows(t *testing.T, from *Pod, to Target) {
	t.Helper()
	Eventually(t, Effect, func() error {
		if err := from.attempt(to); err != nil {
			return fmt.Errorf("%s → %s should pass: %w", from.Name, to, err)
		}
		return nil
	})
}

// Denies waits until the attempt gets no answer at all. A refusal is an answer: something came through.
func (w *World) Denies(t *testing.T, from *Pod, to Target) {
	t.Helper()
	Eventually(t, Effect, func() error {
		err := from.attempt(to)
		if err == nil {
			return fmt.Errorf("%s → %s should not pass", from.Name, to)
		}
		if !strings.Contains(err.Error(), "TIMEOUT") {
			return fmt.Errorf("%s → %s should get no answer: %w", from.Name, to, err)
		}
		return nil
	})
}

// StillDenies tries three times, and none may succeed: for what no change under way could explain.
func (w *World) StillDenies(t *testing.T, from *Pod, to Target) {
	t.Helper()
	for range 3 {
		if from.attempt(to) == nil {
			t.Fatalf("%s → %s should not have passed", from.Name, to)
		}
	}
}

func (p *Pod) attempt(to Target) error {
	var said bytes.Buffer
	err := p.exec(context.Background(), nil, &said, "/agnhost", "connect", to.Address, "--protocol="+to.Protocol, "--timeout=500ms")
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}

// exec runs a command in the pod's first container. It asks the kubelet, as the API server would, so that it works
// while that is away.
func (p *Pod) exec(ctx context.Context, input io.Reader, output io.Writer, command ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*Patience)
	defer cancel()
	config := &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	at := url.URL{Scheme: "https", Host: net.JoinHostPort(NodeAddress(p.Node), "10250"),
		Path:     fmt.Sprintf("/exec/%s/%s/first", p.world.Namespace, p.Name),
		RawQuery: url.Values{"command": command, "output": {"1"}, "error": {"1"}, "input": flag(input != nil)}.Encode()}
	executor, err := remotecommand.NewSPDYExecutor(config, "POST", &at)
	if err != nil {
		return err
	}
	return executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: input, Stdout: output, Stderr: output})
}

func flag(set bool) []string {
	if set {
		return []string{"1"}
	}
	return nil
}

// NodeAddress is the IPv4 address of node n1, n2, …: lib/settings gives them.
func NodeAddress(node string) string { return "172.30.0.1" + strings.TrimPrefix(node, "n") }

// NodeAddress6 is its IPv6 address.
func NodeAddress6(node string) string { return "fd00:30::1" + strings.TrimPrefix(node, "n") }

// Passes waits until the test itself, which is outside all nodes, gets a connection.
func Passes(t *testing.T, to Target) {
	t.Helper()
	Eventually(t, Effect, func() error {
		connection, err := net.DialTimeout(to.Protocol, to.Address, time.Second)
		if err != nil {
			return fmt.Errorf("from outside to %s: %w", to, err)
		}
		return connection.Close()
	})
}

// Stops waits until the test itself gets no answer.
func Stops(t *testing.T, to Target) {
	t.Helper()
	Eventually(t, Effect, func() error {
		connection, err := net.DialTimeout(to.Protocol, to.Address, 500*time.Millisecond)
		var timeout net.Error
		switch {
		case err == nil:
			_ = connection.Close()
			return fmt.Errorf("from outside to %s should not pass", to)
		case !errors.As(err, &timeout) || !timeout.Timeout():
			return fmt.Errorf("from outside to %s should get no answer: %w", to, err)
		}
		return nil
	})
}
