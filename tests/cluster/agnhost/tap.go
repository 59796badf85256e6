// What a pod's interface sees of one kind of traffic: each SYN and each datagram to a port, whatever becomes of it afterwards.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// packet is a SYN or a datagram to the tap's port.
type packet struct {
	At       time.Time      `json:"at"`
	Protocol string         `json:"protocol"`
	From     netip.AddrPort `json:"from"`
	To       netip.AddrPort `json:"to"`
	// Key tells it from all others of its connection: of a SYN the sequence number and the time stamp (RFC 7323), which a
	// repeated one has anew; of a datagram its text.
	Key string `json:"key"`
}

// tap reads what goes out of, or comes in by, any interface but the loopback one.
type tap struct {
	socket   int
	outgoing bool
	port     uint16
	lock     sync.Mutex
	seen     []packet
}

// openTap sees everything that happens after it returns.
func openTap(port uint16, outgoing bool) (*tap, error) {
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		return nil, fmt.Errorf("a packet socket (needs CAP_NET_RAW): %w", err)
	}
	t := &tap{socket: socket, outgoing: outgoing, port: port}
	go t.read()
	return t, nil
}

func (t *tap) read() {
	var buffer [2048]byte
	for {
		length, from, err := unix.Recvfrom(t.socket, buffer[:], 0)
		if errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			panic(err) // a tap that is blind would vouch for everything
		}
		link, ok := from.(*unix.SockaddrLinklayer)
		if !ok || link.Hatype == unix.ARPHRD_LOOPBACK || (link.Pkttype == unix.PACKET_OUTGOING) != t.outgoing {
			continue
		}
		if packet, ok := parse(buffer[:length]); ok && packet.To.Port() == t.port {
			packet.At = time.Now()
			t.lock.Lock()
			t.seen = append(t.seen, packet)
			t.lock.Unlock()
		}
	}
}

// packets that were seen so far.
func (t *tap) packets() []packet {
	t.lock.Lock()
	defer t.lock.Unlock()
	return append([]packet{}, t.seen...)
}

// parse reads a SYN or a datagram; extension headers of IPv6 are not expected.
func parse(data []byte) (packet, bool) {
	var source, destination netip.Addr
	var protocol byte
	switch {
	case len(data) >= 20 && data[0]>>4 == 4 && len(data) >= int(data[0]&15)*4:
		source, destination = netip.AddrFrom4([4]byte(data[12:16])), netip.AddrFrom4([4]byte(data[16:20]))
		protocol, data = data[9], data[int(data[0]&15)*4:]
	case len(data) >= 40 && data[0]>>4 == 6:
		source, destination = netip.AddrFrom16([16]byte(data[8:24])), netip.AddrFrom16([16]byte(data[24:40]))
		protocol, data = data[6], data[40:]
	default:
		return packet{}, false
	}
	if len(data) < 8 {
		return packet{}, false
	}
	p := packet{From: netip.AddrPortFrom(source, binary.BigEndian.Uint16(data)), To: netip.AddrPortFrom(destination, binary.BigEndian.Uint16(data[2:]))}
	switch {
	case protocol == unix.IPPROTO_UDP:
		p.Protocol, p.Key = "udp", string(data[8:])
	case protocol == unix.IPPROTO_TCP && len(data) >= 20 && data[13]&0x12 == 0x02:
		p.Protocol, p.Key = "tcp", fmt.Sprintf("%d/%d", binary.BigEndian.Uint32(data[4:]), timestamp(data))
	default:
		return packet{}, false
	}
	return p, true
}

// timestamp is TSval of a TCP header's options, or 0.
func timestamp(header []byte) uint32 {
	end := min(int(header[12]>>4)*4, len(header))
	for at := 20; at < end; {
		switch {
		case header[at] == 0:
			return 0
		case header[at] == 1:
			at++
		case at+1 >= end || header[at+1] < 2:
			return 0
		case header[at] == 8 && at+10 <= end:
			return binary.BigEndian.Uint32(header[at+2:])
		default:
			at += int(header[at+1])
		}
	}
	return 0
}

func htons(value uint16) uint16 { return value<<8 | value>>8 }
