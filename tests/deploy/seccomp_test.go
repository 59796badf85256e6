package deploy

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

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
