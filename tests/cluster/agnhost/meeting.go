// The subcommands `witness`, `newcomer` and `told`: a server that knows what reached its interface, a client that attempts
// connections from its first instruction on, and how either of them is asked what it saw, by an exec in its pod.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

const (
	// meetingPort is where witnesses listen, by TCP and UDP.
	meetingPort = 7000
	// told is where either of them answers with what it saw, as one JSON object.
	told = "127.0.0.1:7001"
)

// sight is what a witness or a newcomer tells; kit.Sight is the same.
type sight struct {
	Packets  []packet  `json:"packets"`
	Attempts []attempt `json:"attempts"`
}

// attempt is one connection, or one datagram and its answer, with one SYN or datagram unless the kernel repeats the SYN.
type attempt struct {
	Protocol string         `json:"protocol"`
	To       netip.AddrPort `json:"to"`
	Begun    time.Time      `json:"begun"`
	Took     time.Duration  `json:"took"`
	// Outcome is ok, refused, timeout, or what else went wrong.
	Outcome string `json:"outcome"`
	// Repeated is how many SYNs the kernel sent after the first.
	Repeated uint8 `json:"repeated"`
}

func toldCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "told",
		Short: "What the pod's witness or newcomer saw so far",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			connection, err := net.Dial("tcp", told)
			if err != nil {
				return err
			}
			_, err = io.Copy(os.Stdout, connection)
			return err
		},
	}
}

// tell answers who asks, for ever.
func tell(saw func() sight) error {
	listener, err := net.Listen("tcp", told)
	if err != nil {
		return err
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		_ = json.NewEncoder(connection).Encode(saw())
		_ = connection.Close()
	}
}

func witnessCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "witness",
		Short: "Listens by TCP and UDP, and knows each SYN and datagram that came for it",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			tap, err := openTap(meetingPort, false)
			if err != nil {
				return err
			}
			if err := answer(); err != nil {
				return err
			}
			return tell(func() sight { return sight{Packets: tap.packets()} })
		},
	}
}

// answer takes connections, and returns datagrams.
func answer() error {
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", meetingPort))
	if err != nil {
		return err
	}
	go func() {
		for {
			if connection, err := listener.Accept(); err == nil {
				_ = connection.Close()
			}
		}
	}()
	socket, err := net.ListenPacket("udp", fmt.Sprintf(":%d", meetingPort))
	if err != nil {
		return err
	}
	go func() {
		var buffer [1024]byte
		for {
			if length, from, err := socket.ReadFrom(buffer[:]); err == nil {
				_, _ = socket.WriteTo(buffer[:length], from)
			}
		}
	}()
	return nil
}

func newcomerCommand() *cobra.Command {
	var patience, pause time.Duration
	command := &cobra.Command{
		Use:   "newcomer ADDRESS...",
		Short: "Connects to witnesses from the first moment on, by TCP and UDP, again and again",
		Long:  "Addresses are arguments, or lines of standard input, of which each is attempted as soon as it is read.",
		RunE: func(_ *cobra.Command, addresses []string) error {
			tap, err := openTap(meetingPort, true)
			if err != nil {
				return err
			}
			n := &newcomer{patience: patience, pause: pause}
			for _, address := range addresses {
				if err := n.begin(address); err != nil {
					return err
				}
			}
			go func() {
				lines := bufio.NewScanner(os.Stdin)
				for lines.Scan() {
					if err := n.begin(lines.Text()); err != nil {
						fmt.Fprintln(os.Stderr, err)
					}
				}
			}()
			return tell(func() sight { return sight{Packets: tap.packets(), Attempts: n.all()} })
		},
	}
	command.Flags().DurationVar(&patience, "patience", 20*time.Second, "how long an attempt may take")
	command.Flags().DurationVar(&pause, "pause", 50*time.Millisecond, "between attempts")
	return command
}

type newcomer struct {
	patience, pause time.Duration
	lock            sync.Mutex
	attempts        []attempt
}

func (n *newcomer) all() []attempt {
	n.lock.Lock()
	defer n.lock.Unlock()
	return append([]attempt{}, n.attempts...)
}

// begin attempts an address by both protocols, for ever.
func (n *newcomer) begin(address string) error {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	to := netip.AddrPortFrom(ip, meetingPort)
	for protocol, try := range map[string]func(netip.AddrPort, time.Duration) (uint8, error){"tcp": open, "udp": ask} {
		go func() {
			for {
				a := attempt{Protocol: protocol, To: to, Begun: time.Now()}
				var err error
				a.Repeated, err = try(to, n.patience)
				a.Took, a.Outcome = time.Since(a.Begun), outcome(err)
				n.lock.Lock()
				n.attempts = append(n.attempts, a)
				n.lock.Unlock()
				time.Sleep(n.pause)
			}
		}()
	}
	return nil
}

func outcome(err error) string {
	var timeout net.Error
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return err.Error()
}

// open opens a connection, and tells how many SYNs were repeated for it.
func open(to netip.AddrPort, patience time.Duration) (uint8, error) {
	connection, err := net.DialTimeout("tcp", to.String(), patience)
	if err != nil {
		return 0, err
	}
	defer func() { _ = connection.Close() }()
	raw, err := connection.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var repeated uint8
	var failed error
	err = raw.Control(func(socket uintptr) {
		var info *unix.TCPInfo
		if info, failed = unix.GetsockoptTCPInfo(int(socket), unix.IPPROTO_TCP, unix.TCP_INFO); failed == nil {
			repeated = uint8(min(info.Total_retrans, 255))
		}
	})
	return repeated, errors.Join(err, failed)
}

// ask sends one datagram, and waits for its answer.
func ask(to netip.AddrPort, patience time.Duration) (uint8, error) {
	connection, err := net.Dial("udp", to.String())
	if err != nil {
		return 0, err
	}
	defer func() { _ = connection.Close() }()
	if err := connection.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	if _, err := fmt.Fprintf(connection, "%s %d", connection.LocalAddr(), time.Now().UnixNano()); err != nil {
		return 0, err
	}
	var buffer [1024]byte
	_, err = connection.Read(buffer[:])
	return 0, err
}
