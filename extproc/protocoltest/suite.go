package protocoltest

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"keybridge/extproc"
	"keybridge/extproc/grant"
	"keybridge/keyshare/seal"
)

// Suite says how a protocol is called.
type Suite struct {
	// New makes the protocol.
	New func(*grant.Live) extproc.Protocol
	// Use is that of the keys that it takes: grant.UseStorageKey or grant.UseAIKey.
	Use string
	// LLM and Key change the AI connectors and the keys of the protocol, if not nil:
	// into those of another provider.
	LLM func(*grant.ConnectorInput, *seal.Header)
	Key func(*grant.KeyInput, *seal.Header)
	// Request is the smallest read of target, a bucket or the name of an AI connector,
	// that the holder of k makes at a time, with further header lines that the client
	// sends but does not sign.
	Request func(at time.Time, k Key, target string, more ...extproc.Header) *extproc.Request
}

const (
	ours   = "0a4f1b2c-0000-4000-8000-000000000001"
	theirs = "0a4f1b2c-0000-4000-8000-000000000002"
)

// cast is the world of the suite.
type cast struct {
	*World
	p                                        extproc.Protocol
	target, foreign, unlisted, absent        string
	good, disabled, expired, expires, closed Key
	otherUse, stranger                       Key
}

func (s *Suite) cast(t testing.TB) *cast {
	c := &cast{World: NewWorld(t)}
	for workspace, name := range map[string]string{ours: "ours", theirs: "them"} {
		c.Bucket(workspace, name+"-bucket", nil)
		c.LLM(workspace, name+"-model", s.LLM)
		c.Repository(workspace, name, false, name+"-bucket", name+"-model")
	}
	c.Bucket(ours, "late-bucket", nil)
	c.LLM(ours, "late-model", s.LLM)
	c.Repository(ours, "closed", true, "ours-bucket", "ours-model")
	suffix, other := "-bucket", grant.UseAIKey
	if s.Use == grant.UseAIKey {
		suffix, other = "-model", grant.UseStorageKey
	}
	c.target, c.foreign, c.unlisted, c.absent = "ours"+suffix, "them"+suffix, "late"+suffix, "none"+suffix
	key := func(workspace, repository, use string, change func(*grant.KeyInput, *seal.Header)) Key {
		return c.Key(workspace, repository, use, grant.AccessAdmin, func(in *grant.KeyInput, h *seal.Header) {
			if s.Key != nil {
				s.Key(in, h)
			}
			if change != nil {
				change(in, h)
			}
		})
	}
	c.good = key(ours, "ours", s.Use, nil)
	c.disabled = key(ours, "ours", s.Use, func(in *grant.KeyInput, _ *seal.Header) { in.Disabled = true })
	c.expired = key(ours, "ours", s.Use, func(in *grant.KeyInput, _ *seal.Header) { in.Expires = Now })
	c.expires = key(ours, "ours", s.Use, func(in *grant.KeyInput, _ *seal.Header) { in.Expires = Now.Add(time.Second) })
	c.closed = key(ours, "closed", s.Use, nil)
	c.otherUse = key(ours, "ours", other, nil)
	c.stranger = key(theirs, "them", s.Use, nil)
	c.Publish()
	c.p = s.New(&c.Live)
	return c
}

// Run holds the protocol to the suite.
func Run(t *testing.T, s Suite) {
	t.Run("allowed", s.allowed)
	t.Run("refused", s.refused)
	t.Run("shows nothing of what others have", s.noOracle)
	t.Run("sealed", s.sealed)
	t.Run("purged", s.purged)
	t.Run("routing header of the client", s.routing)
	t.Run("malformed", s.malformed)
	t.Run("while the index changes", s.concurrent)
	t.Run("refused bodies", s.bodies)
}

