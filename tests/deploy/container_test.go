package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
)

// patience is how long a test waits for what should come at once; a busy machine is slow.
const patience = 30 * time.Second

// namespace is an anonymous network namespace, gone with its only process, which ends with the test's.
type namespace struct{ process *exec.Cmd }

func newNamespace(t *testing.T) namespace {
	t.Helper()
	// It reads until the pipe is closed, which happens however this process ends.
	command := exec.Command("cat")
	if _, err := command.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := command.Start(); err != nil {
		t.Fatalf("%v: needs root", err)
	}
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	space := namespace{command}
	space.sh(t, "ip link set lo up")
	return space
}

func (n namespace) path() string { return fmt.Sprintf("/proc/%d/ns/net", n.process.Process.Pid) }

// sh runs a script in the namespace.
func (n namespace) sh(t *testing.T, script string) string {
	t.Helper()
	said, err := exec.Command("nsenter", "--net="+n.path(), "sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, said)
	}
	return string(said)
}

// within calls a function in the namespace.
func (n namespace) within(t *testing.T, do func()) {
	t.Helper()
	file, err := os.Open(n.path())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	done := make(chan error)
	go func() {
		// The thread is never given back: it ends with this function.
		runtime.LockOSThread()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		do()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// reaches tries a connection; on a network of veth pairs an answer comes at once or never.
func (n namespace) reaches(t *testing.T, address string, within time.Duration) (reached bool) {
	t.Helper()
	n.within(t, func() {
		if connection, err := net.DialTimeout("tcp", address, within); err == nil {
			reached = true
			connection.Close()
		}
	})
	return reached
}

// node is a network namespace that stands for a host, and what a kubelet would keep there.
type node struct {
	namespace
	address   string
	state     string
	manifests string
	secrets   map[string]map[string]string
}

func newNode(t *testing.T) *node {
	t.Helper()
	host := &node{namespace: newNamespace(t), address: "192.0.2.1", state: t.TempDir(), manifests: t.TempDir()}
	host.sh(t, "sysctl -qw net.ipv4.ip_forward=1; ip address add 192.0.2.1/32 dev lo")
	return host
}

// pod is a network namespace with a routed veth, as the ptp CNI makes it.
func (n *node) pod(t *testing.T, address string) namespace {
	t.Helper()
	pod := newNamespace(t)
	link := "v" + strings.ReplaceAll(strings.TrimPrefix(address, "10."), ".", "-")
	n.sh(t, fmt.Sprintf(`ip link add %[1]s type veth peer name eth0 netns %[2]s
		ip link set %[1]s up; ip address add 169.254.1.1/32 dev %[1]s; ip route add %[3]s/32 dev %[1]s`, link, pod.path(), address))
	pod.sh(t, fmt.Sprintf(`ip address add %s/32 dev eth0; ip link set eth0 up
		ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1`, address))
	return pod
}

// container is one that runc runs the way containerd would run it for that Pod.
type container struct {
	id    string
	run   *exec.Cmd
	ended chan struct{}
	said  *output
}

// output may be read while it is written.
type output struct {
	lock sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(text []byte) (int, error) {
	o.lock.Lock()
	defer o.lock.Unlock()
	return o.text.Write(text)
}

func (o *output) String() string {
	o.lock.Lock()
	defer o.lock.Unlock()
	return o.text.String()
}

// bundle is the container's directory in OCI's form: the image's files, and the Pod's container as a runtime is told of it.
// What CRI says of hostNetwork, security context, limits, mounts and masks is in containerd's
// internal/cri/server/container_create_linux.go. `more` is set after the container's own environment.
func (n *node) bundle(t *testing.T, pod core.PodSpec, one core.Container, more map[string]string) string {
	t.Helper()
	image := theImage(t)
	directory := t.TempDir()
	root := filepath.Join(directory, "rootfs")
	for _, mountpoint := range []string{"proc", "dev", "sys", "manifests", "run/podgate", "var/lib/podgate"} {
		if err := os.MkdirAll(filepath.Join(root, mountpoint), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range image.files {
		if err := os.WriteFile(filepath.Join(root, name), text, 0o755); err != nil {
			t.Fatal(err)
		}
	}

	var capabilities []string
	for _, capability := range one.SecurityContext.Capabilities.Add {
		capabilities = append(capabilities, "CAP_"+string(capability))
	}
	if !slices.Contains(one.SecurityContext.Capabilities.Drop, "ALL") {
		t.Fatal("only a container that starts from nothing is understood here")
	}
	environment := slices.Clone(image.Env)
	for _, variable := range one.Env {
		value := strings.ReplaceAll(variable.Value, "$(NODE_IP)", n.address)
		if variable.ValueFrom != nil {
			value = map[string]string{"spec.nodeName": "node-1", "status.hostIP": n.address}[variable.ValueFrom.FieldRef.FieldPath]
		}
		environment = append(environment, variable.Name+"="+value)
	}
	for name, value := range more {
		environment = append(environment, name+"="+value)
	}
	memory := one.Resources.Limits.Memory().Value()
	spec := &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs", Readonly: *one.SecurityContext.ReadOnlyRootFilesystem},
		Process: &specs.Process{
			Args: slices.Concat(image.Entrypoint, one.Args),
			Env:  environment,
			Cwd:  "/",
			User: specs.User{UID: uint32(*one.SecurityContext.RunAsUser), GID: uint32(*one.SecurityContext.RunAsGroup)},
			Capabilities: &specs.LinuxCapabilities{
				Bounding: capabilities, Effective: capabilities, Permitted: capabilities,
			},
			NoNewPrivileges: !*one.SecurityContext.AllowPrivilegeEscalation,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/manifests", Type: "bind", Source: n.manifests, Options: []string{"bind", "ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: fmt.Sprintf("/podgate-test-%d-%s", os.Getpid(), filepath.Base(filepath.Dir(directory))+filepath.Base(directory)),
			Resources:   &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace, Path: n.path()},
			},
			MaskedPaths:   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	if pod.SecurityContext.SeccompProfile.Type == core.SeccompProfileTypeRuntimeDefault {
		spec.Linux.Seccomp = seccomp.DefaultProfile(spec)
	}
	if local := pod.SecurityContext.SeccompProfile.LocalhostProfile; local != nil {
		if err := json.Unmarshal(read(t, "seccomp/"+*local), &spec.Linux.Seccomp); err != nil {
			t.Fatal(err)
		}
	}
	for _, mount := range one.VolumeMounts {
		volume := pod.Volumes[slices.IndexFunc(pod.Volumes, func(v core.Volume) bool { return v.Name == mount.Name })]
		to := specs.Mount{Destination: mount.MountPath, Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=777"}}
		if volume.HostPath != nil {
			to = specs.Mount{Destination: mount.MountPath, Type: "bind", Source: n.state, Options: []string{"rbind", "rw"}}
		}
		if volume.Secret != nil {
			to = specs.Mount{Destination: mount.MountPath, Type: "bind", Source: n.secret(t, volume.Secret), Options: []string{"rbind", "ro"}}
			if err := os.MkdirAll(filepath.Join(root, mount.MountPath), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		spec.Mounts = append(spec.Mounts, to)
	}
	text, err := json.Marshal(spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(directory, "config.json"), text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return directory
}

// secret is a Secret's keys as files.
func (n *node) secret(t *testing.T, source *core.SecretVolumeSource) string {
	t.Helper()
	directory := t.TempDir()
	if len(n.secrets[source.SecretName]) == 0 {
		t.Fatalf("there is no secret %s", source.SecretName)
	}
	for key, text := range n.secrets[source.SecretName] {
		if err := os.WriteFile(filepath.Join(directory, key), []byte(text), os.FileMode(*source.DefaultMode)); err != nil {
			t.Fatal(err)
		}
	}
	return directory
}

// start runs a container of the Pod on the node.
func (n *node) start(t *testing.T, pod core.PodSpec, one core.Container, more map[string]string) *container {
	t.Helper()
	bundle := n.bundle(t, pod, one, more)
	state := filepath.Join(bundle, "state")
	c := &container{id: fmt.Sprintf("podgate-test-%d-%s", os.Getpid(), filepath.Base(bundle)), ended: make(chan struct{}), said: &output{}}
	c.run = exec.Command("runc", "--root", state, "run", "--bundle", bundle, c.id)
	c.run.Stdout, c.run.Stderr = c.said, c.said
	if err := c.run.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = c.run.Wait(); close(c.ended) }()
	t.Cleanup(func() {
		_ = exec.Command("runc", "--root", state, "delete", "--force", c.id).Run()
		<-c.ended
		if t.Failed() {
			t.Logf("%s said:\n%s", one.Name, c.said)
		}
	})
	return c
}

func (c *container) runc(arguments ...string) *exec.Cmd {
	return exec.Command("runc", append([]string{"--root", c.run.Args[2]}, arguments...)...)
}

// probe is what a kubelet does for an exec probe: true if the command ends with 0.
func (c *container) probe(probe *core.Probe) (string, bool) {
	said, err := c.runc(append([]string{"exec", c.id}, probe.Exec.Command...)...).CombinedOutput()
	return string(said), err == nil
}

// await asks until it is so, as a kubelet does, and fails with the last words otherwise.
func (c *container) await(t *testing.T, what string, ask func() (string, bool)) {
	t.Helper()
	deadline := time.After(patience)
	next := time.NewTicker(50 * time.Millisecond)
	defer next.Stop()
	for {
		said, is := ask()
		if is {
			return
		}
		select {
		case <-c.ended:
			t.Fatalf("it ended before it was %s: %s", what, c.said)
		case <-deadline:
			t.Fatalf("not %s: %s\n%s", what, said, c.said)
		case <-next.C:
		}
	}
}

// stop is what a kubelet does: SIGTERM, and waiting as long as the Pod grants.
func (c *container) stop(t *testing.T, pod core.PodSpec) int {
	t.Helper()
	if said, err := c.runc("kill", c.id, "TERM").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	return c.wait(t, time.Duration(*pod.TerminationGracePeriodSeconds)*time.Second)
}

// wait is for the container's end; its exit code.
func (c *container) wait(t *testing.T, patience time.Duration) int {
	t.Helper()
	select {
	case <-c.ended:
	case <-time.After(patience):
		t.Fatalf("it does not end within %s", patience)
	}
	return c.run.ProcessState.ExitCode()
}
