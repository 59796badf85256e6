package deploy

import (
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
)

// tight is the Pod of the overlay seccomp, whose profile is deploy/seccomp/podgate.json.
func tight(t *testing.T) core.PodSpec {
	t.Helper()
	objects := kustomize(t, "kustomize/overlays/seccomp")
	return find[*apps.DaemonSet](t, objects, "DaemonSet podgate-system/podgate").Spec.Template.Spec
}

func profile(t *testing.T) specs.LinuxSeccomp {
	t.Helper()
	var profile specs.LinuxSeccomp
	if err := json.Unmarshal(read(t, "seccomp/podgate.json"), &profile); err != nil {
		t.Fatal(err)
	}
	return profile
}

func TestTheAgentDoesItsWorkUnderTheTightSeccompProfile(t *testing.T) {
	host, client := shop(t)
	running := host.startAgentAs(t, tight(t))
	judged(t, client)
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		if _, err := host.get(t, path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if said, live := running.probe(tight(t).Containers[0].LivenessProbe); !live {
		t.Errorf("not live: %s", said)
	}
	// The next agent takes over, so that what a hand-over needs is allowed too; then both end well.
	next := host.startAgentAs(t, tight(t))
	judged(t, client)
	for _, agent := range []*container{running, next} {
		if agent.stop(t, tight(t)) != 0 {
			t.Errorf("it does not end well: %s", agent.said)
		}
	}
}

// rejecting is the Pod of the overlay reject.
func rejecting(t *testing.T) core.PodSpec {
	t.Helper()
	objects := kustomize(t, "kustomize/overlays/reject")
	return find[*apps.DaemonSet](t, objects, "DaemonSet podgate-system/podgate").Spec.Template.Spec
}

func TestDeniedClientsAreToldUnderEachSeccompProfile(t *testing.T) {
	for name, security := range map[string]*core.PodSecurityContext{
		"the runtime's": rejecting(t).SecurityContext, "the tight one": tight(t).SecurityContext,
	} {
		t.Run(name, func(t *testing.T) {
			host, client := shop(t)
			pod := rejecting(t)
			pod.SecurityContext = security
			running := host.startAgentAs(t, pod)
			if !client.reaches(t, "10.244.0.2:80", patience) {
				t.Error("what is allowed does not pass")
			}
			client.within(t, func() {
				connection, err := net.DialTimeout("tcp", "10.244.0.2:81", patience)
				if err == nil {
					connection.Close()
				}
				if !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("a denied connection: %v\n%s", err, running.said)
				}
				// A datagram is answered by an ICMP error.
				datagram, err := net.DialTimeout("udp", "10.244.0.2:81", patience)
				if err != nil {
					t.Error(err)
					return
				}
				defer datagram.Close()
				if err := datagram.SetDeadline(time.Now().Add(patience)); err != nil {
					t.Error(err)
				}
				if _, err = datagram.Write([]byte("knock")); err == nil {
					_, err = datagram.Read(make([]byte, 1))
				}
				if !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EACCES) {
					t.Errorf("a denied datagram: %v\n%s", err, running.said)
				}
			})
			if running.stop(t, pod) != 0 {
				t.Errorf("it does not end well: %s", running.said)
			}
		})
	}
}

func TestTheAgentReadsTablesOfIptablesLegacyUnderEachSeccompProfile(t *testing.T) {
	for name, pod := range map[string]core.PodSpec{"the runtime's": agent(t).Spec.Template.Spec, "the tight one": tight(t)} {
		t.Run(name, func(t *testing.T) {
			host, _ := shop(t)
			host.sh(t, `iptables-legacy -w -t mangle -A PREROUTING -j MARK --or-mark 0x400
				ip6tables-legacy -w -t mangle -A PREROUTING -j MARK --or-mark 0x800`)
			running := host.startAgentAs(t, pod)
			for _, told := range []string{"iptables-legacy mangle, chain PREROUTING", "ip6tables-legacy mangle, chain PREROUTING"} {
				running.await(t, "aware of "+told, func() (string, bool) {
					said := running.said.String()
					return said, strings.Contains(said, "table "+told)
				})
			}
		})
	}
}

func TestTheTightSeccompProfileAllowsNothingThatReachesOutOfAContainer(t *testing.T) {
	tight := profile(t)
	if tight.DefaultAction != specs.ActErrno {
		t.Fatalf("what is not named is %s", tight.DefaultAction)
	}
	forbidden := strings.Fields(`add_key bpf chroot delete_module finit_module fsopen init_module io_uring_setup kexec_load keyctl
		mknod mknodat mount mount_setattr move_mount open_by_handle_at open_tree perf_event_open personality pidfd_getfd
		pivot_root process_vm_readv process_vm_writev ptrace reboot request_key setns setuid swapon umount2 unshare userfaultfd`)
	for _, rule := range tight.Syscalls {
		for _, name := range rule.Names {
			if rule.Action == specs.ActAllow && slices.Contains(forbidden, name) {
				t.Errorf("%s is allowed", name)
			}
			// Their first argument decides: a family of sockets, flags of namespaces.
			if rule.Action == specs.ActAllow && (name == "socket" || name == "clone") && len(rule.Args) != 1 {
				t.Errorf("%s is allowed whatever it is asked for", name)
			}
		}
	}
}