func (s *Suite) allowed(t *testing.T) {
	c := s.cast(t)
	for name, k := range map[string]Key{"key": c.good, "key that expires later": c.expires} {
		d, e := c.p.Decide(Now, s.Request(Now, k, c.target))
		if e != nil {
			t.Fatalf("%s: refused: %d %s %s", name, e.Status, e.Reason, e.Body)
		}
		c.checkDecision(t, d, k)
	}
}

// checkDecision wants the provider's credential in the decision and nothing of the client's.
func (c *cast) checkDecision(t testing.TB, d *extproc.Decision, k Key) {
	t.Helper()
	if d.Cluster != "cluster-"+c.target || d.Authority != c.target+".provider.example" {
		t.Errorf("goes to cluster %q, authority %q", d.Cluster, d.Authority)
	}
	replaced, provider := false, false
	for _, h := range d.Set {
		replaced = replaced || h.Name == "authorization"
		provider = provider || strings.Contains(h.Value, ProviderKey(c.target)) || strings.Contains(h.Value, ProviderSecret(c.target))
	}
	for _, name := range d.Remove {
		replaced = replaced || name == "authorization"
	}
	if !replaced {
		t.Error("the client's Authorization reaches the provider")
	}
	if !provider {
		t.Error("the provider's credential is not in the decision")
	}
	if known := c.Live.Load().Lookup(k.ID); d.Key == "" || d.Key != known.Record() {
		t.Errorf("the decision's key is %q, want the record %q, so that it can be revoked", d.Key, known.Record())
	}
	if all := fmt.Sprint(*d); strings.Contains(all, k.Secret) || strings.Contains(all, k.ID) {
		t.Errorf("the decision carries the repository key: %s", all)
	}
}

func (s *Suite) refused(t *testing.T) {
	c := s.cast(t)
	without := func(name string) *extproc.Request {
		r := s.Request(Now, c.good, c.target)
		lines := pseudo(r)
		for _, h := range r.Headers() {
			if h.Name != name {
				lines = append(lines, h)
			}
		}
		return extproc.NewRequest(r.EndOfStream, lines...)
	}
	r := s.Request(Now, c.good, c.target)
	twice := extproc.NewRequest(r.EndOfStream, append(append(pseudo(r), r.Headers()...),
		extproc.Header{Name: "authorization", Value: r.Header("authorization")})...)
	for _, tt := range []struct {
		name string
		r    *extproc.Request
	}{
		{"unknown key", s.Request(Now, Key{flip(c.good.ID), strings.Replace(c.good.Secret, c.good.ID, flip(c.good.ID), 1)}, c.target)},
		{"wrong secret", s.Request(Now, Key{c.good.ID, flip(c.good.Secret)}, c.target)},
		{"secret of another key", s.Request(Now, Key{c.good.ID, c.stranger.Secret[:len(c.stranger.Secret)-1] + "x"}, c.target)},
		{"disabled key", s.Request(Now, c.disabled, c.target)},
		{"expired key", s.Request(Now, c.expired, c.target)},
		{"disabled repository", s.Request(Now, c.closed, c.target)},
		{"key of another use", s.Request(Now, c.otherUse, c.target)},
		{"target of another workspace", s.Request(Now, c.good, c.foreign)},
		{"key of another workspace", s.Request(Now, c.stranger, c.target)},
		{"target outside the repository", s.Request(Now, c.good, c.unlisted)},
		{"target that does not exist", s.Request(Now, c.good, c.absent)},
		{"no credentials", without("authorization")},
		{"two credentials", twice},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, e := c.p.Decide(Now, tt.r)
			c.checkRefusal(t, tt.r, d, e)
			if e != nil && (e.Status < 400 || e.Status > 499) {
				t.Errorf("status %d", e.Status)
			}
		})
	}
}

var reason = regexp.MustCompile(`^[a-z][a-z0-9_]{1,39}$`)

