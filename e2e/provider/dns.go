package provider

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// DNS is a name server that knows the IPv4 addresses it is told, for a second each, and
// no other name.
type DNS struct {
	conn net.PacketConn
	done chan struct{}

	mu    sync.Mutex
	names map[string]netip.Addr
	mode  Resolution
	asked map[string]int
}

// Resolution is what a DNS answers.
type Resolution uint8

// A DNS answers what it knows, that it knows nothing (NXDOMAIN), that it cannot tell
// (SERVFAIL), that the name has no address, or nothing at all.
const (
	Resolves Resolution = iota
	Unknown
	Failing
	Empty
	Silent
)

// StartDNS starts a name server on a free port.
func StartDNS() (*DNS, error) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("DNS: %w", err)
	}
	d := &DNS{conn: c, done: make(chan struct{}), names: map[string]netip.Addr{}, asked: map[string]int{}}
	go d.serve()
	return d, nil
}

// Addr is where it is asked.
func (d *DNS) Addr() string { return d.conn.LocalAddr().String() }

// Set gives a name an address.
func (d *DNS) Set(name, address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names[name] = netip.MustParseAddr(address)
}

// Answer says what every question gets from now on.
func (d *DNS) Answer(mode Resolution) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mode = mode
}

// Asked is how many questions for an address of the name have been answered, or left.
func (d *DNS) Asked(name string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked[name]
}

// Close ends it.
func (d *DNS) Close() error {
	err := d.conn.Close()
	<-d.done
	return err
}

func (d *DNS) serve() {
	defer close(d.done)
	buf := make([]byte, 1<<16)
	for {
		n, from, err := d.conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // of one who has gone (ICMP)
		}
		if answer := d.answer(slices.Clone(buf[:n])); answer != nil {
			_, _ = d.conn.WriteTo(answer, from)
		}
	}
}

// answer is nil for what is no question, or gets no answer.
func (d *DNS) answer(message []byte) []byte {
	var p dnsmessage.Parser
	head, err := p.Start(message)
	if err != nil || head.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	out := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: head.ID, Response: true, Authoritative: true, RecursionDesired: head.RecursionDesired, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	d.mu.Lock()
	defer d.mu.Unlock()
	if q.Type == dnsmessage.TypeA {
		d.asked[name]++
	}
	address, known := d.names[name]
	switch {
	case d.mode == Silent:
		return nil
	case d.mode == Failing:
		out.RCode = dnsmessage.RCodeServerFailure
	case d.mode == Unknown || !known:
		out.RCode = dnsmessage.RCodeNameError
	case d.mode == Resolves && q.Type == dnsmessage.TypeA:
		out.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.AResource{A: address.As4()},
		}}
	}
	packed, err := out.Pack()
	if err != nil {
		return nil
	}
	return packed
}
