// Traffic that goes on while something happens: the subcommand `traffic` of our agnhost, run in a pod.
package kit

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
)

// Traffic is what one pod sends without a pause.
type Traffic struct {
	from  *Pod
	input io.Closer
	lines *bufio.Reader
	ended chan error
}

// Attempts is what became of one kind of it.
type Attempts struct {
	OK     int    `json:"ok"`
	Failed int    `json:"failed"`
	Dials  int    `json:"dials"`
	Last   string `json:"last"`
}

// Result is what became of all of it.
type Result struct {
	// Established is requests over one connection that is opened once.
	Established Attempts `json:"established"`
	// New is requests over a new connection each.
	New Attempts `json:"new"`
	// Denied is attempts at what policies forbid.
	Denied Attempts `json:"denied"`
}

// Traffic begins to send: requests to `allowed`, and attempts at `denied`.
func (p *Pod) Traffic(t *testing.T, allowed, denied Target) *Traffic {
	t.Helper()
	input, feed := io.Pipe()
	heard, output := io.Pipe()
	traffic := &Traffic{from: p, input: feed, lines: bufio.NewReader(heard), ended: make(chan error, 1)}
	go func() {
		err := p.exec(context.Background(), input, output, "/agnhost", "traffic",
			"--established="+allowed.Address, "--new="+allowed.Address, "--denied="+denied.Address)
		_ = output.CloseWithError(err)
		traffic.ended <- err
	}()
	t.Cleanup(func() { _ = feed.Close() })
	if line, err := traffic.lines.ReadString('\n'); err != nil || strings.TrimSpace(line) != "started" {
		t.Fatalf("traffic from %s did not start: %q %v", p.Name, line, err)
	}
	return traffic
}

// Stop ends it and tells what became of it.
func (tr *Traffic) Stop(t *testing.T) Result {
	t.Helper()
	if err := tr.input.Close(); err != nil {
		t.Fatal(err)
	}
	var result Result
	line, err := tr.lines.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &result)
	}
	if err != nil {
		t.Fatalf("no result of the traffic from %s: %q %v", tr.from.Name, line, err)
	}
	if err := <-tr.ended; err != nil {
		t.Fatalf("traffic from %s: %v", tr.from.Name, err)
	}
	t.Logf("traffic from %s: %+v", tr.from.Name, result)
	return result
}

// Unbroken fails the test unless every allowed request succeeded, on the first connection where it is to be one, and
// nothing that is denied passed.
func (r Result) Unbroken(t *testing.T) {
	t.Helper()
	if r.Established.OK == 0 || r.Established.Failed > 0 || r.Established.Dials != 1 {
		t.Errorf("an established connection was disturbed: %+v", r.Established)
	}
	if r.New.OK == 0 || r.New.Failed > 0 {
		t.Errorf("new connections failed: %+v", r.New)
	}
	r.Closed(t)
}

// Closed fails the test if anything passed that is denied.
func (r Result) Closed(t *testing.T) {
	t.Helper()
	if r.Denied.OK > 0 || r.Denied.Failed == 0 {
		t.Errorf("what is denied passed, or was not tried: %+v", r.Denied)
	}
}
