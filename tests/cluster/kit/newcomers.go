// Pods that speak from their first instruction on, and pods that know what reached them: the subcommands `newcomer`,
// `witness` and `told` of our agnhost.
package kit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// MeetingPort is where witnesses listen, by TCP and UDP.
const MeetingPort = 7000

// Sight is what a witness or a newcomer saw so far, by the machine's clock.
type Sight struct {
	// Packets are the SYNs and datagrams that went out of a newcomer, or reached a witness.
	Packets []Packet `json:"packets"`
	// Attempts are those that a newcomer ended.
	Attempts []Attempt `json:"attempts"`
}

// Packet is one SYN or datagram; its key tells it from repeated ones.
type Packet struct {
	At       time.Time      `json:"at"`
	Protocol string         `json:"protocol"`
	From     netip.AddrPort `json:"from"`
	To       netip.AddrPort `json:"to"`
	Key      string         `json:"key"`
}

// Attempt is one connection, or one datagram and its answer. Outcome: ok, refused, timeout, or what else went wrong.
type Attempt struct {
	Protocol string         `json:"protocol"`
	To       netip.AddrPort `json:"to"`
	Begun    time.Time      `json:"begun"`
	Took     time.Duration  `json:"took"`
	Outcome  string         `json:"outcome"`
	Repeated int            `json:"repeated"`
}

// Kind is what an attempt is: a protocol and an address.
type Kind struct {
	Protocol string
	To       netip.AddrPort
}

// ByKind are the attempts, in order.
func (s Sight) ByKind() map[Kind][]Attempt {
	kinds := map[Kind][]Attempt{}
	for _, a := range s.Attempts {
		kind := Kind{a.Protocol, a.To}
		kinds[kind] = append(kinds[kind], a)
	}
	return kinds
}

// Transit finds the first packet of that kind among those that arrived somewhere: when it was sent, and when it arrived. That
// an attempt was answered may be owed to a repeated SYN.
func (s Sight) Transit(kind Kind, arrived []Packet) (sent, there time.Time, found bool) {
	first := slices.IndexFunc(s.Packets, func(p Packet) bool { return p.Protocol == kind.Protocol && p.To == kind.To })
	if first < 0 {
		return sent, there, false
	}
	was := s.Packets[first]
	at := slices.IndexFunc(arrived, func(p Packet) bool { return p.From == was.From && p.To == was.To && p.Key == was.Key })
	if at < 0 {
		return was.At, there, false
	}
	return was.At, arrived[at].At, true
}

// Addresses of a pod in every family that the cluster has.
func (p *Pod) Addresses() []string {
	return slices.DeleteFunc([]string{p.Four, p.Six}, func(address string) bool { return address == "" })
}

// Saw asks the pod's witness or newcomer.
func (p *Pod) Saw(t *testing.T) Sight {
	t.Helper()
	var sight Sight
	// It may not listen yet.
	Eventually(t, Patience, func() error {
		var said bytes.Buffer
		if err := p.exec(context.Background(), nil, &said, "/agnhost", "told"); err != nil {
			return fmt.Errorf("%s: %w: %s", p.Name, err, said.String())
		}
		return json.Unmarshal(said.Bytes(), &sight)
	})
	return sight
}

// Bare makes a pod of one container that runs agnhost with these arguments, and waits for nothing.
func (w *World) Bare(t *testing.T, name, node string, labels map[string]string, arguments ...string) *Pod {
	t.Helper()
	pod := manifest(name, node)
	pod.Labels = labels
	pod.Spec.Containers = []corev1.Container{{Name: "first", Image: Agnhost, ImagePullPolicy: corev1.PullNever, Args: arguments}}
	if _, err := w.Client.CoreV1().Pods(w.Namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return &Pod{Name: name, Node: node, world: w}
}

// Known is when the API server told the addresses of which pod, as a watch hears it: just as agents do.
type Known struct {
	lock sync.Mutex
	pods map[string]told
	hear func(name string, addresses []string)
}

type told struct {
	at        time.Time
	addresses []string
}

// Follow watches the world's pods until the test ends. `hear`, unless nil, is called as soon as addresses are known.
func (w *World) Follow(t *testing.T, hear func(name string, addresses []string)) *Known {
	t.Helper()
	events, err := w.Client.CoreV1().Pods(w.Namespace).Watch(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	known := &Known{pods: map[string]told{}, hear: hear}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range events.ResultChan() {
			if pod, ok := event.Object.(*corev1.Pod); ok && event.Type != watch.Deleted {
				known.note(pod)
			}
		}
	}()
	t.Cleanup(func() {
		events.Stop()
		<-done
	})
	return known
}

func (k *Known) note(pod *corev1.Pod) {
	now := time.Now()
	var addresses []string
	for _, address := range pod.Status.PodIPs {
		addresses = append(addresses, address.IP)
	}
	k.lock.Lock()
	_, before := k.pods[pod.Name]
	if !before && len(addresses) > 0 {
		k.pods[pod.Name] = told{now, addresses}
	}
	k.lock.Unlock()
	if !before && len(addresses) > 0 && k.hear != nil {
		k.hear(pod.Name, addresses)
	}
}

// Since waits until the pod's addresses are known, takes them, and says since when they are.
func (k *Known) Since(t *testing.T, pod *Pod) time.Time {
	t.Helper()
	var found told
	Eventually(t, Patience, func() error {
		k.lock.Lock()
		defer k.lock.Unlock()
		var ok bool
		if found, ok = k.pods[pod.Name]; !ok {
			return fmt.Errorf("nobody told the addresses of %s", pod.Name)
		}
		return nil
	})
	for _, address := range found.addresses {
		if strings.Contains(address, ":") {
			pod.Six = address
		} else {
			pod.Four = address
		}
	}
	return found.at
}

// Caller runs a newcomer in a pod that is there already. It attempts each address that it is told, at once.
func (p *Pod) Caller(t *testing.T, patience time.Duration) (call func(address string)) {
	t.Helper()
	input, feed := io.Pipe()
	go func() {
		var said bytes.Buffer
		err := p.exec(context.Background(), input, &said, "/agnhost", "newcomer", "--pause=100ms", "--patience="+patience.String())
		_ = input.CloseWithError(fmt.Errorf("the caller in %s ended: %v %s", p.Name, err, said.String()))
	}()
	// It goes on until its pod ends.
	t.Cleanup(func() { _ = feed.Close() })
	p.Saw(t)
	return func(address string) {
		if _, err := fmt.Fprintln(feed, address); err != nil {
			t.Error(err)
		}
	}
}