// checkRefusal wants an error in good form that tells no secret.
func (c *cast) checkRefusal(t testing.TB, r *extproc.Request, d *extproc.Decision, e *extproc.Error) {
	t.Helper()
	switch {
	case e == nil:
		t.Fatalf("not refused: %s %s", r.Method, r.Path)
	case d != nil:
		t.Error("an error and a decision")
	case e.Status < 400 || e.Status > 599:
		t.Errorf("status %d", e.Status)
	case !reason.MatchString(e.Reason):
		t.Errorf("reason %q", e.Reason)
	case e.ContentType == "":
		t.Error("no content type")
	case r.Method != "HEAD" && len(e.Body) == 0:
		t.Error("no body")
	}
	for _, k := range []Key{c.good, c.disabled, c.expired, c.closed, c.otherUse, c.stranger} {
		if bytes.Contains(e.Body, []byte(k.Secret)) {
			t.Errorf("the body tells a repository key: %s", e.Body)
		}
	}
	if bytes.Contains(e.Body, []byte("provider-secret")) || bytes.Contains(e.Body, []byte("PROVIDERKEY")) {
		t.Errorf("the body tells a provider credential: %s", e.Body)
	}
}

// noOracle compares the answers for targets that exist and that do not.
func (s *Suite) noOracle(t *testing.T) {
	c := s.cast(t)
	_, want := c.p.Decide(Now, s.Request(Now, c.good, c.absent))
	for _, target := range []string{c.foreign, c.unlisted} {
		_, got := c.p.Decide(Now, s.Request(Now, c.good, target))
		if got == nil || want == nil {
			t.Fatal("not refused")
		}
		// All names have one length, and so has everything random.
		if got.Status != want.Status || got.Reason != want.Reason || len(got.Body) != len(want.Body) {
			t.Errorf("%s answers %d %s, what does not exist %d %s", target, got.Status, got.Body, want.Status, want.Body)
		}
	}
}

func (s *Suite) sealed(t *testing.T) {
	c := s.cast(t)
	c.Live.Store(nil)
	r := s.Request(Now, c.good, c.target)
	d, e := c.p.Decide(Now, r)
	c.checkRefusal(t, r, d, e)
	if e.Status != 503 {
		t.Errorf("status %d", e.Status)
	}
	u := c.p.Unavailable()
	c.checkRefusal(t, r, nil, u)
	if u.Status != 503 {
		t.Errorf("unavailable: status %d", u.Status)
	}
	c.Publish()
	if _, e := c.p.Decide(Now, s.Request(Now, c.good, c.target)); e != nil {
		t.Errorf("unsealed, but refused: %s", e.Body)
	}
}

// purged asks after the secrets are gone: nothing may be signed with nothing.
func (s *Suite) purged(t *testing.T) {
	c := s.cast(t)
	if _, e := c.p.Decide(Now, s.Request(Now, c.good, c.target)); e != nil {
		t.Fatalf("refused: %s", e.Body)
	}
	c.Arena.Purge()
	for _, k := range []Key{c.good, {c.good.ID, ""}} {
		r := s.Request(Now, k, c.target)
		d, e := c.p.Decide(Now, r)
		c.checkRefusal(t, r, d, e)
	}
}

// routing wants a client's own routing header to mean nothing.
func (s *Suite) routing(t *testing.T) {
	c := s.cast(t)
	d, e := c.p.Decide(Now, s.Request(Now, c.good, c.target, extproc.Header{Name: extproc.ClusterHeader, Value: "cluster-" + c.foreign}))
	if e != nil {
		return // as good
	}
	c.checkDecision(t, d, c.good)
	for _, name := range d.Remove {
		if name == extproc.ClusterHeader {
			t.Error("the decision removes its own routing header")
		}
	}
}

