// The subcommand `traffic`: what a pod sends while something happens to its node, and what came of it. It speaks to three
// addresses at once without a pause, until its input ends, and then prints one JSON object ([Traffic] in the tests' kit).
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// attempts is what became of one kind of traffic.
type attempts struct {
	OK     int    `json:"ok"`
	Failed int    `json:"failed"`
	Dials  int    `json:"dials"`
	Last   string `json:"last,omitempty"` // the last failure
}

func trafficCommand() *cobra.Command {
	var established, fresh, denied string
	command := &cobra.Command{
		Use:   "traffic",
		Short: "Requests on one connection, on a new one each, and on one that should never open, until input ends",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			kinds := map[string]func(context.Context, *attempts){
				"established": func(ctx context.Context, a *attempts) { request(ctx, established, true, time.Second, a) },
				"new":         func(ctx context.Context, a *attempts) { request(ctx, fresh, false, time.Second, a) },
				"denied":      func(ctx context.Context, a *attempts) { request(ctx, denied, false, 200*time.Millisecond, a) },
			}
			return json.NewEncoder(os.Stdout).Encode(run(kinds))
		},
	}
	command.Flags().StringVar(&established, "established", "", "host:port of an HTTP server, asked over one connection")
	command.Flags().StringVar(&fresh, "new", "", "host:port of an HTTP server, asked over a new connection each time")
	command.Flags().StringVar(&denied, "denied", "", "host:port of an HTTP server that should never answer")
	return command
}

// run lets each kind go on until standard input ends.
func run(kinds map[string]func(context.Context, *attempts)) map[string]*attempts {
	ctx, cancel := context.WithCancel(context.Background())
	results := map[string]*attempts{}
	var done sync.WaitGroup
	for name, send := range kinds {
		result := &attempts{}
		results[name] = result
		done.Go(func() { send(ctx, result) })
	}
	fmt.Println("started")
	_, _ = io.Copy(io.Discard, os.Stdin)
	cancel()
	done.Wait()
	return results
}

// request asks for a page again and again, on one connection or on a new one each time.
func request(ctx context.Context, address string, keep bool, limit time.Duration, result *attempts) {
	transport := &http.Transport{
		DisableKeepAlives: !keep,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			result.Dials++ // one request at a time: nobody else writes
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}
	client := &http.Client{Transport: transport, Timeout: limit}
	for ctx.Err() == nil {
		err := get(client, "http://"+address+"/hostname")
		switch {
		case err == nil:
			result.OK++
		default:
			result.Failed++
			result.Last = fmt.Sprintf("%s: %v", time.Now().UTC().Format("15:04:05.000"), err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond): // the rate of the traffic
		}
	}
}

func get(client *http.Client, url string) error {
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}
