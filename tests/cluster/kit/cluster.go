// Package kit is what the scenarios stand on: the cluster that `up` started ([Cluster]), a namespace with pods in it
// ([World], [Pod]), what passes between them ([World.Allows], [World.Denies], [Pod.Traffic]), and the agents ([Agent]).
// Waiting is always for something to be seen, never for time to pass.
//
// This file: the cluster and its commands.
package kit

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Patience is how long something may take that takes seconds on an idle machine.
const Patience = 90 * time.Second

// Cluster is the cluster named by CLUSTER. The test runs in the network of its control plane.
type Cluster struct {
	Client kubernetes.Interface
	// Kubeconfig is the administrator's.
	Kubeconfig string

	config  *rest.Config
	scripts string
}

// Connect finds the cluster. PODGATE_CLUSTER_SCRIPTS (tests/cluster) and PODGATE_CLUSTER_RUN (its state) are set by `scenario`.
func Connect(t *testing.T) *Cluster {
	t.Helper()
	scripts, run := os.Getenv("PODGATE_CLUSTER_SCRIPTS"), os.Getenv("PODGATE_CLUSTER_RUN")
	if scripts == "" || run == "" {
		t.Fatal("these tests are run by tests/cluster/scenario, or make cluster-test")
	}
	kubeconfig := filepath.Join(run, "pki", "admin.kubeconfig")
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 100, 200
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &Cluster{Client: client, Kubeconfig: kubeconfig, config: config, scripts: scripts}
}

// Kubectl runs kubectl as the administrator, with standard input when it is not empty, and returns what it says.
func (c *Cluster) Kubectl(t *testing.T, input string, arguments ...string) string {
	t.Helper()
	return c.command(t, input, "kubectl", append([]string{"--kubeconfig", c.Kubeconfig}, arguments...)...)
}

// Script runs one of the commands in tests/cluster.
func (c *Cluster) Script(t *testing.T, name string, arguments ...string) string {
	t.Helper()
	return c.command(t, "", filepath.Join(c.scripts, name), arguments...)
}

// In runs a command on a node.
func (c *Cluster) In(t *testing.T, node string, arguments ...string) string {
	t.Helper()
	return c.Script(t, "in", append([]string{node}, arguments...)...)
}

// File is a file of the repository.
func (c *Cluster) File(parts ...string) string {
	return filepath.Join(append([]string{c.scripts, "..", ".."}, parts...)...)
}

func (c *Cluster) command(t *testing.T, input, name string, arguments ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*Patience)
	defer cancel()
	command := exec.CommandContext(ctx, name, arguments...)
	command.Stdin = strings.NewReader(input)
	var said, complained bytes.Buffer
	command.Stdout, command.Stderr = &said, &complained
	if err := command.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", filepath.Base(name), strings.Join(arguments, " "), err, said.String(), complained.String())
	}
	return said.String()
}

// Daemon runs a command until the test ends.
func (c *Cluster) Daemon(t *testing.T, name string, arguments ...string) {
	t.Helper()
	log := &bytes.Buffer{}
	command := exec.Command(name, arguments...)
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, log)
		}
	})
}

// Eventually repeats `check` until it returns no error; after `limit` the test fails with the last one.
func Eventually(t *testing.T, limit time.Duration, check func() error) {
	t.Helper()
	until := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("not within %s: %v", limit, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