// malformed sends what no client sends; a protocol refuses it and does not panic.
func (s *Suite) malformed(t *testing.T) {
	c := s.cast(t)
	good := s.Request(Now, c.good, c.target)
	var many []extproc.Header
	for i := range 1000 {
		many = append(many, extproc.Header{Name: fmt.Sprintf("x-amz-meta-%d", i), Value: "v"})
	}
	for _, path := range []string{"", "*", "?", "x", "//", "/%", "/%2", "/%zz", "/\x00", "/a b", "/..", "/../..", "/%2e%2e/" + c.target, "http://h/", "/#", "/\xff\xfe", "/" + strings.Repeat("a/", 20000)} {
		for _, method := range []string{"GET", "", "get", "PUT", "POST", "PATCH", "CONNECT", "OPTIONS", "TRACE", "\x00"} {
			lines := append([]extproc.Header{
				{Name: ":method", Value: method}, {Name: ":path", Value: path}, {Name: ":authority", Value: good.Authority}, {Name: ":scheme", Value: "http"},
			}, good.Headers()...)
			r := extproc.NewRequest(true, lines...)
			d, e := c.p.Decide(Now, r)
			c.checkRefusal(t, r, d, e)
		}
	}
	for _, value := range []string{"", " ", ",", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 ", "AWS4-HMAC-SHA256 Credential=", "AWS4-HMAC-SHA256 ,,,", "AWS", "AWS :", "Bearer", "Bearer ", "Bearer kb-", "Bearer kb--", "Bearer kb-" + c.good.ID, "Basic Og==", "\xff", strings.Repeat("a", 1<<16)} {
		r := extproc.NewRequest(true, append(pseudo(good), extproc.Header{Name: "authorization", Value: value})...)
		d, e := c.p.Decide(Now, r)
		c.checkRefusal(t, r, d, e)
		r = extproc.NewRequest(true, append(append(pseudo(good), many...), extproc.Header{Name: "authorization", Value: value})...)
		d, e = c.p.Decide(Now, r)
		c.checkRefusal(t, r, d, e)
	}
}

// concurrent decides while the index is swapped and the bridge sealed.
func (s *Suite) concurrent(t *testing.T) {
	c := s.cast(t)
	index := c.Live.Load()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 200 {
				r := s.Request(Now, c.good, c.target)
				d, e := c.p.Decide(Now, r)
				switch {
				case (d == nil) == (e == nil):
					t.Error("neither or both of decision and error")
				case e != nil && e.Status != 503:
					t.Errorf("round %d: %d %s", i, e.Status, e.Body)
				case d != nil && d.Cluster != "cluster-"+c.target:
					t.Errorf("goes to %s", d.Cluster)
				}
			}
		})
	}
	for range 200 {
		c.Live.Store(nil)
		c.Live.Store(index)
	}
	wg.Wait()
}

// bodies asks a protocol that reads bodies for its words about those that it did
// not read, and has it decide about one after the bridge was sealed.
func (s *Suite) bodies(t *testing.T) {
	c := s.cast(t)
	p, ok := c.p.(extproc.BodyDecider)
	if !ok {
		t.Skip("decides by the headers alone")
	}
	r := s.Request(Now, c.good, c.target)
	for want, e := range map[int]*extproc.Error{413: p.TooLarge(), 408: p.TooSlow()} {
		c.checkRefusal(t, r, nil, e)
		if e.Status != want && e.Status != 400 { // S3 has no 413 and no 408
			t.Errorf("status %d, want %d", e.Status, want)
		}
	}
	if _, e := p.Decide(Now, r); e != extproc.NeedBody {
		return
	}
	c.Live.Store(nil)
	d, e := p.DecideBody(Now, r, []byte("{}"), true)
	c.checkRefusal(t, r, d, e)
}

// pseudo are the pseudo-headers of a request.
func pseudo(r *extproc.Request) []extproc.Header {
	return []extproc.Header{
		{Name: ":method", Value: r.Method}, {Name: ":path", Value: r.Path},
		{Name: ":authority", Value: r.Authority}, {Name: ":scheme", Value: r.Scheme},
	}
}

// flip changes the last byte.
func flip(s string) string {
	if s == "" {
		return s
	}
	last := s[len(s)-1]
	if last == '0' {
		return s[:len(s)-1] + "1"
	}
	return s[:len(s)-1] + "0"
}
