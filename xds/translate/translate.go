package translate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	configv1 "keybridge/xds/config/v1"
)

// ClusterHeader is the request header by which the bridge chooses the cluster.
const ClusterHeader = "x-keybridge-cluster"

// OnceHeader is the request header by which the bridge forbids a second attempt: the
// request's body passes the bridge, once.
const OnceHeader = "x-keybridge-once"

// ExtProcCluster is the cluster of the bridge's ext_proc socket.
const ExtProcCluster = "keybridge_extproc"

// Authorities that Envoy puts in :authority of its ext_proc streams, by which
// the bridge knows the protocol that a listener speaks.
const (
	AuthorityS3 = "s3"
	AuthorityAI = "ai"
)

// maxSocketPath is what fits sun_path with its NUL (unix(7)).
const maxSocketPath = 107

// Endpoint is one provider address, as bound inside a credential record.
type Endpoint struct {
	Scheme string // "https" or "http"
	Host   string // lower-case DNS name, or IP address without brackets
	Port   uint16
	// CAPEM are the certificates that the endpoint is verified against instead
	// of the system roots; empty for those.
	CAPEM []byte
	// HTTP2 offers HTTP/2 beside HTTP/1.1 where the endpoint is https. If several
	// endpoints share a cluster and one of them does not want it, none gets it.
	HTTP2 bool
}

// Cluster is the name of the endpoint's cluster.
func (e Endpoint) Cluster() string {
	digest := ""
	if len(e.CAPEM) > 0 {
		sum := sha256.Sum256(e.CAPEM)
		digest = hex.EncodeToString(sum[:])
	}
	return ClusterName(e.Scheme, e.Host, e.Port, digest)
}

// ClusterName names the cluster of an endpoint: a hash of all that decides whom
// it reaches. caDigest is the hex SHA-256 of the CA bundle (seal.CADigest),
// empty for the system roots.
func ClusterName(scheme, host string, port uint16, caDigest string) string {
	// None of the fields can hold a newline, so the concatenation is unambiguous.
	sum := sha256.Sum256([]byte(scheme + "\n" + host + "\n" + strconv.Itoa(int(port)) + "\n" + caDigest))
	return "ep-" + hex.EncodeToString(sum[:16])
}

// Input is what is rendered.
type Input struct {
	Listeners []*configv1.Listener
	Endpoints []Endpoint
	// ExtProcSocket is the path of the bridge's ext_proc socket.
	ExtProcSocket string
	// SystemRoots is the PEM file that endpoints without a CA bundle are verified
	// against (envoy.SystemRoots). Empty: such endpoints are problems.
	SystemRoots string
	// DNS are the servers that names of endpoints are asked of. Empty: the host's.
	DNS []netip.AddrPort
	// Certificates are what listeners may be served with, by name. One that no
	// listener names is not rendered.
	Certificates map[string]Certificate
}

// Resources are Envoy's resources by type and name. SDS holds private keys.
type Resources struct {
	LDS, RDS, CDS, SDS map[string]proto.Message
}

// Problem is a part of the input that was left out, and why.
type Problem struct {
	Resource string // the listener's name, or the endpoint's host and port
	Err      error
}

func (p Problem) String() string { return p.Resource + ": " + p.Err.Error() }

// Render renders the input. What cannot be rendered is left out and reported;
// it never keeps the rest from being rendered.
func Render(in Input) (Resources, []Problem) {
	r := Resources{
		LDS: make(map[string]proto.Message),
		RDS: make(map[string]proto.Message),
		CDS: make(map[string]proto.Message),
		SDS: make(map[string]proto.Message),
	}
	var problems []Problem
	report := func(resource string, err error) {
		problems = append(problems, Problem{Resource: resource, Err: err})
	}

	if n := len(in.ExtProcSocket); n == 0 || n > maxSocketPath {
		report(ExtProcCluster, fmt.Errorf("socket path has %d bytes, want 1 to %d: %q", n, maxSocketPath, in.ExtProcSocket))
	} else {
		r.CDS[ExtProcCluster] = extProcCluster(in.ExtProcSocket)
	}

	bound := make(map[string]string) // address → listener
	for _, l := range in.Listeners {
		protocol, err := checkListener(l)
		if err != nil {
			report(l.GetName(), err)
			continue
		}
		if _, dup := r.LDS[l.GetName()]; dup {
			report(l.GetName(), fmt.Errorf("another listener has this name"))
			continue
		}
		addr := fmt.Sprintf("%s port %d", l.GetAddress(), l.GetPort())
		if other, dup := bound[addr]; dup {
			report(l.GetName(), fmt.Errorf("%s belongs to listener %s", addr, other))
			continue
		}
		if err := addCertificate(r, in.Certificates, l.GetCertificate()); err != nil {
			report(l.GetName(), err)
			continue
		}
		m := listener(l, protocol)
		if err := validate(m); err != nil {
			report(l.GetName(), err)
			continue
		}
		bound[addr] = l.GetName()
		r.LDS[l.GetName()] = m
		r.RDS[protocol.routes] = routeConfiguration(protocol)
	}

	merged := make(map[string]Endpoint)
	for _, e := range in.Endpoints {
		name := e.Cluster()
		if other, ok := merged[name]; ok {
			e.HTTP2 = e.HTTP2 && other.HTTP2
		}
		merged[name] = e
	}
	for _, name := range slices.Sorted(maps.Keys(merged)) {
		e := merged[name]
		m, err := endpointCluster(name, e, in.SystemRoots, in.DNS)
		if err == nil {
			err = validate(m)
		}
		if err != nil {
			report(fmt.Sprintf("%q port %d", e.Host, e.Port), err)
			continue
		}
		r.CDS[name] = m
	}
	return r, problems
}

// addCertificate renders the certificate that a listener names, if it names one.
func addCertificate(r Resources, known map[string]Certificate, name string) error {
	if name == "" || r.SDS[name] != nil {
		return nil
	}
	c, ok := known[name]
	if !ok {
		return fmt.Errorf("certificate %q is not here (`keybridge bridge --tls`)", name)
	}
	m, err := secret(name, c)
	if err != nil {
		return fmt.Errorf("certificate %q: %w", name, err)
	}
	r.SDS[name] = m
	return nil
}

// validate applies Envoy's own protoc-gen-validate rules: what they refuse,
// Envoy would reject.
func validate(m proto.Message) error {
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		return v.ValidateAll()
	}
	return nil
}

// pack puts an extension's configuration where Envoy expects one. The messages
// are built here from constants and checked strings, and always marshal.
func pack(m proto.Message) *anypb.Any {
	a := new(anypb.Any)
	if err := anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		panic("translate: " + err.Error())
	}
	return a
}
